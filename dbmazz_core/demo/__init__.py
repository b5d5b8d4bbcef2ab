"""The demo: a private PostgreSQL server with a workload, captured into DuckDB and compared with it."""
