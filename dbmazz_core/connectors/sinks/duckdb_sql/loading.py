"""Load the rows of a snapshot into a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import resnapshot, shapes
from dbmazz_core.connectors.sinks.duckdb_sql.appliers import applier_of
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import too_many_wide_rows
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.staging import Staging
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.sink import NoRoom
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Created:
    """A table that was created for a copy.

    Attributes:
        saved: Columns of the replaced table whose deleted rows come back; None: no rows come back.
        continues: Whether the table is a changelog that keeps its rows, so that no other table can take its place.
    """

    saved: shapes.Columns | None = None
    continues: bool = False


#: Creates or replaces a table, or lets another table, with the rows of the copy, take its place.
Creation = Callable[[Staging | None], Created]


class LoadingTransaction(Protocol):
    """The part of a transaction that a loader needs."""

    def has_room(self, table: TableRef, *frames: pl.DataFrame | None) -> bool:
        """Count the wide rows among rows to insert; return whether the transaction can commit them."""

    def observe(self, frame: pl.DataFrame | None) -> int:
        """Prepare to write a frame; return its size in bytes."""

    def quarantine(self, table: TableRef, rows: pl.DataFrame) -> None:
        """Add rows to the quarantine of a table."""


class Loader:
    """Implements `dbmazz_core.model.sink.Loader`. The constructor creates the table.

    If the first rows are wide, all go to another table, in transactions of their own; see `staging`.

    Args:
        transaction: The open transaction.
        destination: Its file.
        schema: The table.
        snapshot_lsn: LSN of the snapshot.
        mode: The table's mode.
        creation: Creates the table.
        stageable: Whether the rows may go to another table: the transaction has done nothing else.
        staged: Another table, which holds all rows already.
    """

    def __init__(
        self,
        transaction: LoadingTransaction,
        destination: Destination,
        schema: TableSchema,
        snapshot_lsn: Lsn,
        mode: Mode,
        creation: Creation,
        *,
        stageable: bool,
        staged: Staging | None = None,
    ) -> None:
        self._transaction = transaction
        self._destination = destination
        self._schema = schema
        self._snapshot_lsn = snapshot_lsn
        self._mode = mode
        self._creation = creation
        self._created = creation(staged)
        self._stageable = stageable and staged is None and not self._created.continues
        self._is_decided = not self._stageable  # which table takes the rows
        self._staging: Staging | None = None
        self._held_rows: list[pl.DataFrame] = []

    @property
    def is_staging(self) -> bool:
        """Whether the rows go to another table, and no transaction is open."""
        return self._staging is not None

    def append(self, rows: pl.DataFrame) -> None:
        """See `dbmazz_core.model.sink.Loader.append`.

        Raises:
            BadValue: If DuckDB's type cannot hold a value.
            DestinationError: If DuckDB fails, or too many rows are wide, and no other table can take them.
            NoRoom: Wide rows came after others. The next transaction lets all rows of the table go to another table.
        """
        memory, table = self._destination.memory, self._schema.table
        has_room = self._transaction.has_room(table, rows)
        if self._is_decided and self._staging is None and not has_room:
            if not self._stageable:
                raise too_many_wide_rows(table, self._destination.path)
            memory.wide_tables.add(table)
            raise NoRoom(again=True)
        self._transaction.observe(rows)
        if len(rows) and not self._is_decided:
            self._is_decided = True
            if memory.is_wide(rows) or table in memory.wide_tables:
                self._stage()
            else:
                self._write_held_rows()
        statements = self._statements() if self._staging is None else self._staging.statements
        applier_of(self._mode, statements, DriftCheck(False, False), self._snapshot_lsn).insert_snapshot(rows)

    def hold(self, table: TableRef, rows: pl.DataFrame) -> bool:
        """Keep rows that go to quarantine until the transaction can write them; return False if it can do so now."""
        can_write = table != self._schema.table or (self._is_decided and self._staging is None)
        if not can_write:
            self._held_rows.append(rows)
        return not can_write

    def finish(self) -> None:
        """See `dbmazz_core.model.sink.Loader.finish`."""
        if self._staging is not None:
            with translated(self._destination.path):
                self._destination.connection.execute("BEGIN TRANSACTION")
                self._created = self._creation(self._staging)
                self._staging = None
        self._is_decided = True
        self._write_held_rows()
        if self._created.saved is not None:
            with translated(self._destination.path):
                resnapshot.restore_deleted_rows(self._statements(), self._created.saved, self._snapshot_lsn)
                resnapshot.drop_saved(self._destination.connection)

    def drop_staging(self) -> None:
        """Drop the other table. The transaction must be rolled back."""
        if self._staging is not None:
            self._staging.drop()
            self._staging = None

    def _stage(self) -> None:
        with translated(self._destination.path):
            self._destination.connection.execute("ROLLBACK")
            columns = shapes.columns(self._schema, self._mode)
            self._staging = Staging.create(self._destination.connection, self._destination.path, self._schema, columns)

    def _write_held_rows(self) -> None:
        held, self._held_rows = self._held_rows, []
        for rows in held:
            self._transaction.quarantine(self._schema.table, rows)

    def _statements(self) -> Statements:
        return Statements(self._destination.connection, self._destination.path, self._schema)
