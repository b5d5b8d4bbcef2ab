"""Mode `soft_delete`: dbmazz marks rows as deleted instead of deleting them.

A table holds at most one live row (a row that is not marked as deleted) per key. Statements find only live rows by key:
the replica identity can change, and then a live row and a marked row can have equal keys. A row that is inserted again
replaces the marked row with its key.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.equal_rows import IS_REMOVED, move_equal_rows, select_equal_rows
from dbmazz_core.connectors.sinks.duckdb_sql.indistinct_updates import is_indistinct, replace_indistinct
from dbmazz_core.connectors.sinks.duckdb_sql.replacement import replace_rows
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import LIVE, MARKS, SYNCED_AT
from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.unknown_values import fetch_unknown_values, unknown_value
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, COUNT, DELETED, XID, value_column
from dbmazz_core.model.net_effect import Move, PartialUpdate
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.records import SourcePosition

_LIVE = LIVE[Mode.SOFT_DELETE]
#: Columns of frames with deleted rows.
_POSITION = (COMMIT_LSN, COMMIT_TS)
#: Columns of frames with new row images: a row can be inserted and deleted within a flush.
_FRAME_MARKS = (*_POSITION, DELETED)
_MARKS = tuple(name for name, _ in MARKS)


def _set_marks(
    deleted: str = f"{SOURCE}.{DELETED}", lsn: str = f"{SOURCE}.{COMMIT_LSN}", time: str = f"{SOURCE}.{COMMIT_TS}"
) -> str:
    """Return the assignments of an UPDATE that set the marks."""
    # now() is the start of DuckDB's transaction: the same time for all rows that it changes.
    return f"{DELETED} = {deleted}, {COMMIT_LSN} = {lsn}, {COMMIT_TS} = {time}, {SYNCED_AT} = now()"


_SET_DELETED = _set_marks("true")
#: The marks of rows that are replaced instead of updated.
_NEW_MARKS = {**{name: f"{SOURCE}.{name}" for name in _FRAME_MARKS}, SYNCED_AT: "now()"}
_DELETED_MARKS = {**_NEW_MARKS, DELETED: "true"}


class SoftDeleteApplier:
    """Implements `apply.RowApplier` for mode `soft_delete`.

    Args:
        statements: The table.
        drift: Compares row counts with expected counts of live rows.
        snapshot_lsn: Commit LSN in the marks of a snapshot's rows.

    Attributes:
        replaces: Whether rows are deleted and inserted again instead of updated (module `memory`).
    """

    def __init__(self, statements: Statements, drift: DriftCheck, snapshot_lsn: Lsn) -> None:
        self._statements = statements
        self._sql = statements.sql
        self._drift = drift
        self._snapshot_lsn = snapshot_lsn
        self.replaces = False

    def truncate(self, position: SourcePosition) -> None:
        """See `RowApplier.truncate`."""
        time = f"'{position.commit_time.isoformat()}'::TIMESTAMPTZ" if position.commit_time else "NULL"
        marks = _set_marks("true", str(int(position.commit_lsn)), time)
        self._statements.run(f"UPDATE {self._sql.target} SET {marks} WHERE {_LIVE}")

    def fetch_unknown(self, move: Move, number: int) -> str:
        """See `RowApplier.fetch_unknown`."""
        return fetch_unknown_values(self._statements, move, number, where=_LIVE)

    def delete(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.delete`."""
        sql = self._sql
        source = sql.source(sql.key, *_POSITION)
        if self.replaces:
            found = self._replace(PartialUpdate(rows, ()), _POSITION, _DELETED_MARKS)
        else:
            found = self._statements.run(
                f"UPDATE {sql.target} SET {_SET_DELETED} FROM {source} WHERE {sql.on_key} AND {_LIVE}", rows
            )
        self._drift.verify(found, self._statements, rows, sql.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier.update`."""
        sql = self._sql
        assignments = ", ".join([*sql.assignments(update.known), _set_marks()])
        source = sql.source((*sql.key, *update.known), *_FRAME_MARKS)
        if self.replaces:
            found = self._replace(update, _FRAME_MARKS, _NEW_MARKS)
        else:
            replace_indistinct(self._statements, update, marks=_MARKS, where=_LIVE)
            found = self._statements.run(
                f"UPDATE {sql.target} SET {assignments} FROM {source} WHERE {sql.on_key} AND {_LIVE}", update.frame
            )
        if found != len(update.frame):
            at = self._statements.first_row(
                f"SELECT {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID} FROM {sql.source(sql.key, COMMIT_LSN, XID)} "
                f"ANTI JOIN (FROM {sql.target} WHERE {_LIVE}) AS {TARGET} ON {sql.on_key} LIMIT 1",
                update.frame,
            )
            raise unknown_value(sql.schema.table, at)

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.remove`."""
        sql = self._sql
        if sql.row_id is not None and not self.replaces:
            position = ", ".join(f"{SOURCE}.{name} AS {name}" for name in _POSITION)
            equal_rows = select_equal_rows(sql, f"{sql.row_id} AS _dbmazz_id, {position}", *_POSITION, where=_LIVE)
            found = self._statements.run(
                f"UPDATE {sql.target} SET {_SET_DELETED} FROM ({equal_rows}) AS {SOURCE} "
                f"WHERE {sql.row_id} = {SOURCE}._dbmazz_id AND {SOURCE}.{IS_REMOVED}",
                rows,
            )
        else:
            found = self._remove_without_row_id(rows)
        self._drift.verify(found, self._statements, rows, sql.places, count_column=COUNT)

    def _remove_without_row_id(self, rows: pl.DataFrame) -> int:
        """Mark as many of equal rows as `COUNT` says: delete all equal rows and insert them again with their marks."""
        sql = self._sql
        name, found = move_equal_rows(self._statements, rows, *_POSITION, marks=_MARKS, where=_LIVE)
        old_marks = [f"{DERIVED}.{value_column(len(sql.places) + number)}" for number in range(len(_MARKS))]
        new_marks = ["true", *(f"{DERIVED}.{position}" for position in _POSITION), "now()"]
        marks = [
            f"CASE WHEN {DERIVED}.{IS_REMOVED} THEN {new} ELSE {old} END"
            for new, old in zip(new_marks, old_marks, strict=True)
        ]
        values = [*(f"{DERIVED}.{value_column(place)}" for place in sql.places), *marks]
        columns = ", ".join([sql.names(), *_MARKS])
        self._statements.run(f"INSERT INTO {sql.table} ({columns}) SELECT {', '.join(values)} FROM {name} AS {DERIVED}")
        self._statements.run(f"DROP TABLE {name}")
        return found

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.upsert`."""
        sql = self._sql
        if self.replaces:
            found = self._statements.run(
                f"DELETE FROM {sql.target} USING {sql.source(sql.key)} WHERE {sql.on_key} AND {_LIVE}", rows
            )
            self._drift.verify(found, self._statements, rows, sql.key)
            self._insert(rows, replace_marked=not self._drift.complete)
            return
        assignments = [*sql.assignments(place for place in sql.places if place not in sql.key), _set_marks()]
        # In WHEN, not in ON: there DuckDB 1.4 fails for a condition on the table alone (tried).
        actions = f"WHEN MATCHED AND {_LIVE} THEN UPDATE SET {', '.join(assignments)}"
        replaced = 0
        if indistinct := is_indistinct(sql, rows, sql.places):
            # MERGE inserts the rows that this deletes.
            replaced = self._statements.run(
                f"DELETE FROM {sql.target} USING {sql.source(sql.places)} "
                f"WHERE {sql.on_key} AND {_LIVE} AND ({indistinct})",
                rows,
            )
        if replaced or not self._drift.complete:
            self._delete_marked(sql.source(sql.key), rows)
            names, values = self._names_and_values()
            actions += f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
        source = sql.source(sql.places, *_FRAME_MARKS)
        found = self._statements.run(f"MERGE INTO {sql.target} USING {source} ON {sql.on_key} {actions}", rows)
        self._drift.verify(found, self._statements, rows, sql.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.insert`."""
        self._insert(rows, replace_marked=True)

    def _insert(self, rows: pl.DataFrame, *, replace_marked: bool) -> None:
        sql = self._sql
        if replace_marked:
            self._delete_marked(sql.source(sql.key), rows)
        names, values = self._names_and_values()
        source = sql.source(sql.places, *_FRAME_MARKS)
        self._statements.run(f"INSERT INTO {sql.table} ({names}) SELECT {values} FROM {source}", rows)

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier.insert_fetched`."""
        self._delete_marked(f"{name} AS {SOURCE}")
        names, values = self._names_and_values()
        self._statements.run(f"INSERT INTO {self._sql.table} ({names}) SELECT {values} FROM {name} AS {SOURCE}")

    def insert_snapshot(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.insert_snapshot`."""
        sql = self._sql
        names, values = self._names_and_values(f"false, {int(self._snapshot_lsn)}, NULL")
        self._statements.run(f"INSERT INTO {sql.table} ({names}) SELECT {values} FROM {sql.source(sql.places)}", rows)

    def _replace(self, update: PartialUpdate, others: tuple[str, ...], marks: Mapping[str, str]) -> int:
        return replace_rows(self._statements, update, others=others, marks=marks, where=_LIVE)

    def _delete_marked(self, source: str, rows: pl.DataFrame | None = None) -> None:
        """Delete marked rows with the keys of rows that are about to be inserted."""
        sql = self._sql
        if sql.key:
            self._statements.run(
                f"DELETE FROM {sql.target} USING {source} WHERE {TARGET}.{DELETED} AND {sql.on_key}", rows
            )

    def _names_and_values(
        self, marks: str = f"{SOURCE}.{DELETED}, {SOURCE}.{COMMIT_LSN}, {SOURCE}.{COMMIT_TS}"
    ) -> tuple[str, str]:
        """Return the list of all columns for INSERT, and the frame's values for them."""
        return ", ".join([self._sql.names(), *_MARKS]), f"{self._sql.values()}, {marks}, now()"
