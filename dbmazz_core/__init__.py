"""PostgreSQL changes, exact and fast, into DuckDB."""
