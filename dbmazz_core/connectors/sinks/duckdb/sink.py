"""A DuckDB file as destination: exactly-once, since rows and checkpoint are committed together.

The tables carry no PRIMARY KEY index: MERGE by key over a compacted batch is ten times faster than the index, and the
merge keeps keys unique (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb import bookkeeping, resnapshot, shapes
from dbmazz_core.connectors.sinks.duckdb.alter import ALTERS_MODIFIED_TABLES, alter, rename
from dbmazz_core.connectors.sinks.duckdb.apply import RowApplier, apply_effect
from dbmazz_core.connectors.sinks.duckdb.apply_changelog import ChangelogApplier
from dbmazz_core.connectors.sinks.duckdb.apply_mirror import MirrorApplier
from dbmazz_core.connectors.sinks.duckdb.apply_soft_delete import SoftDeleteApplier
from dbmazz_core.connectors.sinks.duckdb.compression import Compression
from dbmazz_core.connectors.sinks.duckdb.conflicts import changed_by_hand, has_additions
from dbmazz_core.connectors.sinks.duckdb.distinct import other_values
from dbmazz_core.connectors.sinks.duckdb.drift import Expected
from dbmazz_core.connectors.sinks.duckdb.failures import translated
from dbmazz_core.connectors.sinks.duckdb.names import conflicts, fold, qualified, qualified_schema
from dbmazz_core.connectors.sinks.duckdb.opening import opened
from dbmazz_core.connectors.sinks.duckdb.ownership import Names, owner_conflict
from dbmazz_core.connectors.sinks.duckdb.sql import TARGET
from dbmazz_core.connectors.sinks.duckdb.statements import Statements
from dbmazz_core.connectors.sinks.duckdb.unrepresentable import missing, refused
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.errors import DestinationConflict, DestinationError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode, SchemaAction
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.table_state import TableState
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: DuckDB 1 hands the range of a join's keys to pyarrow, to filter a frame by it, which fails over texts (tried, 1.4.0:
#: "no kernel matching input types (string_view, bool)", where the table is smaller than the frame).
FILTERS_FRAMES = not duckdb.__version__.startswith("1.")
#: One checkpoint a window, with its last commit, instead of one every 16 MB of WAL.
_CHECKPOINT_SELDOM = "SET checkpoint_threshold = '1GB'"


class DuckDBSink:
    """Implements `dbmazz_core.model.sink.Sink`. Opens the file at once; use as a context manager.

    Args:
        config: Path, lock timeout, memory limit.
        read_only: Open for reading; a missing file is then empty bookkeeping, not a new file.

    Raises:
        DestinationLocked: If another process holds the file for longer than the timeout.
        DestinationError: If the file cannot be opened.
    """

    def __init__(self, config: SinkConfig, *, read_only: bool = False) -> None:
        self.path = config.url
        self._in_transaction = False
        # Tables that the open transaction has written to, and those being copied again: their columns before.
        self._touched: set[TableRef] = set()
        self._before: dict[TableRef, shapes.Columns] = {}
        self._created = not read_only and not Path(config.url).exists()
        self._connection = opened(config, read_only)
        self._compression = Compression(self._connection)
        with translated(self.path):
            # Set, not passed to connect: DuckDB refuses a second connection in a process with other options.
            self._connection.execute("SET TimeZone = 'UTC'")
            self._connection.execute(f"SET memory_limit = '{config.memory_limit}B'")
            self._connection.execute("SET preserve_insertion_order = false")
            if not FILTERS_FRAMES:
                self._connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
            # It would go to standard output, between the lines of --json.
            self._connection.execute("SET enable_progress_bar = false")
            self._connection.execute(_CHECKPOINT_SELDOM)
            # Made by the first transaction, so that a run which fails before has changed nothing.
            self._layout = bookkeeping.layout(self._connection)
            self._empty = self._layout == 0
        if self._layout > bookkeeping.LAYOUT:
            self._connection.close()
            raise DestinationError(
                f"{self.path} was written by a newer dbmazz (layout {self._layout}; this one knows "
                f"{bookkeeping.LAYOUT})",
                object=self.path,
                remedy="pip install -U dbmazz",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Roll back what is open and close the file; remove it if it is new and nothing was committed."""
        self.rollback()
        with translated(self.path):
            if self._created and self._empty:
                # A run that failed before its first commit leaves no file. Before closing: until then it is locked.
                Path(self.path).unlink(missing_ok=True)
            self._connection.close()

    def read(self, slot: str) -> Recorded:
        """See `Sink.read`."""
        if self._empty:
            return Recorded()
        with translated(self.path):
            checkpoint = bookkeeping.read_checkpoint(self._connection, slot, self._layout)
            tables = bookkeeping.read_recorded(self._connection, slot, self._layout)
            columns = self._all_columns()
        return Recorded(checkpoint, {table.state.table: self._compared(table, columns) for table in tables})

    def _compared(self, table: RecordedTable, columns: Mapping[TableRef, shapes.Columns]) -> RecordedTable:
        """With the error if the table is not as it was left here."""
        ref, expected = table.state.table, shapes.columns(table.schema, table.state.mode)
        found = columns.get(ref, [])
        if shapes.comparable(found) == shapes.comparable(expected):
            return table
        return replace(table, altered=changed_by_hand(ref, self.path, expected, found))

    def owner_conflicts(self, tables: Collection[TableRef], *, slot: str) -> Mapping[TableRef, DestinationConflict]:
        """See `Sink.owner_conflicts`."""
        with translated(self.path):
            owners = {} if self._empty else bookkeeping.read_owners(self._connection)
            names = Names.read(self._connection)
        found = ((table, owner_conflict(table, slot, owners, names, self.path)) for table in tables)
        return {table: conflict for table, conflict in found if conflict is not None}

    def _verify_owner(self, table: TableRef, slot: str) -> None:
        for conflict in self.owner_conflicts([table], slot=slot).values():
            raise conflict

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationConflict]:
        """See `Sink.name_conflicts`."""
        return list(conflicts(tables))

    def mark_incomplete(self, slot: str, tables: Collection[TableRef] | None = None) -> None:
        """See `Sink.mark_incomplete`."""
        if self._empty:
            return
        update = "UPDATE _dbmazz.tables SET state = 'snapshotting' WHERE slot = ?"
        with translated(self.path):
            if tables is None:
                self._connection.execute(update, [slot])
            for table in tables or ():
                self._connection.execute(
                    f"{update} AND schema_name = ? AND table_name = ?", [slot, table.schema, table.name]
                )

    def begin(self) -> None:
        """See `Sink.begin`."""
        with translated(self.path):
            self._connection.execute("BEGIN TRANSACTION")
            self._in_transaction = True
            self._touched.clear()
            self._before.clear()
            if self._layout < bookkeeping.LAYOUT:
                bookkeeping.create(self._connection)
                self._layout, self._empty = bookkeeping.LAYOUT, False

    def evolve(self, event: SchemaEvent, *, slot: str) -> bool:
        """See `Sink.evolve`."""
        if any(action is SchemaAction.APPLY for _, action in event.steps):
            if event.table in self._touched and not ALTERS_MODIFIED_TABLES:
                return False
            self._verify_names(event.schema)
        with translated(self.path):
            if alter(self._connection, self.path, event, self._state(event.table).mode):
                self._touched.add(event.table)
            bookkeeping.write_shape(self._connection, event.schema, event.identity)
            entries = [(step.kind.value, str(step), action.value) for step, action in event.steps]
            bookkeeping.write_history(
                self._connection,
                event.schema,
                slot=slot,
                commit_lsn=event.commit_lsn,
                xid=event.xid,
                entries=entries,
            )
        return True

    def abandon(self, event: SchemaEvent, *, slot: str) -> None:
        """See `Sink.abandon`."""
        table = event.table
        with translated(self.path):
            self._connection.execute(
                "UPDATE _dbmazz.tables SET state = 'changed' WHERE slot = ? AND schema_name = ? AND table_name = ?",
                [slot, table.schema, table.name],
            )
            bookkeeping.write_history(
                self._connection,
                event.schema,
                slot=slot,
                commit_lsn=event.commit_lsn,
                xid=event.xid,
                entries=[("copy_anew", f"{table} {event.copy_anew}", "apply")],
            )

    def rename_tables(self, names: Mapping[TableRef, TableRef], *, slot: str) -> None:
        """See `Sink.rename_tables`."""
        leaving = {(old.schema, fold(old.name)) for old in names}
        for new in names.values():
            if (new.schema, fold(new.name)) not in leaving:
                self._verify_owner(new, slot)
        with translated(self.path):
            self._connection.execute("BEGIN TRANSACTION")
            try:
                rename(self._connection, self.path, names)
                for old, new in names.items():
                    schema = bookkeeping.read_schema(self._connection, new, self._layout)
                    assert schema is not None
                    bookkeeping.write_history(
                        self._connection,
                        schema,
                        slot=slot,
                        commit_lsn=Lsn(0),
                        xid=0,
                        entries=[("rename_table", f"{old} was renamed to {new}", "apply")],
                    )
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def create_table(
        self,
        schema: TableSchema,
        *,
        slot: str,
        snapshot_lsn: Lsn,
        mode: Mode = Mode.MIRROR,
        complete: bool = True,
        identity: TableIdentity | None = None,
    ) -> None:
        """See `Sink.create_table`."""
        table, columns = schema.table, shapes.columns(schema, mode)
        self._verify_names(schema)
        self._verify_owner(table, slot)
        self._touched.add(table)
        statements = Statements(self._connection, self.path, schema)
        with translated(self.path):
            before = bookkeeping.read_state(self._connection, table, self._layout)
            found = self._columns(table)
            bookkeeping.write_table(
                self._connection,
                schema,
                slot=slot,
                snapshot_lsn=snapshot_lsn,
                mode=mode,
                complete=complete,
                identity=identity,
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
                self._before[table] = found

    def append(self, schema: TableSchema, rows: pl.DataFrame) -> None:
        """See `Sink.append`."""
        self._compression.look(rows)
        self._applier(schema)[0].copy(rows)

    def finish_copy(self, schema: TableSchema) -> None:
        """See `Sink.finish_copy`."""
        before = self._before.pop(schema.table, None)
        if before is not None:
            lsn = self._state(schema.table).snapshot_lsn
            with translated(self.path):
                resnapshot.carry_marked(Statements(self._connection, self.path, schema), before, lsn or Lsn(0))
                resnapshot.forget(self._connection)

    def apply(self, effect: NetEffect) -> None:
        """See `Sink.apply`."""
        applier, statements = self._applier(effect.schema)
        if isinstance(applier, ChangelogApplier):
            raise TypeError(f"{effect.schema.table} is a changelog: its changes are appended")
        for frame in (effect.appends, effect.upserts, *(update.frame for update in effect.updates)):
            if frame is not None:
                self._compression.look(frame)
        apply_effect(effect, applier, statements)
        self._touched.add(effect.schema.table)

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """See `Sink.append_changes`."""
        applier, _ = self._applier(schema)
        if not isinstance(applier, ChangelogApplier):
            raise TypeError(f"{schema.table} is no changelog: the net effect of its changes is applied")
        self._compression.look(changes)
        applier.append(changes)
        self._touched.add(schema.table)

    def refused(self, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """See `Sink.refused`."""
        with translated(self.path):
            return refused(self._connection, schema, frame)

    def other_values(self, schema: TableSchema, column: str, known: Collection[str]) -> Collection[str]:
        """See `Sink.other_values`."""
        with translated(self.path):
            return other_values(self._connection, schema, column, known, self._state(schema.table))

    def missing(self, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
        """See `Sink.missing`."""
        with translated(self.path):
            do = Statements(self._connection, self.path, schema)
            return missing(self._connection, do, keys, self._state(schema.table))

    def quarantine(self, table: TableRef, rows: pl.DataFrame, *, slot: str) -> None:
        """See `Sink.quarantine`."""
        with translated(self.path):
            bookkeeping.write_quarantine(self._connection, table, rows, slot=slot)

    def quarantined(self, slot: str) -> Mapping[TableRef, int]:
        """See `Sink.quarantined`."""
        with translated(self.path):
            known = self._layout >= bookkeeping.WITH_QUARANTINE
            return bookkeeping.count_quarantine(self._connection, slot) if known else {}

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """See `Sink.quarantine_reasons`."""
        with translated(self.path):
            known = self._layout >= bookkeeping.WITH_QUARANTINE
            return bookkeeping.quarantine_reasons(self._connection, table) if known else {}

    def count_duplicated_keys(self, schema: TableSchema) -> int:
        """See `Sink.count_duplicated_keys`."""
        key = ", ".join(f"{TARGET}.{quote_identifier(name)}" for name in schema.key)
        with translated(self.path):
            name, live = qualified(self._connection, schema.table), shapes.LIVE[self._state(schema.table).mode]
            row = self._connection.execute(
                f"SELECT count(*) FROM (SELECT 1 FROM {name} AS {TARGET} WHERE {live} GROUP BY {key} "
                "HAVING count(*) > 1)"
            ).fetchone()
        return int(row[0]) if row else 0

    def commit(self, checkpoint: Checkpoint, *, last: bool = False) -> None:
        """See `Sink.commit`."""
        with translated(self.path):
            bookkeeping.write_checkpoint(self._connection, checkpoint)
            if last:
                # Closing would write it from the WAL into the file right afterwards: everything twice.
                self._connection.execute("SET checkpoint_threshold = '0B'")
            self._in_transaction = False  # also if it fails
            self._connection.execute("COMMIT")
            self._connection.execute(_CHECKPOINT_SELDOM)

    def rollback(self) -> None:
        """See `Sink.rollback`."""
        if self._in_transaction:
            self._in_transaction = False
            with translated(self.path):
                try:
                    self._connection.execute("ROLLBACK")
                except duckdb.FatalException:
                    return  # nothing more can be done with the file until it is opened anew, and nothing was committed
                self._layout = bookkeeping.layout(self._connection)
                self._empty = self._layout == 0

    def interrupt(self) -> None:
        """See `Sink.interrupt`."""
        self._connection.interrupt()

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """See `Sink.count_rows`."""
        counts: dict[TableRef, int] = {}
        with translated(self.path):
            for table in tables:
                name, live = qualified(self._connection, table), shapes.LIVE[self._state(table).mode]
                row = self._connection.execute(f"SELECT count(*) FROM {name} AS {TARGET} WHERE {live}").fetchone()
                counts[table] = int(row[0]) if row else 0
        return counts

    def _state(self, table: TableRef) -> TableState:
        """What is recorded of one of our tables."""
        with translated(self.path):
            state = bookkeeping.read_state(self._connection, table, self._layout)
        if state is None:
            raise DestinationConflict(
                f"{self.path} does not know the table {table} any more",
                object=str(table),
                remedy=f"copy the table anew: dbmazz snapshot --tables '{table}'",
            )
        return state

    def _applier(self, schema: TableSchema) -> tuple[RowApplier | ChangelogApplier, Statements]:
        """What writes to a table, by its mode."""
        state = self._state(schema.table)
        statements = Statements(self._connection, self.path, schema)
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

    def _replace(self, table: TableRef, columns: shapes.Columns) -> None:
        listed = ", ".join(f"{quote_identifier(name)} {type}" for name, type in columns)
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(self._connection, table.schema)}")
        self._connection.execute(f"CREATE OR REPLACE TABLE {qualified(self._connection, table)} ({listed})")

    @staticmethod
    def _verify_names(schema: TableSchema) -> None:
        for conflict in conflicts({schema.table: schema.names}):
            raise conflict

    def _all_columns(self) -> dict[TableRef, shapes.Columns]:
        """Names and types of the columns of every table and view, in one read."""
        found: dict[TableRef, shapes.Columns] = {}
        for schema, table, column, type in self._connection.execute(
            "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
            "WHERE table_catalog = current_database() ORDER BY table_schema, table_name, ordinal_position"
        ).fetchall():
            found.setdefault(TableRef(schema, table), []).append((column, type))
        return found

    def _columns(self, table: TableRef) -> list[tuple[str, str]]:
        return self._connection.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_catalog = current_database() "
            "AND table_schema = ? AND table_name = ? ORDER BY ordinal_position",
            [table.schema, table.name],
        ).fetchall()
