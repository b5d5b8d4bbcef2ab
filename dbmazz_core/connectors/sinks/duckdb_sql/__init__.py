"""SQL of DuckDB that several destinations share: tables, rows, bookkeeping, and the transaction that carries them."""
