"""Mode `changelog`: dbmazz appends every change and never modifies one, except for schema changes (module `alter`)."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.shapes import CHANGE, SYNCED_AT
from dbmazz_core.connectors.sinks.duckdb_sql.sql import CARRIER, FRAME
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, KNOWN_OLD, OLD, OP, ORDINAL, UNCHANGED, old_column, value_column
from dbmazz_core.table_ref import quote_identifier as quoted

#: Ordinals of a re-snapshot's TRUNCATE and of a snapshot's rows. Both sort before the changes of a transaction that
#: committed at the snapshot's LSN, which count from 1. Rows of a snapshot share one ordinal, since they have no order.
_TRUNCATE_ORDINAL, _SNAPSHOT_ORDINAL = -1, 0


class ChangelogApplier:
    """Appends changes, and the rows of a snapshot, to a changelog.

    Args:
        statements: The table.
        snapshot_lsn: Position of the snapshot's rows.
    """

    def __init__(self, statements: Statements, snapshot_lsn: Lsn) -> None:
        self._statements = statements
        self._snapshot_lsn = snapshot_lsn

    def append(self, changes: pl.DataFrame) -> None:
        """Append changes, as `dbmazz_core.engine.changelog` makes them.

        Raises:
            BadValue: If DuckDB's type cannot hold a value.
            DestinationError: If DuckDB fails.
        """
        sql = self._statements.sql
        names = [name for name, _ in CHANGE if name != SYNCED_AT]
        columns = [*names, SYNCED_AT, sql.names(), *(quoted(OLD + name) for name in sql.schema.names)]
        values = [*(f"{CARRIER}.{name}" for name in names), "now()"]
        values += [sql.cast(name(place), place) for name in (value_column, old_column) for place in sql.places]
        self._statements.run(
            f"INSERT INTO {sql.table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM {FRAME} AS {CARRIER}",
            changes,
        )

    def insert_snapshot(self, rows: pl.DataFrame) -> None:
        """Append rows of a snapshot; see `RowApplier`."""
        sql = self._statements.sql
        self._insert("snapshot", _SNAPSHOT_ORDINAL, f"FROM {sql.source(sql.places)}", rows)

    def append_truncate(self) -> None:
        """Append a TRUNCATE, before a re-snapshot."""
        self._insert("truncate", _TRUNCATE_ORDINAL, "", None)

    def _insert(self, op: str, ordinal: int, source: str, rows: pl.DataFrame | None) -> None:
        sql = self._statements.sql
        columns = [OP, COMMIT_LSN, ORDINAL, SYNCED_AT, UNCHANGED, KNOWN_OLD]
        values = [f"'{op}'", str(int(self._snapshot_lsn)), str(ordinal), "now()", "[]", "[]"]
        if rows is not None:
            columns.append(sql.names())
            values.append(sql.values())
        self._statements.run(
            f"INSERT INTO {sql.table} ({', '.join(columns)}) SELECT {', '.join(values)} {source}", rows
        )
