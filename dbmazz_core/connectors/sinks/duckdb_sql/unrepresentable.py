"""What DuckDB cannot hold, asked before it is written: for tables whose bad rows go to quarantine."""

from __future__ import annotations

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.shapes import LIVE
from dbmazz_core.connectors.sinks.duckdb_sql.sql import FRAME, MADE, RAW, ROW, SOURCE, TARGET, query_columns
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements, sent
from dbmazz_core.connectors.sinks.duckdb_sql.values import arrow_table, expression, needs_cast
from dbmazz_core.model.frame_columns import COMMIT_LSN, KNOWN_OLD, OLD, OP, ORDINAL, value_column
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import quote_identifier as quoted

_COLUMN, _PLACE, _EMPTIES = "_dbmazz_column", "_dbmazz_place", "_dbmazz_empties"


def unrepresentable(connection: duckdb.DuckDBPyConnection, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """See `SinkTransaction.unrepresentable`."""
    types = {value_column(place): column.type for place, column in enumerate(schema.columns)}
    asked = [name for name in frame.columns if needs_cast(types[name])]
    if not asked or not len(frame):
        return pl.DataFrame(schema={"row": pl.Int64, "column": pl.Int64})
    flags = " ".join(
        f"WHEN {RAW}.{name} IS NOT NULL AND TRY({expression(f'{RAW}.{name}', types[name])}) IS NULL "
        f"THEN {frame.columns.index(name)}"
        for name in asked
    )
    answer = query_columns(
        connection,
        f"SELECT {MADE}.{ROW} AS {ROW}, {MADE}.{_COLUMN} AS {_COLUMN} FROM "
        f"(SELECT {RAW}.{ROW} AS {ROW}, CAST(CASE {flags} END AS BIGINT) AS {_COLUMN} FROM {FRAME} AS {RAW}) AS {MADE} "
        f"WHERE {MADE}.{_COLUMN} IS NOT NULL ORDER BY {MADE}.{ROW}",
        arrow_table(schema, frame[asked].with_row_index(ROW)),
    )
    found = {"row": answer[ROW], "column": answer[_COLUMN]}
    return pl.DataFrame({name: pl.Series(values, dtype=pl.Int64) for name, values in found.items()})


def missing(connection: duckdb.DuckDBPyConnection, do: Statements, keys: pl.DataFrame, state: TableState) -> pl.Series:
    """See `SinkTransaction.missing`."""
    if state.mode is Mode.CHANGELOG:
        if state.complete:
            return pl.Series(dtype=pl.Int64)
        same = " AND ".join(f"{sent(place)} = {MADE}.{value_column(place)}" for place in do.key)
        join = f"SEMI JOIN ({_emptied(do)}) AS {MADE} ON {same}"
    else:
        join = f"ANTI JOIN (FROM {do.target} WHERE {LIVE[state.mode]}) AS {TARGET} ON {do.on_key}"
    answer = query_columns(
        connection,
        f"WITH {SOURCE} AS (FROM {do.source(do.key, ROW)}) "
        f"SELECT {SOURCE}.{ROW} AS {ROW} FROM {SOURCE} {join} ORDER BY {SOURCE}.{ROW}",
        arrow_table(do.schema, keys[[value_column(place) for place in do.key]].with_row_index(ROW)),
    )
    return pl.Series(answer[ROW], dtype=pl.Int64)


def _emptied(do: Statements) -> str:
    """The query for those of the keys in `SOURCE` that the last change in a changelog has emptied.

    A change empties the key that it found, then fills its own; a TRUNCATE empties all.
    """
    at = f"{TARGET}.{COMMIT_LSN}::HUGEINT * 1099511627776 + 2 * coalesce({TARGET}.{ORDINAL}, 0)"
    new = ", ".join(f"{do.stored(place)} AS {value_column(place)}" for place in do.key)
    old = ", ".join(f"{TARGET}.{quoted(OLD + do.schema.names[place])} AS {value_column(place)}" for place in do.key)
    key = ", ".join(f"{MADE}.{value_column(place)}" for place in do.key)
    same = " AND ".join(f"{MADE}.{value_column(place)} = {sent(place)}" for place in do.key)
    return (
        f"SELECT {key} FROM (SELECT {new}, {at} + 1 AS {_PLACE}, false AS {_EMPTIES} FROM {do.target} "
        f"WHERE {TARGET}.{OP} NOT IN ('delete', 'truncate') "
        f"UNION ALL SELECT {old}, {at}, true FROM {do.target} WHERE len({TARGET}.{KNOWN_OLD}) > 0) AS {MADE} "
        f"SEMI JOIN {SOURCE} ON {same} GROUP BY {key} HAVING arg_max({MADE}.{_EMPTIES}, {MADE}.{_PLACE}) "
        f"OR max({MADE}.{_PLACE}) < coalesce((SELECT max({at}) FROM {do.target} WHERE {TARGET}.{OP} = 'truncate'), 0)"
    )
