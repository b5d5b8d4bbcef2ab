"""A Dagster project: the tables of a shop, captured from PostgreSQL into DuckDB, and marts computed from them."""
