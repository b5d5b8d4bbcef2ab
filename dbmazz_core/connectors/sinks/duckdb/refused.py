"""What DuckDB cannot hold, asked before it is written: for tables whose bad rows go to quarantine."""

from __future__ import annotations

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb.names import qualified
from dbmazz_core.connectors.sinks.duckdb.shapes import LIVE
from dbmazz_core.connectors.sinks.duckdb.values import arrow_table, expression, needs_cast
from dbmazz_core.engine.changelog import KNOWN_OLD, OLD, OP, ORDINAL
from dbmazz_core.engine.effect import COMMIT_LSN
from dbmazz_core.engine.result import TableState
from dbmazz_core.schema import TableSchema
from dbmazz_core.table_options import Mode
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
        frame[asked].with_row_index(_ROW),
    )


def missing(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, keys: pl.DataFrame, state: TableState
) -> pl.Series:
    """See `Sink.missing`."""
    types = {column.name: column.type for column in schema.columns}
    table, names = schema.table, [quoted(name) for name in schema.key]
    asked = ", ".join(f"{expression(n, types[n], source='f')} AS {quoted(n)}" for n in schema.key)
    on_key = " AND ".join(f"t.{name} = a.{name}" for name in names)
    if state.mode is Mode.CHANGELOG:
        if state.complete:
            return pl.Series(dtype=pl.Int64)
        join = f"SEMI JOIN ({_emptied(schema, qualified(connection, table), on_key)}) t"
    else:
        join = f"ANTI JOIN (FROM {qualified(connection, table)} t WHERE {LIVE[state.mode]}) t"
    found = _select(
        connection,
        f"WITH asked AS (SELECT f.{_ROW}, {asked} FROM found f) "
        f"SELECT a.{_ROW} AS row, 0 AS column FROM asked a {join} ON {on_key} ORDER BY 1",
        schema,
        keys[list(schema.key)].with_row_index(_ROW),
    )
    return found["row"]


def _emptied(schema: TableSchema, table: str, on_key: str) -> str:
    """The query for those of the keys in `asked` that the last change in a changelog has emptied.

    A change empties the key that it found, then fills its own; a TRUNCATE empties all.
    """
    key = ", ".join(quoted(name) for name in schema.key)
    old = ", ".join(f"{quoted(OLD + name)} AS {quoted(name)}" for name in schema.key)
    at = f"{COMMIT_LSN}::HUGEINT * 1099511627776 + 2 * coalesce({ORDINAL}, 0)"
    return (
        f"SELECT {key} FROM (SELECT {key}, {at} + 1 AS place, false AS empties FROM {table} "
        f"WHERE {OP} NOT IN ('delete', 'truncate') "
        f"UNION ALL SELECT {old}, {at}, true FROM {table} WHERE len({KNOWN_OLD}) > 0) t "
        f"SEMI JOIN asked a ON {on_key} GROUP BY ALL HAVING arg_max(empties, place) "
        f"OR max(place) < coalesce((SELECT max({at}) FROM {table} WHERE {OP} = 'truncate'), 0)"
    )


def _select(connection: duckdb.DuckDBPyConnection, sql: str, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    found = arrow_table(schema, frame)  # noqa: F841 - DuckDB finds it
    # Read to the end: a result that is not blocks its connection (DuckDB 2.0).
    answer = connection.execute(sql).fetchnumpy()
    return pl.DataFrame({name: pl.Series(answer[name], dtype=pl.Int64) for name in ("row", "column")})
