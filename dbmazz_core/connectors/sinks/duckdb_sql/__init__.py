"""DuckDB's SQL for destinations that speak it: tables, rows, bookkeeping, and transactions."""
