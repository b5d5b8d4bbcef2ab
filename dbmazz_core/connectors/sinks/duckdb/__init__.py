"""A DuckDB file as the destination."""

from dbmazz_core.connectors.sinks.duckdb.sink import DuckDBSink

__all__ = ["DuckDBSink"]
