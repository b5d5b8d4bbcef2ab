"""Mode `mirror`: the table holds the source's rows and nothing else."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.drift import Expected
from dbmazz_core.connectors.sinks.duckdb_sql.sql import MADE, SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.statements import GOES, Statements
from dbmazz_core.model.frame_columns import COMMIT_LSN, COUNT, XID, value_column
from dbmazz_core.model.net_effect import Move, PartialUpdate
from dbmazz_core.model.records import SourcePosition


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
        found = do.run(f"DELETE FROM {do.target} USING {do.source(do.key)} WHERE {do.on_key}", rows)
        self._expected.check(found, do, rows, do.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier`."""
        do = self._do
        # With nothing to set, the key is set to itself: the count shows that the row is there.
        set_ = ", ".join(do.assignments(update.known or do.key))
        source = do.source((*do.key, *update.known))
        do.replace_indistinct(update)
        found = do.run(f"UPDATE {do.target} SET {set_} FROM {source} WHERE {do.on_key}", update.frame)
        if found != len(update.frame):
            raise do.unknown_value(
                do.first(
                    f"SELECT {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID} FROM {do.source(do.key, COMMIT_LSN, XID)} "
                    f"ANTI JOIN {do.target} ON {do.on_key} LIMIT 1",
                    update.frame,
                )
            )

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        if do.row_id is not None:
            found = do.run(
                f"DELETE FROM {do.target} WHERE {do.row_id} IN (SELECT {MADE}._dbmazz_id FROM "
                f"({do.matches(f'{do.row_id} AS _dbmazz_id', where='true')}) AS {MADE} WHERE {MADE}.{GOES})",
                rows,
            )
        else:
            name, found = do.take_equal(rows)
            values = ", ".join(f"{MADE}.{value_column(place)}" for place in do.places)
            do.run(
                f"INSERT INTO {do.table} ({do.names()}) SELECT {values} FROM {name} AS {MADE} WHERE NOT {MADE}.{GOES}"
            )
            do.run(f"DROP TABLE {name}")
        self._expected.check(found, do, rows, do.places, times=COUNT)

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        # Where nothing else can have changed, the key set to itself is counted.
        set_ = ", ".join(do.assignments([place for place in do.places if place not in do.key] or do.key))
        replaced = 0
        if indistinct := do.indistinct(rows, do.places):
            # Deleted, they are not matched and inserted.
            replaced = do.run(
                f"DELETE FROM {do.target} USING {do.source(do.places)} WHERE {do.on_key} AND ({indistinct})", rows
            )
        otherwise = (
            ""
            if self._expected.complete and not replaced
            else f" WHEN NOT MATCHED THEN INSERT ({do.names()}) VALUES ({do.values()})"
        )
        found = do.run(
            f"MERGE INTO {do.target} USING {do.source(do.places)} ON {do.on_key} "
            f"WHEN MATCHED THEN UPDATE SET {set_}{otherwise}",
            rows,
        )
        self._expected.check(found, do, rows, do.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        do = self._do
        do.run(f"INSERT INTO {do.table} ({do.names()}) SELECT {do.values()} FROM {do.source(do.places)}", rows)

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier`."""
        do = self._do
        do.run(f"INSERT INTO {do.table} ({do.names()}) SELECT {do.values()} FROM {name} AS {SOURCE}")

    def copy(self, rows: pl.DataFrame) -> None:
        """See `RowApplier`."""
        self.insert(rows)
