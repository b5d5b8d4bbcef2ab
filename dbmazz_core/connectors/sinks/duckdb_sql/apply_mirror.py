"""Mode `mirror`: the table holds exactly the source's rows."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.equal_rows import IS_REMOVED, move_equal_rows, select_equal_rows
from dbmazz_core.connectors.sinks.duckdb_sql.indistinct_updates import is_indistinct, replace_indistinct
from dbmazz_core.connectors.sinks.duckdb_sql.replacement import replace_rows
from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.unknown_values import fetch_unknown_values, unknown_value
from dbmazz_core.model.frame_columns import COMMIT_LSN, COUNT, XID, value_column
from dbmazz_core.model.net_effect import Move, PartialUpdate
from dbmazz_core.model.records import SourcePosition


class MirrorApplier:
    """Implements `apply.RowApplier` for mode `mirror`.

    Args:
        statements: The table.
        drift: Compares row counts with expected counts.

    Attributes:
        replaces: Whether rows are deleted and inserted again instead of updated (module `memory`).
    """

    def __init__(self, statements: Statements, drift: DriftCheck) -> None:
        self._statements = statements
        self._sql = statements.sql
        self._drift = drift
        self.replaces = False

    def truncate(self, position: SourcePosition) -> None:
        """See `RowApplier.truncate`."""
        self._statements.run(f"DELETE FROM {self._sql.table}")

    def fetch_unknown(self, move: Move, number: int) -> str:
        """See `RowApplier.fetch_unknown`."""
        return fetch_unknown_values(self._statements, move, number)

    def delete(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.delete`."""
        sql = self._sql
        found = self._statements.run(f"DELETE FROM {sql.target} USING {sql.source(sql.key)} WHERE {sql.on_key}", rows)
        self._drift.verify(found, self._statements, rows, sql.key)

    def update(self, update: PartialUpdate) -> None:
        """See `RowApplier.update`."""
        sql = self._sql
        # If no other column is known, set the key to itself: the row count shows whether the row exists.
        assignments = ", ".join(sql.assignments(update.known or sql.key))
        source = sql.source((*sql.key, *update.known))
        if self.replaces:
            found = replace_rows(self._statements, update)
        else:
            replace_indistinct(self._statements, update)
            found = self._statements.run(
                f"UPDATE {sql.target} SET {assignments} FROM {source} WHERE {sql.on_key}", update.frame
            )
        if found != len(update.frame):
            at = self._statements.first_row(
                f"SELECT {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID} FROM {sql.source(sql.key, COMMIT_LSN, XID)} "
                f"ANTI JOIN {sql.target} ON {sql.on_key} LIMIT 1",
                update.frame,
            )
            raise unknown_value(sql.schema.table, at)

    def remove(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.remove`."""
        sql = self._sql
        if sql.row_id is not None:
            equal_rows = select_equal_rows(sql, f"{sql.row_id} AS _dbmazz_id", where="true")
            found = self._statements.run(
                f"DELETE FROM {sql.target} WHERE {sql.row_id} IN (SELECT {DERIVED}._dbmazz_id FROM "
                f"({equal_rows}) AS {DERIVED} WHERE {DERIVED}.{IS_REMOVED})",
                rows,
            )
        else:
            name, found = move_equal_rows(self._statements, rows)
            values = ", ".join(f"{DERIVED}.{value_column(place)}" for place in sql.places)
            self._statements.run(
                f"INSERT INTO {sql.table} ({sql.names()}) SELECT {values} FROM {name} AS {DERIVED} "
                f"WHERE NOT {DERIVED}.{IS_REMOVED}"
            )
            self._statements.run(f"DROP TABLE {name}")
        self._drift.verify(found, self._statements, rows, sql.places, count_column=COUNT)

    def upsert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.upsert`."""
        sql = self._sql
        if self.replaces:
            self.delete(rows)
            self.insert(rows)
            return
        # If the table has no other columns, set the key to itself, for the row count.
        assignments = ", ".join(sql.assignments([place for place in sql.places if place not in sql.key] or sql.key))
        replaced = 0
        if indistinct := is_indistinct(sql, rows, sql.places):
            # MERGE inserts the rows that this deletes.
            replaced = self._statements.run(
                f"DELETE FROM {sql.target} USING {sql.source(sql.places)} WHERE {sql.on_key} AND ({indistinct})", rows
            )
        insert = (
            ""
            if self._drift.complete and not replaced
            else f" WHEN NOT MATCHED THEN INSERT ({sql.names()}) VALUES ({sql.values()})"
        )
        found = self._statements.run(
            f"MERGE INTO {sql.target} USING {sql.source(sql.places)} ON {sql.on_key} "
            f"WHEN MATCHED THEN UPDATE SET {assignments}{insert}",
            rows,
        )
        self._drift.verify(found, self._statements, rows, sql.key)

    def insert(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.insert`."""
        sql = self._sql
        self._statements.run(
            f"INSERT INTO {sql.table} ({sql.names()}) SELECT {sql.values()} FROM {sql.source(sql.places)}", rows
        )

    def insert_fetched(self, name: str) -> None:
        """See `RowApplier.insert_fetched`."""
        sql = self._sql
        self._statements.run(f"INSERT INTO {sql.table} ({sql.names()}) SELECT {sql.values()} FROM {name} AS {SOURCE}")

    def insert_snapshot(self, rows: pl.DataFrame) -> None:
        """See `RowApplier.insert_snapshot`."""
        self.insert(rows)
