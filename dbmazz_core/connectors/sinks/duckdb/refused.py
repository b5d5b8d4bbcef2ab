"""What DuckDB cannot hold, asked before it is written: for tables whose bad rows go to quarantine."""

from __future__ import annotations

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb.names import qualified
from dbmazz_core.connectors.sinks.duckdb.values import arrow_table, expression, needs_cast
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import quote_identifier as quoted

_ROW, _COLUMN = "_dbmazz_row", "_dbmazz_column"


def refused(connection: duckdb.DuckDBPyConnection, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """See `Sink.refused`."""
    types = {column.name: column.type for column in schema.columns}
    asked = [name for name in frame.columns if needs_cast(types[name])]
    if not asked or not len(frame):
        return pl.DataFrame(schema={"row": pl.Int64, "column": pl.Int64})
    flags = " ".join(
        f"WHEN {quoted(name)} IS NOT NULL AND TRY({expression(name, types[name], source='f')}) IS NULL "
        f"THEN {frame.columns.index(name)}"
        for name in asked
    )
    return _select(
        connection,
        f"SELECT {_ROW} AS row, {_COLUMN} AS column FROM "
        f"(SELECT f.{_ROW}, CAST(CASE {flags} END AS BIGINT) AS {_COLUMN} FROM found f) WHERE {_COLUMN} IS NOT NULL "
        f"ORDER BY 1",
        schema,
        frame.select(asked).with_row_index(_ROW),
    ).cast(pl.Int64)


def missing(connection: duckdb.DuckDBPyConnection, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
    """See `Sink.missing`."""
    types = {column.name: column.type for column in schema.columns}
    on_key = " AND ".join(f"t.{quoted(n)} = {expression(n, types[n], source='f')}" for n in schema.key)
    found = _select(
        connection,
        f"SELECT f.{_ROW} AS row FROM found f ANTI JOIN {qualified(connection, schema.table)} t ON {on_key} ORDER BY 1",
        schema,
        keys.select(schema.key).with_row_index(_ROW),
    )
    return found["row"].cast(pl.Int64)


def _select(connection: duckdb.DuckDBPyConnection, sql: str, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    found = arrow_table(schema, frame)  # noqa: F841 - DuckDB finds it
    answer = pl.from_arrow(connection.sql(sql).to_arrow_table())
    assert isinstance(answer, pl.DataFrame)
    return answer
