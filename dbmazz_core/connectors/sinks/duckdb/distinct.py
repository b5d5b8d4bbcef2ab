"""Which texts a column holds besides the ones that are known."""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from dbmazz_core.connectors.sinks.duckdb.names import qualified
from dbmazz_core.connectors.sinks.duckdb.shapes import LIVE
from dbmazz_core.engine.changelog import OLD
from dbmazz_core.engine.effect import COMMIT_LSN
from dbmazz_core.engine.result import TableState
from dbmazz_core.schema import TableSchema
from dbmazz_core.table_options import Mode
from dbmazz_core.tables import quote_identifier as quoted


def other_values(
    connection: duckdb.DuckDBPyConnection, schema: TableSchema, column: str, known: Collection[str], state: TableState
) -> Collection[str]:
    """See `Sink.other_values`."""
    (type,) = (c.type for c in schema.columns if c.name == column)
    names, where = [column], LIVE[state.mode]
    if state.mode is Mode.CHANGELOG:
        names, where = [column, OLD + column], f"t.{COMMIT_LSN} >= {int(state.snapshot_lsn or 0)}"
    table, parts = qualified(connection, schema.table), []
    for name in names:
        value = quoted(name)
        for _ in range(max(type.depth - 1, 0)):
            value = f"flatten({value})"
        parts.append(f"SELECT {f'unnest({value})' if type.depth else value} AS c0 FROM {table} t WHERE {where}")
    rows = connection.execute(
        f"SELECT DISTINCT c0 FROM ({' UNION ALL '.join(parts)}) "
        "WHERE c0 IS NOT NULL AND NOT list_contains(?::VARCHAR[], c0)",
        [list(known)],
    ).fetchall()
    return {str(text) for (text,) in rows}
