"""Mode `soft_delete`: a row that is deleted in the source stays, marked; one that comes again is live again.

Under one key there is at most one live row, and it alone is found by a key: the replica identity may change, so that a
live row and a marked one share today's key.
"""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb.by_hand import Expected
from dbmazz_core.connectors.sinks.duckdb.shapes import LIVE, MARKS, SYNCED_AT
from dbmazz_core.connectors.sinks.duckdb.statements import Statements
from dbmazz_core.engine.effect import COMMIT_LSN, COMMIT_TS, COUNT, DELETED, XID, Move, PartialUpdate
from dbmazz_core.lsn import Lsn
from dbmazz_core.records import SourcePosition
from dbmazz_core.table_options import Mode
from dbmazz_core.tables import quote_identifier as quoted

_LIVE = LIVE[Mode.SOFT_DELETE]
_POSITION = (COMMIT_LSN, COMMIT_TS)
#: Columns of frames with new images: some may have gone again within the flush.
_FATE = (*_POSITION, DELETED)
_MARKS = ", ".join(name for name, _ in MARKS)


def _marks(deleted: str = f"s.{DELETED}", lsn: str = f"s.{COMMIT_LSN}", time: str = f"s.{COMMIT_TS}") -> str:
    """SET of an UPDATE."""
    # now() is when DuckDB's transaction began: one moment for all that it changes.
    return f"{DELETED} = {deleted}, {COMMIT_LSN} = {lsn}, {COMMIT_TS} = {time}, {SYNCED_AT} = now()"


_GONE = _marks("true")


class SoftDeleteApplier:
    """Implements `apply.RowApplier`: rows are marked where they would go.

    Args:
        statements: Of the table.
        expected: Whether rows have to be there, live.
        snapshot_lsn: What copied rows are marked with.
    """

    def __init__(self, statements: Statements, expected: Expected, snapshot_lsn: Lsn) -> None:
        self._do = statements
        self._expected = expected
        self._snapshot_lsn = snapshot_lsn

    def truncate(self, position: SourcePosition) -> None:
        """See `RowApplier`."""
        time = f"'{position.commit_time.isoformat()}'::TIMESTAMPTZ" if position.commit_time else "NULL"
        marks = _marks("true", str(int(position.commit_lsn)), time)
        self._do.run(f"UPDATE {self._do.table} t SET {marks} WHERE {_LIVE}")

    def fetch(self, move: Move, number: int) -> str:
        """See `RowApplier`."""
        return self._do.complete(move, number, where=_LIVE)

    def delete(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        source = do.source(do.key, *_POSITION)
        found = do.run(f"UPDATE {do.table} t SET {_GONE} FROM {source} WHERE {do.on_key} AND {_LIVE}", rows)
        self._expected.check(found, do, rows, do.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier`."""
        do = self._do
        set_ = ", ".join([*(f"{quoted(n)} = s.{quoted(n)}" for n in update.known), _marks()])
        source = do.source((*do.key, *update.known), *_FATE)
        do.replace_clinging(update, besides=[name for name, _ in MARKS], where=_LIVE)
        found = do.run(f"UPDATE {do.table} t SET {set_} FROM {source} WHERE {do.on_key} AND {_LIVE}", update.frame)
        if found != len(update.frame):
            raise do.unknown_value(
                do.first(
                    f"SELECT s.{COMMIT_LSN}, s.{XID} FROM {do.source(do.key, COMMIT_LSN, XID)} "
                    f"ANTI JOIN (FROM {do.table} t WHERE {_LIVE}) t ON {do.on_key} LIMIT 1",
                    update.frame,
                )
            )

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        found = do.run(
            f"UPDATE {do.table} t SET {_GONE} FROM ("
            f"SELECT t.rowid AS id, s.*, row_number() OVER (PARTITION BY s._dbmazz_row) AS found "
            f"FROM {do.table} t JOIN (SELECT *, row_number() OVER () AS _dbmazz_row "
            f"FROM {do.source(do.names, COUNT, *_POSITION)}) s ON {do.equal(do.names)} WHERE {_LIVE}) s "
            f"WHERE t.rowid = s.id AND s.found <= s.{COUNT}",
            rows,
        )
        self._expected.check(found, do, rows, do.names, times=COUNT)

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        set_ = ", ".join([*(f"{quoted(n)} = s.{quoted(n)}" for n in do.names if n not in do.key), _marks()])
        # In WHEN and not in ON: DuckDB 1.4 fails over a condition on `t` alone there (tried).
        what = f"WHEN MATCHED AND {_LIVE} THEN UPDATE SET {set_}"
        replaced = 0
        if clinging := do.clinging(rows, do.names):
            # Deleted, they are not matched and inserted.
            replaced = do.run(
                f"DELETE FROM {do.table} t USING {do.source(do.names)} WHERE {do.on_key} AND {_LIVE} AND ({clinging})",
                rows,
            )
        if replaced or not self._expected.complete:
            self._forget(do.source(do.key), rows)
            names, values = self._columns()
            what += f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
        found = do.run(
            f"MERGE INTO {do.table} t USING {do.source(do.names, *_FATE)} ON {do.on_key} {what}",
            rows,
        )
        self._expected.check(found, do, rows, do.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        self._forget(do.source(do.key), rows)
        names, values = self._columns()
        do.run(f"INSERT INTO {do.table} ({names}) SELECT {values} FROM {do.source(do.names, *_FATE)}", rows)

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier`."""
        self._forget(f"{name} s")
        names, values = self._columns()
        self._do.run(f"INSERT INTO {self._do.table} ({names}) SELECT {values} FROM {name} s")

    def copy(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        names, values = self._columns(f"false, {int(self._snapshot_lsn)}, NULL")
        do.run(f"INSERT INTO {do.table} ({names}) SELECT {values} FROM {do.source(do.names)}", rows)

    def _forget(self, source: str, rows: pl.DataFrame | None = None) -> None:
        """Drop marked rows whose keys come again: the rows that come take their place."""
        do = self._do
        if do.key:
            do.run(f"DELETE FROM {do.table} t USING {source} WHERE t.{DELETED} AND {do.on_key}", rows)

    def _columns(self, marks: str = f"s.{DELETED}, s.{COMMIT_LSN}, s.{COMMIT_TS}") -> tuple[str, str]:
        """All column names, and the values for them."""
        own = [quoted(n) for n in self._do.names]
        return ", ".join([*own, _MARKS]), ", ".join([*(f"s.{n}" for n in own), marks, "now()"])
