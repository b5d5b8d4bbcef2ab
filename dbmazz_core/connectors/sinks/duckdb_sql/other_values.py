"""Find texts in a column that are not among known texts, such as labels of an enum."""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import LIVE
from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, TARGET, query
from dbmazz_core.model.frame_columns import COMMIT_LSN, OLD, value_column
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import quote_identifier as quoted


def other_values(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, column: str, known: Collection[str], state: TableState
) -> Collection[str]:
    """See `Sink.other_values`."""
    (type,) = (c.type for c in schema.columns if c.name == column)
    names, where = [column], LIVE[state.mode]
    if state.mode is Mode.CHANGELOG:
        names, where = [column, OLD + column], f"{TARGET}.{COMMIT_LSN} >= {int(state.snapshot_lsn or 0)}"
    table, parts = qualified(connection, schema.table), []
    for name in names:
        value = f"{TARGET}.{quoted(name)}"
        for _ in range(max(type.depth - 1, 0)):
            value = f"flatten({value})"
        value = f"unnest({value})" if type.depth else value
        parts.append(f"SELECT {value} AS {value_column(0)} FROM {table} AS {TARGET} WHERE {where}")
    held = f"{DERIVED}.{value_column(0)}"
    rows = query(
        connection,
        f"SELECT DISTINCT {held} FROM ({' UNION ALL '.join(parts)}) AS {DERIVED} "
        f"WHERE {held} IS NOT NULL AND NOT list_contains(?::VARCHAR[], {held})",
        parameters=[list(known)],
    )
    return {str(text) for (text,) in rows}
