"""Mode `soft_delete`: a row that is deleted in the source stays, marked; one that comes again is live again.

Under one key there is at most one live row, and it alone is found by a key: the replica identity may change, so that a
live row and a marked one share today's key.
"""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.drift import Expected
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import LIVE, MARKS, SYNCED_AT
from dbmazz_core.connectors.sinks.duckdb_sql.sql import MADE, SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import GOES, Statements
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, COUNT, DELETED, XID, value_column
from dbmazz_core.model.net_effect import Move, PartialUpdate
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.records import SourcePosition

_LIVE = LIVE[Mode.SOFT_DELETE]
_POSITION = (COMMIT_LSN, COMMIT_TS)
#: Columns of frames with new images: some may have gone again within the flush.
_FATE = (*_POSITION, DELETED)
_MARKS = tuple(name for name, _ in MARKS)


def _marks(
    deleted: str = f"{SOURCE}.{DELETED}", lsn: str = f"{SOURCE}.{COMMIT_LSN}", time: str = f"{SOURCE}.{COMMIT_TS}"
) -> str:
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
        self._do.run(f"UPDATE {self._do.target} SET {marks} WHERE {_LIVE}")

    def fetch(self, move: Move, number: int) -> str:
        """See `RowApplier`."""
        return self._do.complete(move, number, where=_LIVE)

    def delete(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        source = do.source(do.key, *_POSITION)
        found = do.run(f"UPDATE {do.target} SET {_GONE} FROM {source} WHERE {do.on_key} AND {_LIVE}", rows)
        self._expected.check(found, do, rows, do.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier`."""
        do = self._do
        set_ = ", ".join([*do.assignments(update.known), _marks()])
        source = do.source((*do.key, *update.known), *_FATE)
        do.replace_indistinct(update, besides=_MARKS, where=_LIVE)
        found = do.run(f"UPDATE {do.target} SET {set_} FROM {source} WHERE {do.on_key} AND {_LIVE}", update.frame)
        if found != len(update.frame):
            raise do.unknown_value(
                do.first(
                    f"SELECT {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID} FROM {do.source(do.key, COMMIT_LSN, XID)} "
                    f"ANTI JOIN (FROM {do.target} WHERE {_LIVE}) AS {TARGET} ON {do.on_key} LIMIT 1",
                    update.frame,
                )
            )

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        if do.row_id is not None:
            position = ", ".join(f"{SOURCE}.{name} AS {name}" for name in _POSITION)
            matches = do.matches(f"{do.row_id} AS _dbmazz_id, {position}", *_POSITION, where=_LIVE)
            found = do.run(
                f"UPDATE {do.target} SET {_GONE} FROM ({matches}) AS {SOURCE} "
                f"WHERE {do.row_id} = {SOURCE}._dbmazz_id AND {SOURCE}.{GOES}",
                rows,
            )
        else:
            found = self._replace_equal(rows)
        self._expected.check(found, do, rows, do.places, times=COUNT)

    def _replace_equal(self, rows: pl.DataFrame) -> int:
        """The same without DuckDB's row id: all equal rows are inserted again, with the marks that they had or get."""
        do = self._do
        name, found = do.take_equal(rows, *_POSITION, besides=_MARKS, where=_LIVE)
        had = [f"{MADE}.{value_column(len(do.places) + number)}" for number in range(len(_MARKS))]
        get = ["true", *(f"{MADE}.{position}" for position in _POSITION), "now()"]
        marks = [f"CASE WHEN {MADE}.{GOES} THEN {new} ELSE {old} END" for new, old in zip(get, had, strict=True)]
        values = [*(f"{MADE}.{value_column(place)}" for place in do.places), *marks]
        columns = ", ".join([do.names(), *_MARKS])
        do.run(f"INSERT INTO {do.table} ({columns}) SELECT {', '.join(values)} FROM {name} AS {MADE}")
        do.run(f"DROP TABLE {name}")
        return found

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        set_ = ", ".join([*do.assignments(place for place in do.places if place not in do.key), _marks()])
        # In WHEN and not in ON: DuckDB 1.4 fails over a condition on the table alone there (tried).
        what = f"WHEN MATCHED AND {_LIVE} THEN UPDATE SET {set_}"
        replaced = 0
        if indistinct := do.indistinct(rows, do.places):
            # Deleted, they are not matched and inserted.
            replaced = do.run(
                f"DELETE FROM {do.target} USING {do.source(do.places)} "
                f"WHERE {do.on_key} AND {_LIVE} AND ({indistinct})",
                rows,
            )
        if replaced or not self._expected.complete:
            self._forget(do.source(do.key), rows)
            names, values = self._columns()
            what += f" WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({values})"
        found = do.run(f"MERGE INTO {do.target} USING {do.source(do.places, *_FATE)} ON {do.on_key} {what}", rows)
        self._expected.check(found, do, rows, do.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        self._forget(do.source(do.key), rows)
        names, values = self._columns()
        do.run(f"INSERT INTO {do.table} ({names}) SELECT {values} FROM {do.source(do.places, *_FATE)}", rows)

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier`."""
        self._forget(f"{name} AS {SOURCE}")
        names, values = self._columns()
        self._do.run(f"INSERT INTO {self._do.table} ({names}) SELECT {values} FROM {name} AS {SOURCE}")

    def copy(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        names, values = self._columns(f"false, {int(self._snapshot_lsn)}, NULL")
        do.run(f"INSERT INTO {do.table} ({names}) SELECT {values} FROM {do.source(do.places)}", rows)

    def _forget(self, source: str, rows: pl.DataFrame | None = None) -> None:
        """Drop marked rows whose keys come again: the rows that come take their place."""
        do = self._do
        if do.key:
            do.run(f"DELETE FROM {do.target} USING {source} WHERE {TARGET}.{DELETED} AND {do.on_key}", rows)

    def _columns(
        self, marks: str = f"{SOURCE}.{DELETED}, {SOURCE}.{COMMIT_LSN}, {SOURCE}.{COMMIT_TS}"
    ) -> tuple[str, str]:
        """All column names, and the values for them."""
        return ", ".join([self._do.names(), *_MARKS]), f"{self._do.values()}, {marks}, now()"
