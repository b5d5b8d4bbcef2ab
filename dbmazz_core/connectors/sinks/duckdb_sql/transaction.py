"""A transaction of a DuckDB file: it commits rows, schema changes, bookkeeping and checkpoint together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Self

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, quarantine_records, resnapshot, shapes, table_records
from dbmazz_core.connectors.sinks.duckdb_sql.alter import ALTERS_MODIFIED_TABLES, alter, rename
from dbmazz_core.connectors.sinks.duckdb_sql.appliers import applier_of
from dbmazz_core.connectors.sinks.duckdb_sql.apply import RowApplier, apply_effect
from dbmazz_core.connectors.sinks.duckdb_sql.apply_changelog import ChangelogApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_soft_delete import SoftDeleteApplier
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import (
    has_indexes_or_constraints,
    too_many_wide_rows,
    unrecorded_table,
)
from dbmazz_core.connectors.sinks.duckdb_sql.copy_records import end_copies, read_names
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.loading import Created, Loader
from dbmazz_core.connectors.sinks.duckdb_sql.names import (
    create_schema,
    other_cursor,
    qualified,
    qualified_schema,
    verify_names,
)
from dbmazz_core.connectors.sinks.duckdb_sql.other_values import other_values
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import Owners, verify_renames
from dbmazz_core.connectors.sinks.duckdb_sql.staged_copy import DuckDBStagedCopy
from dbmazz_core.connectors.sinks.duckdb_sql.staging import Staging, drop_leftover
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.unrepresentable import missing, unrepresentable
from dbmazz_core.errors import DestinationOutOfMemory
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode, SchemaAction
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.sink import NoRoom, StagedCopy
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.table_ref import TableRef, quote_identifier

#: How many tables' states are read one by one, before all are read.
_SINGLE_READS = 4


class DuckDBTransaction:
    """Implements `dbmazz_core.model.sink.SinkTransaction`.

    Args:
        destination: The file, without an open transaction.
        create: Whether to create the bookkeeping, or to migrate it to this version's layout.
        on_end: Called when the transaction has ended, with whether it was rolled back.

    Raises:
        DestinationError: If DuckDB fails.
    """

    def __init__(self, destination: Destination, *, create: bool, on_end: Callable[[bool], None]) -> None:
        self._destination = destination
        self._connection = destination.connection
        self._on_end = on_end
        self._open = True
        self._modified: set[TableRef] = set()
        self._changed: set[TableRef] = set()  # by the stream
        self._updated_bytes = 0
        self._wide_bytes: Counter[TableRef] = Counter()  # of inserted rows
        self._states: dict[TableRef, TableState] = {}
        self._owners: Owners | None = None
        self._tidied: set[str] = set()  # schemas without leftovers of copies
        self._loader: Loader | None = None
        self._swapped: list[Staging] = []
        with self._translated():
            if create:
                bookkeeping.create(self._connection)
            self._connection.execute("BEGIN TRANSACTION")
        self._untouched = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.rollback()

    # -- tables

    def mark(
        self, table: TableRef, state: TableStatus, problem: Problem | None = None, *, retry_when: str | None = None
    ) -> None:
        """See `SinkTransaction.mark`."""
        with self._translated():
            table_records.write_state(self._connection, table, state, problem, retry_when, slot=self._destination.feed)
            if state in (TableStatus.PAUSED, TableStatus.REMOVED):
                end_copies(self._connection, [table])
        self._states.clear()

    def forget(self, tables: Collection[TableRef]) -> None:
        """See `SinkTransaction.forget`."""
        with self._translated():
            table_records.forget(self._connection, tables, slot=self._destination.feed)
            end_copies(self._connection, tables)
        self._states.clear()

    def rename_tables(self, names: Mapping[TableRef, TableRef]) -> None:
        """See `SinkTransaction.rename_tables`."""
        self._owners = None
        self._states.clear()
        with self._translated():
            verify_renames(self._connection, names, self._destination.feed, self._destination.path)
            end_copies(self._connection, {*names, *names.values()})
            rename(self._connection, self._destination.path, names, slot=self._destination.feed)
            for old, new in names.items():
                schema = table_records.read_schema(self._connection, new)
                assert schema is not None
                entry = ("rename_table", f"{old} was renamed to {new}", "apply")
                self._write_history(schema, Lsn(0), 0, [entry])

    def create_table(
        self, shape: TableShape, *, snapshot_lsn: Lsn, mode: Mode, complete: bool, staged: StagedCopy | None = None
    ) -> Loader:
        """See `SinkTransaction.create_table`."""
        verify_names(shape.schema)
        stageable = self._untouched
        if self._untouched:
            self._create_schema(shape.schema.table.schema)
        creation = partial(self._create, shape, snapshot_lsn, mode, complete)
        assert staged is None or isinstance(staged, DuckDBStagedCopy)
        self._loader = Loader(
            self,
            self._destination,
            shape.schema,
            snapshot_lsn,
            mode,
            creation,
            stageable=stageable,
            staged=None if staged is None else staged.staging,
        )
        return self._loader

    def _create(
        self, shape: TableShape, snapshot_lsn: Lsn, mode: Mode, complete: bool, staging: Staging | None
    ) -> Created:
        """Create or replace a table, or let another table take its place."""
        schema, table = shape.schema, shape.schema.table
        self._modified.add(table)
        self._states.pop(table, None)
        with self._translated():
            before, found = None, []
            if self._owned().create(table):
                before = table_records.read_state(self._connection, table)
                found = shapes.read_columns(self._connection, table)
            table_records.write_table(
                self._connection,
                shape,
                slot=self._destination.feed,
                snapshot_lsn=snapshot_lsn,
                mode=mode,
                complete=complete,
            )
            is_recorded = staging is not None and staging.table.name in read_names(self._connection, table.schema)
            end_copies(self._connection, [table], keep=None if staging is None else staging.table)
            # The snapshot contains the rows that are in quarantine.
            quarantine_records.clear_quarantine(self._connection, table)
            same_mode = bool(found) and before is not None and before.mode is mode
            if same_mode and mode is Mode.CHANGELOG:
                self._continue_changelog(schema, found, snapshot_lsn)
                return Created(continues=True)
            saved = None
            if same_mode and mode is Mode.SOFT_DELETE:
                resnapshot.save_table(self._connection, table)
                saved = found
            if staging is None:
                self._replace(table, shapes.columns(schema, mode))
            else:
                staging.swap()
                if not is_recorded:  # otherwise, a rollback brings its record back
                    self._swapped.append(staging)
                self._owners = None  # the other table has its name now
        return Created(saved)

    def _continue_changelog(self, schema: TableSchema, found: shapes.Columns, snapshot_lsn: Lsn) -> None:
        """Append a TRUNCATE to a changelog that is re-snapshotted; create it again first if its shape differs.

        Changes with LSNs after the snapshot belong to another history of the server: they are set aside.

        Args:
            schema: The table.
            found: The columns that the changelog has.
            snapshot_lsn: LSN of the snapshot.
        """
        table, statements, columns = schema.table, self._statements(schema), shapes.columns(schema, Mode.CHANGELOG)
        if not resnapshot.is_later(statements, snapshot_lsn):
            aside = resnapshot.set_changes_aside(self._connection, table)
            self._replace(table, columns)
            detail = f"changes of {table} before another history of the server are in {aside}"
            self._write_history(schema, snapshot_lsn, 0, [("new_history", detail, "apply")])
            return
        same_columns = shapes.comparable(found) == shapes.comparable(columns)
        if not same_columns or has_indexes_or_constraints(self._connection, table):
            resnapshot.save_table(self._connection, table)
            self._replace(table, columns)
            resnapshot.restore_changes(statements, found)
            resnapshot.drop_saved(self._connection)
        ChangelogApplier(statements, snapshot_lsn).append_truncate()

    def record_shapes(self, shapes: Iterable[TableShape]) -> None:
        """See `SinkTransaction.record_shapes`."""
        with self._translated():
            for shape in shapes:
                table_records.write_shape(self._connection, shape, slot=self._destination.feed)

    def evolve(self, event: SchemaEvent) -> bool:
        """See `SinkTransaction.evolve`."""
        if any(action is SchemaAction.APPLY for _, action in event.steps):
            if event.table in self._modified and not ALTERS_MODIFIED_TABLES:
                return False
            verify_names(event.schema)
        with self._translated():
            if alter(self._connection, self._destination.path, event, self._state(event.table).mode):
                self._modified.add(event.table)
            table_records.write_shape(self._connection, event.shape, slot=self._destination.feed)
            entries = [(step.kind.value, str(step), action.value) for step, action in event.steps]
            self._write_history(event.schema, event.commit_lsn, event.xid, entries)
        return True

    def abandon(self, event: SchemaEvent) -> None:
        """See `SinkTransaction.abandon`."""
        entry = ("copy_anew", f"{event.table} {event.resnapshot}", "apply")
        self.mark(event.table, TableStatus.COPYING, Problem(f"{event.table} {event.resnapshot}"))
        with self._translated():
            self._write_history(event.schema, event.commit_lsn, event.xid, [entry])

    # -- rows

    def apply(self, effect: NetEffect) -> None:
        """See `SinkTransaction.apply`."""
        table, memory = effect.schema.table, self._destination.memory
        applier, statements = self.applier(effect.schema)
        if isinstance(applier, ChangelogApplier):
            raise TypeError(f"{effect.schema.table} is a changelog; use append_changes")
        if not self.has_room(table, effect.appends, effect.upserts, *(update.frame for update in effect.updates)):
            raise NoRoom(again=False)
        self.observe(effect.appends)
        for frame in (effect.upserts, *(update.frame for update in effect.updates)):
            self._updated_bytes += self.observe(frame)
        if isinstance(applier, SoftDeleteApplier):
            self._updated_bytes += sum(
                int(frame.estimated_size()) for frame in (effect.deletes, effect.removals) if frame is not None
            )
        if table in memory.wide_tables or not memory.allows_updates(self._updated_bytes):
            applier.replaces = True
        try:
            apply_effect(effect, applier, statements)
        except DestinationOutOfMemory as error:
            # The table's old rows may be wide, which UPDATE keeps in memory.
            again = not applier.replaces
            memory.wide_tables.add(table)
            memory.grow()
            raise NoRoom(again=again) from error
        self._modified.add(table)
        self._changed.add(table)

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """See `SinkTransaction.append_changes`."""
        applier, _ = self.applier(schema)
        if not isinstance(applier, ChangelogApplier):
            raise TypeError(f"{schema.table} is not a changelog; use apply")
        if not self.has_room(schema.table, changes):
            raise too_many_wide_rows(schema.table, self._destination.path)
        self.observe(changes)
        applier.append(changes)
        self._modified.add(schema.table)
        self._changed.add(schema.table)

    def unrepresentable(self, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """See `SinkTransaction.unrepresentable`."""
        with self._translated():
            return unrepresentable(self._connection, schema, frame)

    def other_values(self, schema: TableSchema, column: str, known: Collection[str]) -> Collection[str]:
        """See `SinkTransaction.other_values`."""
        with self._translated():
            return other_values(self._connection, schema, column, known, self._state(schema.table))

    def missing(self, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
        """See `SinkTransaction.missing`."""
        with self._translated():
            return missing(self._connection, self._statements(schema).sql, keys, self._state(schema.table))

    def quarantine(self, table: TableRef, rows: pl.DataFrame) -> None:
        """See `SinkTransaction.quarantine`."""
        if self._loader is not None and self._loader.hold(table, rows):
            return
        with self._translated():
            quarantine_records.write_quarantine(self._connection, table, rows, slot=self._destination.feed)
        self._states.pop(table, None)  # the first row in quarantine makes the table incomplete

    # -- the end

    def commit(self, checkpoint: Checkpoint | None = None, *, last: bool = False) -> None:
        """See `SinkTransaction.commit`."""
        try:
            self._commit(checkpoint, last=last)
        except DestinationOutOfMemory as error:
            if self._loader is not None or not self._changed or not self._destination.memory.grow():
                raise
            raise NoRoom(again=True) from error

    def _commit(self, checkpoint: Checkpoint | None, *, last: bool) -> None:
        with self._translated():
            if checkpoint is not None:
                held_s = time.monotonic() - self._destination.opened_at
                bookkeeping.write_checkpoint(self._connection, checkpoint, held_s)
                table_records.write_last_change(
                    self._connection, self._changed, checkpoint.lsn, slot=self._destination.feed
                )
            if last:
                # Let COMMIT write the data to the file. Otherwise COMMIT writes it to the WAL, and closing the file
                # writes it again.
                self._destination.set_checkpoint_threshold(0)
            self._open = False  # even if COMMIT fails
            try:
                self._connection.execute("COMMIT")
            finally:
                self._on_end(False)
            self._destination.set_checkpoint_threshold()

    def rollback(self) -> None:
        """See `SinkTransaction.rollback`."""
        if not self._open:
            return
        self._open = False
        self._on_end(True)
        is_staging = self._loader is not None and self._loader.is_staging
        with self._translated():
            try:
                self._connection.execute("ROLLBACK")
            except duckdb.FatalException:
                return  # DuckDB invalidated the database until it is opened again; nothing was committed
            except duckdb.TransactionException:
                if not is_staging:  # then no transaction is open
                    raise
            if self._loader is not None:
                self._loader.drop_staging()
            for staging in self._swapped:
                staging.drop()

    # -- parts

    def applier(self, schema: TableSchema) -> tuple[RowApplier | ChangelogApplier, Statements]:
        """Return the applier of a table for its mode, and the applier's statements."""
        state = self._state(schema.table)
        statements = self._statements(schema)
        lsn = state.snapshot_lsn or Lsn(0)
        drift = DriftCheck(state.complete, schema.table not in self._modified, shapes.LIVE[state.mode])
        return applier_of(state.mode, statements, drift, lsn), statements

    def observe(self, frame: pl.DataFrame | None) -> int:
        """Prepare to write a frame; return its size in bytes."""
        if frame is None:
            return 0
        with translated(self._destination.path):
            return self._destination.observe(frame)

    def has_room(self, table: TableRef, *frames: pl.DataFrame | None) -> bool:
        """Count the wide rows among rows to insert; return whether the transaction can commit them."""
        memory = self._destination.memory
        there = [frame for frame in frames if frame is not None]
        with translated(self._destination.path):
            self._destination.make_room(*there)
        self._wide_bytes[table] += sum(map(memory.wide_bytes, there))
        return memory.has_room(self._wide_bytes[table])

    def _owned(self) -> Owners:
        """The owners of the file's tables, read once in a transaction."""
        if self._owners is None:
            self._owners = Owners(self._connection, self._destination.feed, self._destination.path)
        return self._owners

    def _statements(self, schema: TableSchema) -> Statements:
        return Statements(self._connection, self._destination.path, schema)

    def _state(self, table: TableRef) -> TableState:
        """Return the state of a table; the states of all are read at once where several are needed."""
        if table not in self._states:
            with self._translated():
                if len(self._states) < _SINGLE_READS:
                    state = table_records.read_state(self._connection, table)
                    self._states |= {} if state is None else {table: state}
                else:
                    self._states = table_records.read_states(self._connection)
        if table not in self._states:
            raise unrecorded_table(table, self._destination.path)
        return self._states[table]

    def _write_history(
        self, schema: TableSchema, commit_lsn: Lsn, xid: int, entries: list[tuple[str, str, str]]
    ) -> None:
        slot = self._destination.feed
        table_records.write_history(
            self._connection, schema, slot=slot, commit_lsn=commit_lsn, xid=xid, entries=entries
        )

    def _replace(self, table: TableRef, columns: shapes.Columns) -> None:
        """Create a table, or replace it, without rows."""
        definitions = ", ".join(f"{quote_identifier(name)} {type}" for name, type in columns)
        if table.schema not in self._tidied:
            self._tidied.add(table.schema)
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(self._connection, table.schema)}")
            drop_leftover(self._connection, table.schema)
        self._connection.execute(f"CREATE OR REPLACE TABLE {qualified(self._connection, table)} ({definitions})")

    def _create_schema(self, schema: str) -> None:
        """Create a schema and commit it, before the transaction reads: two threads can need the same new schema."""
        with self._translated(), other_cursor(self._connection) as cursor:
            create_schema(cursor, schema)

    def _translated(self) -> AbstractContextManager[None]:
        self._untouched = False
        return translated(self._destination.path)
