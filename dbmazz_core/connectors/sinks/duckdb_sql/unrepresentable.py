"""Find rows that DuckDB cannot hold before they are written.

Tables with `ON_BAD_VALUE=quarantine` need this: it separates rows with unrepresentable values, and updates whose row is
in quarantine.
"""

from __future__ import annotations

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.shapes import LIVE
from dbmazz_core.connectors.sinks.duckdb_sql.sql import CARRIER, DERIVED, FRAME, ROW, SOURCE, TARGET, query_columns
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import TableSql, frame_value
from dbmazz_core.connectors.sinks.duckdb_sql.values import arrow_table, cast_expression, needs_cast
from dbmazz_core.model.frame_columns import COMMIT_LSN, KNOWN_OLD, OLD, OP, ORDINAL, value_column
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import quote_identifier as quoted

_COLUMN, _POSITION, _IS_DELETE = "_dbmazz_column", "_dbmazz_place", "_dbmazz_empties"


def unrepresentable(connection: duckdb.DuckDBPyConnection, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
    """See `SinkTransaction.unrepresentable`."""
    types = {value_column(place): column.type for place, column in enumerate(schema.columns)}
    cast = [name for name in frame.columns if needs_cast(types[name])]
    if not cast or not len(frame):
        return pl.DataFrame(schema={"row": pl.Int64, "column": pl.Int64})
    cases = " ".join(
        f"WHEN {CARRIER}.{name} IS NOT NULL AND TRY({cast_expression(f'{CARRIER}.{name}', types[name])}) IS NULL "
        f"THEN {frame.columns.index(name)}"
        for name in cast
    )
    found = query_columns(
        connection,
        f"SELECT {DERIVED}.{ROW} AS {ROW}, {DERIVED}.{_COLUMN} AS {_COLUMN} FROM "
        f"(SELECT {CARRIER}.{ROW} AS {ROW}, CAST(CASE {cases} END AS BIGINT) AS {_COLUMN} "
        f"FROM {FRAME} AS {CARRIER}) AS {DERIVED} WHERE {DERIVED}.{_COLUMN} IS NOT NULL ORDER BY {DERIVED}.{ROW}",
        arrow_table(schema, frame[cast].with_row_index(ROW)),
    )
    columns = {"row": found[ROW], "column": found[_COLUMN]}
    return pl.DataFrame({name: pl.Series(values, dtype=pl.Int64) for name, values in columns.items()})


def missing(connection: duckdb.DuckDBPyConnection, sql: TableSql, keys: pl.DataFrame, state: TableState) -> pl.Series:
    """See `SinkTransaction.missing`."""
    if state.mode is Mode.CHANGELOG:
        if state.complete:
            return pl.Series(dtype=pl.Int64)
        same = " AND ".join(f"{frame_value(place)} = {DERIVED}.{value_column(place)}" for place in sql.key)
        join = f"SEMI JOIN ({_deleted_keys(sql)}) AS {DERIVED} ON {same}"
    else:
        join = f"ANTI JOIN (FROM {sql.target} WHERE {LIVE[state.mode]}) AS {TARGET} ON {sql.on_key}"
    found = query_columns(
        connection,
        f"WITH {SOURCE} AS (FROM {sql.source(sql.key, ROW)}) "
        f"SELECT {SOURCE}.{ROW} AS {ROW} FROM {SOURCE} {join} ORDER BY {SOURCE}.{ROW}",
        arrow_table(sql.schema, keys[[value_column(place) for place in sql.key]].with_row_index(ROW)),
    )
    return pl.Series(found[ROW], dtype=pl.Int64)


def _deleted_keys(sql: TableSql) -> str:
    """Return a query for the keys in `SOURCE` under which a changelog's last change left no row.

    A change first deletes the row under its old key, then writes the row under its new key. A TRUNCATE deletes the rows
    under all keys. The position of a change orders these effects; it holds commit LSN and ordinal in one number.
    """
    at = f"{TARGET}.{COMMIT_LSN}::HUGEINT * 1099511627776 + 2 * coalesce({TARGET}.{ORDINAL}, 0)"
    new = ", ".join(f"{sql.table_value(place)} AS {value_column(place)}" for place in sql.key)
    old = ", ".join(f"{TARGET}.{quoted(OLD + sql.schema.names[place])} AS {value_column(place)}" for place in sql.key)
    key = ", ".join(f"{DERIVED}.{value_column(place)}" for place in sql.key)
    same = " AND ".join(f"{DERIVED}.{value_column(place)} = {frame_value(place)}" for place in sql.key)
    return (
        f"SELECT {key} FROM (SELECT {new}, {at} + 1 AS {_POSITION}, false AS {_IS_DELETE} FROM {sql.target} "
        f"WHERE {TARGET}.{OP} NOT IN ('delete', 'truncate') "
        f"UNION ALL SELECT {old}, {at}, true FROM {sql.target} WHERE len({TARGET}.{KNOWN_OLD}) > 0) AS {DERIVED} "
        f"SEMI JOIN {SOURCE} ON {same} GROUP BY {key} HAVING arg_max({DERIVED}.{_IS_DELETE}, {DERIVED}.{_POSITION}) "
        f"OR max({DERIVED}.{_POSITION}) < coalesce((SELECT max({at}) FROM {sql.target} "
        f"WHERE {TARGET}.{OP} = 'truncate'), 0)"
    )
