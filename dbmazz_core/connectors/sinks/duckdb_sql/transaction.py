"""A transaction of a DuckDB file: rows, shapes and checkpoint are committed together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, resnapshot, shapes
from dbmazz_core.connectors.sinks.duckdb_sql.alter import ALTERS_MODIFIED_TABLES, alter, rename
from dbmazz_core.connectors.sinks.duckdb_sql.apply import RowApplier, apply_effect
from dbmazz_core.connectors.sinks.duckdb_sql.apply_changelog import ChangelogApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_mirror import MirrorApplier
from dbmazz_core.connectors.sinks.duckdb_sql.apply_soft_delete import SoftDeleteApplier
from dbmazz_core.connectors.sinks.duckdb_sql.compression import Compression
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import has_additions, unknown_table
from dbmazz_core.connectors.sinks.duckdb_sql.distinct import other_values
from dbmazz_core.connectors.sinks.duckdb_sql.drift import Expected
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import conflicts, qualified, qualified_schema
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import verify_owner, verify_renames
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.unrepresentable import missing, unrepresentable
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode, SchemaAction
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef, quote_identifier

#: One checkpoint of the file a window, with the window's last commit, instead of one every 16 MB of WAL.
CHECKPOINT_SELDOM = "SET checkpoint_threshold = '1GB'"


@dataclass(frozen=True, slots=True)
class Destination:
    """An open DuckDB file, for a feed.

    Attributes:
        connection: The connection.
        path: How errors name the file.
        feed: The feed whose tables these are (PostgreSQL: the slot).
        compression: Chooses the compression of long texts.
    """

    connection: duckdb.DuckDBPyConnection
    path: str
    feed: str
    compression: Compression


class DuckDBTransaction:
    """Implements `dbmazz_core.model.sink.SinkTransaction`.

    Args:
        destination: The file; no transaction is open.
        create: Whether the bookkeeping has to be created, or brought to this version's layout.
        ended: Called when the transaction has ended, with whether it was rolled back.
    """

    def __init__(self, destination: Destination, *, create: bool, ended: Callable[[bool], None]) -> None:
        self._destination = destination
        self._connection = destination.connection
        self._ended = ended
        self._open = True
        # Tables that the transaction has written to.
        self._touched: set[TableRef] = set()
        with self._translated():
            self._connection.execute("BEGIN TRANSACTION")
            if create:
                bookkeeping.create(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.rollback()

    # -- tables

    def mark_incomplete(self, tables: Collection[TableRef]) -> None:
        """See `SinkTransaction.mark_incomplete`."""
        with self._translated():
            bookkeeping.write_states(self._connection, tables, "snapshotting", slot=self._destination.feed)

    def rename_tables(self, names: Mapping[TableRef, TableRef]) -> None:
        """See `SinkTransaction.rename_tables`."""
        with self._translated():
            verify_renames(self._connection, names, self._destination.feed, self._destination.path)
            rename(self._connection, self._destination.path, names)
            for old, new in names.items():
                schema = bookkeeping.read_schema(self._connection, new)
                assert schema is not None
                entry = ("rename_table", f"{old} was renamed to {new}", "apply")
                self._write_history(schema, Lsn(0), 0, [entry])

    def create_table(self, shape: TableShape, *, snapshot_lsn: Lsn, mode: Mode, complete: bool) -> Loader:
        """See `SinkTransaction.create_table`."""
        schema, table = shape.schema, shape.schema.table
        columns = shapes.columns(schema, mode)
        _verify_names(schema)
        self._touched.add(table)
        statements = self._statements(schema)
        marked: shapes.Columns | None = None
        with self._translated():
            verify_owner(self._connection, table, self._destination.feed, self._destination.path)
            before = bookkeeping.read_state(self._connection, table)
            found = shapes.read_columns(self._connection, table)
            bookkeeping.write_table(
                self._connection,
                shape,
                slot=self._destination.feed,
                snapshot_lsn=snapshot_lsn,
                mode=mode,
                complete=complete,
            )
            # Rows that are still bad come with the copy.
            bookkeeping.clear_quarantine(self._connection, table)
            kept = bool(found) and before is not None and before.mode is mode and mode is not Mode.MIRROR
            history = kept and mode is Mode.CHANGELOG
            if history:
                resnapshot.verify_later(statements, snapshot_lsn)
            stays = history and shapes.comparable(found) == shapes.comparable(columns)
            if not stays or has_additions(self._connection, table):
                if kept:
                    resnapshot.set_aside(self._connection, table)
                self._replace(table, columns)
                if history:
                    resnapshot.carry_history(statements, found)
                    resnapshot.forget(self._connection)
            if history:
                ChangelogApplier(statements, snapshot_lsn).empty()
            elif kept:
                marked = found
        return Loader(self, schema, snapshot_lsn, marked)

    def evolve(self, event: SchemaEvent) -> bool:
        """See `SinkTransaction.evolve`."""
        if any(action is SchemaAction.APPLY for _, action in event.steps):
            if event.table in self._touched and not ALTERS_MODIFIED_TABLES:
                return False
            _verify_names(event.schema)
        with self._translated():
            if alter(self._connection, self._destination.path, event, self._state(event.table).mode):
                self._touched.add(event.table)
            bookkeeping.write_shape(self._connection, event.shape)
            entries = [(step.kind.value, str(step), action.value) for step, action in event.steps]
            self._write_history(event.schema, event.commit_lsn, event.xid, entries)
        return True

    def abandon(self, event: SchemaEvent) -> None:
        """See `SinkTransaction.abandon`."""
        entry = ("copy_anew", f"{event.table} {event.resnapshot}", "apply")
        with self._translated():
            bookkeeping.write_states(self._connection, [event.table], "changed", slot=self._destination.feed)
            self._write_history(event.schema, event.commit_lsn, event.xid, [entry])

    # -- rows

    def apply(self, effect: NetEffect) -> None:
        """See `SinkTransaction.apply`."""
        applier, statements = self.applier(effect.schema)
        if isinstance(applier, ChangelogApplier):
            raise TypeError(f"{effect.schema.table} is a changelog: its changes are appended")
        for frame in (effect.appends, effect.upserts, *(update.frame for update in effect.updates)):
            if frame is not None:
                self._destination.compression.look(frame)
        apply_effect(effect, applier, statements)
        self._touched.add(effect.schema.table)

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """See `SinkTransaction.append_changes`."""
        applier, _ = self.applier(schema)
        if not isinstance(applier, ChangelogApplier):
            raise TypeError(f"{schema.table} is no changelog: the net effect of its changes is applied")
        self._destination.compression.look(changes)
        applier.append(changes)
        self._touched.add(schema.table)

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
            return missing(self._connection, self._statements(schema), keys, self._state(schema.table))

    def quarantine(self, table: TableRef, rows: pl.DataFrame) -> None:
        """See `SinkTransaction.quarantine`."""
        with self._translated():
            bookkeeping.write_quarantine(self._connection, table, rows, slot=self._destination.feed)

    # -- the end

    def commit(self, checkpoint: Checkpoint | None = None, *, last: bool = False) -> None:
        """See `SinkTransaction.commit`."""
        with self._translated():
            if checkpoint is not None:
                bookkeeping.write_checkpoint(self._connection, checkpoint)
            if last:
                # Closing would write it from the WAL into the file right afterwards: everything twice.
                self._connection.execute("SET checkpoint_threshold = '0B'")
            self._open = False  # also if the commit fails
            try:
                self._connection.execute("COMMIT")
            finally:
                self._ended(False)
            self._connection.execute(CHECKPOINT_SELDOM)

    def rollback(self) -> None:
        """See `SinkTransaction.rollback`."""
        if not self._open:
            return
        self._open = False
        self._ended(True)
        with self._translated():
            try:
                self._connection.execute("ROLLBACK")
            except duckdb.FatalException:
                return  # nothing more can be done with the file until it is opened anew, and nothing was committed

    # -- parts

    def applier(self, schema: TableSchema) -> tuple[RowApplier | ChangelogApplier, Statements]:
        """Return the writer of a table, by its mode."""
        state = self._state(schema.table)
        statements = self._statements(schema)
        # Asked each time: the first row that goes to quarantine makes its table incomplete.
        untouched = schema.table not in self._touched
        lsn = state.snapshot_lsn or Lsn(0)
        expected = Expected(state.complete, untouched, shapes.LIVE[state.mode])
        match state.mode:
            case Mode.MIRROR:
                return MirrorApplier(statements, expected), statements
            case Mode.SOFT_DELETE:
                return SoftDeleteApplier(statements, expected, lsn), statements
            case Mode.CHANGELOG:
                return ChangelogApplier(statements, lsn), statements

    def load(self, schema: TableSchema, rows: pl.DataFrame) -> None:
        """Append whole rows to a table that is being copied."""
        self._destination.compression.look(rows)
        self.applier(schema)[0].copy(rows)

    def carry_marked(self, schema: TableSchema, before: shapes.Columns, snapshot_lsn: Lsn) -> None:
        """Carry rows that are marked as deleted over from the table that a copy has replaced."""
        with self._translated():
            resnapshot.carry_marked(self._statements(schema), before, snapshot_lsn)
            resnapshot.forget(self._connection)

    def _statements(self, schema: TableSchema) -> Statements:
        return Statements(self._connection, self._destination.path, schema)

    def _state(self, table: TableRef) -> TableState:
        with self._translated():
            state = bookkeeping.read_state(self._connection, table)
        if state is None:
            raise unknown_table(table, self._destination.path)
        return state

    def _write_history(
        self, schema: TableSchema, commit_lsn: Lsn, xid: int, entries: list[tuple[str, str, str]]
    ) -> None:
        slot = self._destination.feed
        bookkeeping.write_history(self._connection, schema, slot=slot, commit_lsn=commit_lsn, xid=xid, entries=entries)

    def _replace(self, table: TableRef, columns: shapes.Columns) -> None:
        listed = ", ".join(f"{quote_identifier(name)} {type}" for name, type in columns)
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(self._connection, table.schema)}")
        self._connection.execute(f"CREATE OR REPLACE TABLE {qualified(self._connection, table)} ({listed})")

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._destination.path)


class Loader:
    """Implements `dbmazz_core.model.sink.Loader`.

    Args:
        transaction: The transaction that has created the table.
        schema: The table.
        snapshot_lsn: The snapshot's.
        marked: The columns of the replaced table whose rows that are marked as deleted stay; None: there are none.
    """

    def __init__(
        self, transaction: DuckDBTransaction, schema: TableSchema, snapshot_lsn: Lsn, marked: shapes.Columns | None
    ) -> None:
        self._transaction = transaction
        self._schema = schema
        self._snapshot_lsn = snapshot_lsn
        self._marked = marked

    def append(self, rows: pl.DataFrame) -> None:
        """See `dbmazz_core.model.sink.Loader.append`."""
        self._transaction.load(self._schema, rows)

    def finish(self) -> None:
        """See `dbmazz_core.model.sink.Loader.finish`."""
        if self._marked is not None:
            self._transaction.carry_marked(self._schema, self._marked, self._snapshot_lsn)


def _verify_names(schema: TableSchema) -> None:
    for conflict in conflicts({schema.table: schema.names}):
        raise conflict
