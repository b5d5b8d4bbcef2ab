"""Mode `mirror`: the table holds the source's rows and nothing else."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb.by_hand import Expected
from dbmazz_core.connectors.sinks.duckdb.statements import Statements
from dbmazz_core.engine.effect import COMMIT_LSN, COUNT, XID, Move, PartialUpdate
from dbmazz_core.records import SourcePosition
from dbmazz_core.tables import quote_identifier as quoted


class MirrorApplier:
    """Implements `apply.RowApplier`: rows go and change as they do in the source.

    Args:
        statements: Of the table.
        expected: Whether rows have to be there.
    """

    def __init__(self, statements: Statements, expected: Expected) -> None:
        self._do = statements
        self._expected = expected

    def truncate(self, position: SourcePosition) -> None:
        """See `RowApplier`."""
        self._do.run(f"DELETE FROM {self._do.table}")

    def fetch(self, move: Move, number: int) -> str:
        """See `RowApplier`."""
        return self._do.complete(move, number)

    def delete(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        found = do.run(f"DELETE FROM {do.table} t USING {do.source(do.key)} WHERE {do.on_key}", rows)
        self._expected.check(found, do, rows, do.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier`."""
        do = self._do
        # With nothing to set, the key is set to itself: the count shows that the row is there.
        set_ = ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in update.known or do.key)
        source = do.source((*do.key, *update.known))
        do.replace_clinging(update)
        found = do.run(f"UPDATE {do.table} t SET {set_} FROM {source} WHERE {do.on_key}", update.frame)
        if found != len(update.frame):
            raise do.unknown_value(
                do.first(
                    f"SELECT s.{COMMIT_LSN}, s.{XID} FROM {do.source(do.key, COMMIT_LSN, XID)} "
                    f"ANTI JOIN {do.table} t ON {do.on_key} LIMIT 1",
                    update.frame,
                )
            )

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        found = do.run(
            f"DELETE FROM {do.table} WHERE rowid IN (SELECT id FROM ("
            f"SELECT t.rowid AS id, s.{COUNT} AS wanted, row_number() OVER (PARTITION BY s._dbmazz_row) AS found "
            f"FROM {do.table} t JOIN (SELECT *, row_number() OVER () AS _dbmazz_row "
            f"FROM {do.source(do.names, COUNT)}) s ON {do.equal(do.names)}) WHERE found <= wanted)",
            rows,
        )
        self._expected.check(found, do, rows, do.names, times=COUNT)

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        set_ = ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in do.names if n not in do.key)
        # Nothing else can have changed; the key set to itself is counted.
        set_ = set_ or ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in do.key)
        replaced = 0
        if clinging := do.clinging(rows, do.names):
            # Deleted, they are not matched and inserted.
            replaced = do.run(
                f"DELETE FROM {do.table} t USING {do.source(do.names)} WHERE {do.on_key} AND ({clinging})", rows
            )
        otherwise = (
            ""
            if self._expected.complete and not replaced
            else f" WHEN NOT MATCHED THEN INSERT ({', '.join(map(quoted, do.names))}) "
            f"VALUES ({', '.join('s.' + quoted(n) for n in do.names)})"
        )
        found = do.run(
            f"MERGE INTO {do.table} t USING {do.source(do.names)} ON {do.on_key} "
            f"WHEN MATCHED THEN UPDATE SET {set_}{otherwise}",
            rows,
        )
        self._expected.check(found, do, rows, do.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        names = ", ".join(map(quoted, do.names))
        do.run(f"INSERT INTO {do.table} ({names}) FROM {do.source(do.names)}", rows)

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier`."""
        names = ", ".join(map(quoted, self._do.names))
        self._do.run(f"INSERT INTO {self._do.table} ({names}) SELECT {names} FROM {name}")

    def copy(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        self.insert(rows)
