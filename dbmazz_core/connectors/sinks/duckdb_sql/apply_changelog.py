"""Mode `changelog`: every change is appended, and nothing is ever changed."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.shapes import CHANGE, SYNCED_AT
from dbmazz_core.connectors.sinks.duckdb_sql.sql import FRAME, RAW
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, KNOWN_OLD, OLD, OP, ORDINAL, UNCHANGED, old_column, value_column
from dbmazz_core.table_ref import quote_identifier as quoted

#: Places of a copy within its LSN: ahead of the changes of a transaction that was committed just there, which count
#: from 1. The copied rows have one place, for they have no order.
_EMPTIED, _COPIED = -1, 0


class ChangelogApplier:
    """Appends changes, and the rows of a copy.

    Args:
        statements: Of the table.
        snapshot_lsn: Position of copied rows.
    """

    def __init__(self, statements: Statements, snapshot_lsn: Lsn) -> None:
        self._do = statements
        self._snapshot_lsn = snapshot_lsn

    def append(self, changes: pl.DataFrame) -> None:
        """Append changes, as `dbmazz_core.engine.changelog` gives them."""
        do = self._do
        names = [name for name, _ in CHANGE if name != SYNCED_AT]
        columns = [*names, SYNCED_AT, do.names(), *(quoted(OLD + name) for name in do.schema.names)]
        values = [*(f"{RAW}.{name}" for name in names), "now()"]
        values += [do.in_type(name(place), place) for name in (value_column, old_column) for place in do.places]
        do.run(
            f"INSERT INTO {do.table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {FRAME} AS {RAW}", changes
        )

    def copy(self, rows: pl.DataFrame) -> None:
        """Append copied rows."""
        do = self._do
        self._insert("snapshot", _COPIED, f"FROM {do.source(do.places)}", rows)

    def empty(self) -> None:
        """Append that the table is empty, before it is copied anew."""
        self._insert("truncate", _EMPTIED, "", None)

    def _insert(self, op: str, ordinal: int, source: str, rows: pl.DataFrame | None) -> None:
        do = self._do
        columns = [OP, COMMIT_LSN, ORDINAL, SYNCED_AT, UNCHANGED, KNOWN_OLD]
        values = [f"'{op}'", str(int(self._snapshot_lsn)), str(ordinal), "now()", "[]", "[]"]
        if rows is not None:
            columns.append(do.names())
            values.append(do.values())
        do.run(f"INSERT INTO {do.table} ({', '.join(columns)}) SELECT {', '.join(values)} {source}", rows)
