"""A DuckDB file as the destination, exactly once: rows and checkpoint are committed together.

The tables have no PRIMARY KEY index: MERGE by key is ten times faster on the net effect of a flush, and keeps keys
unique (docs/benchmarks.md).
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb.file import DuckDBFile
from dbmazz_core.connectors.sinks.duckdb.kept_instance import KeptInstance
from dbmazz_core.connectors.sinks.duckdb.read_copy import ReadCopyPublisher
from dbmazz_core.connectors.sinks.duckdb.storage_version import read_storage_version, rewrite
from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, quarantine_records, shapes, table_records
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import columns_changed, unrecorded_table
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import name_conflicts, name_warnings, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import owner_conflicts
from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.errors import DestinationChanged, DestinationConflict
from dbmazz_core.loading import load_polars
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import TableState
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.settings.memory import MemoryConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

if TYPE_CHECKING:
    from dbmazz_core.connectors.sinks.duckdb_sql.staged_copy import DuckDBStagedCopy
    from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction


class DuckDBSink:
    """Implements `dbmazz_core.model.sink.Sink` for a DuckDB file, which is opened when it is first used.

    Args:
        config: Path, lock timeout, memory limit.
        feed: The feed that the tables and the checkpoint belong to (PostgreSQL: the slot).
        read_only: Open it only for reading. A missing file is not created; `read` then returns empty bookkeeping.
        often: Whether the file will be opened many times, so that an instance of DuckDB is kept for it.
        memory: Gives DuckDB its share if `config` has no memory limit; None: the default.

    All methods raise DestinationLocked if another process holds the file for longer than the timeout, and
    DestinationError if the file cannot be opened, or a newer dbmazz wrote it.
    """

    def __init__(
        self,
        config: SinkConfig,
        *,
        feed: str,
        read_only: bool = False,
        often: bool = False,
        memory: MemoryConfig | None = None,
    ) -> None:
        self.path = config.url
        self.feed = feed
        self._config = config
        self._instance = KeptInstance(config.url) if often else None
        self._file = DuckDBFile(config, feed=feed, read_only=read_only, instance=self._instance, memory=memory)
        self._transaction: DuckDBTransaction | None = None
        # The bookkeeping as this sink knows it, from the last read, or from the end of its last transactions.
        self._known: Recorded | None = None
        self._known_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Roll back an open transaction and close the file. Delete a new file to which nothing was committed."""
        if self._transaction is not None:
            self._transaction.rollback()
        self._file.close()
        if self._instance is not None:
            self._instance.end()

    def release(self) -> None:
        """See `Sink.release`."""
        assert self._transaction is None
        self._file.close(before=self._remember)

    def _remember(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Read the bookkeeping that this sink has written, which tells other writers' changes from its own later."""
        if self._known is None:
            self._keep(self._read(connection))

    def _keep(self, recorded: Recorded) -> None:
        self._known, self._known_at = recorded, self._file.openings

    @property
    def held_s(self) -> float:
        """See `Sink.held_s`."""
        return self._file.held_s + self._file.held_now_s

    def publish(self) -> ReadCopy | None:
        """See `Sink.publish`."""
        if self._config.read_copy is None:
            return None
        self.release()
        return ReadCopyPublisher(self._config, self.feed).publish()

    def version(self) -> str | None:
        """See `Sink.version`."""
        return self._file.version()

    def format(self) -> str | None:
        """See `Sink.format`."""
        connection = self._file.open().connection
        if self._file.layout == 0:
            return None
        with translated(self.path):
            version = read_storage_version(connection)
        return None if version is None else f"DuckDB {version} and later"

    def rewrite(self) -> str:
        """See `Sink.rewrite`."""
        self.release()
        before, after = rewrite(self._config, self.feed)
        self._known = None
        return f"{self.path} was written anew: DuckDB {after} and later can read it (before: {before})"

    def begin(self) -> DuckDBTransaction:
        """See `Sink.begin`."""
        load_polars()
        from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction

        destination = self._open_for_writing()
        create = self._file.layout < bookkeeping.LAYOUT
        self._transaction = DuckDBTransaction(destination, create=create, on_end=self._on_end)
        return self._transaction

    def stage(self, shape: TableShape, mode: Mode) -> DuckDBStagedCopy:
        """See `Sink.stage`."""
        load_polars()
        from dbmazz_core.connectors.sinks.duckdb_sql.staged_copy import DuckDBStagedCopy

        assert self._transaction is None
        destination = self._open_for_writing()
        with translated(self.path):
            if self._file.layout < bookkeeping.LAYOUT:
                bookkeeping.create(destination.connection)
                self._file.layout = bookkeeping.LAYOUT
        return DuckDBStagedCopy(destination, shape.schema, mode)

    def _open_for_writing(self) -> Destination:
        """Open the file for writing; raise DestinationChanged if another process has changed what this feed owns."""
        was_writable, known = self._file.is_writable, self._known
        destination = self._file.open(for_writing=True)
        if was_writable or known is None or not self._file.changed:
            return destination
        found = self._read(destination.connection)
        if _are_same(known, found):
            return destination
        self._known = None
        if known.checkpoint is not None and found.checkpoint is None:
            raise DestinationChanged(
                f"{self.path} was deleted, or another file took its place, during this window; nothing was applied "
                "since its last commit",
                object=self.path,
                remedy="put the file back; or run again, which copies all tables",
            )
        raise DestinationChanged(
            f"another process changed the bookkeeping or the tables of {self.feed} in {self.path} during this window; "
            "nothing was applied since its last commit",
            object=self.path,
            remedy="run again: the capture resumes at the checkpoint of the file",
        )

    def _on_end(self, rolled_back: bool) -> None:
        self._transaction = None
        if not rolled_back:
            self._file.layout = bookkeeping.LAYOUT
            self._known = None

    def interrupt(self) -> None:
        """See `Sink.interrupt`."""
        self._file.interrupt()

    def read(self) -> Recorded:
        """See `Sink.read`."""
        # While the file is open, nobody else can change it.
        is_same = self._known_at == self._file.openings and (self._file.is_open or self._file.is_unchanged())
        if self._known is not None and self._transaction is None and is_same:
            return self._known
        connection = self._file.open().connection
        recorded = self._read(connection)
        if self._transaction is None:
            self._keep(recorded)
        return recorded

    def _read(self, connection: duckdb.DuckDBPyConnection) -> Recorded:
        layout = self._file.layout
        if layout == 0:
            return Recorded()
        with translated(self.path):
            checkpoint = bookkeeping.read_checkpoint(connection, self.feed, layout)
            tables, pending = table_records.read_recorded(connection, self.feed, layout)
            held_s = bookkeeping.read_held_s(connection, self.feed, layout)
            columns = shapes.read_all_columns(connection)
        return Recorded(
            checkpoint,
            {table.state.table: self._with_drift(table, columns) for table in tables},
            {state.table: state for state in pending},
            held_s,
        )

    def _with_drift(self, table: RecordedTable, columns: Mapping[TableRef, shapes.Columns]) -> RecordedTable:
        """Return a table, with an error if its columns are not the recorded ones."""
        ref, expected = table.state.table, shapes.columns(table.schema, table.state.mode)
        found = columns.get(ref, [])
        if shapes.comparable(found) == shapes.comparable(expected):
            return table
        return replace(table, altered=columns_changed(ref, self.path, expected, found))

    def identity(self) -> DestinationIdentity:
        """See `Sink.identity`."""
        # The path may have any characters; the source keeps the location as ASCII on one line.
        path = str(Path(self.path).resolve()).encode("unicode_escape").decode()
        connection = self._file.open().connection
        with translated(self.path):
            return DestinationIdentity(
                bookkeeping.read_id(connection, self._file.layout), f"{path} on host {socket.gethostname()}"
            )

    def identify(self) -> DestinationIdentity:
        """See `Sink.identify`."""
        identity = self.identity()
        if identity.id is not None:
            return identity
        connection = self._open_for_writing().connection
        with translated(self.path):
            if self._file.layout < bookkeeping.LAYOUT:
                bookkeeping.create(connection)
                self._file.layout = bookkeeping.LAYOUT
            bookkeeping.write_id(connection)
        return self.identity()

    def owner_conflicts(self, tables: Collection[TableRef]) -> Mapping[TableRef, DestinationConflict]:
        """See `Sink.owner_conflicts`."""
        connection = self._file.open().connection
        with translated(self.path):
            owners = {} if self._file.layout == 0 else table_records.read_owners(connection)
            return owner_conflicts(connection, tables, owners, self.feed, self.path)

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationConflict]:
        """See `Sink.name_conflicts`."""
        return list(name_conflicts(tables))

    def name_warnings(self, tables: Collection[TableRef]) -> Sequence[DestinationConflict]:
        """See `Sink.name_warnings`."""
        return list(name_warnings(tables, self.path))

    def quarantined(self) -> Mapping[TableRef, int]:
        """See `Sink.quarantined`."""
        connection = self._file.open().connection
        with translated(self.path):
            has_quarantine = self._file.layout >= bookkeeping.LAYOUT_WITH_QUARANTINE
            return quarantine_records.count_quarantine(connection, self.feed) if has_quarantine else {}

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """See `Sink.quarantine_reasons`."""
        connection = self._file.open().connection
        with translated(self.path):
            has_quarantine = self._file.layout >= bookkeeping.LAYOUT_WITH_QUARANTINE
            return quarantine_records.quarantine_reasons(connection, table) if has_quarantine else {}

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """See `Sink.count_rows`."""
        connection, states = self._file.open().connection, self.read().states
        with translated(self.path):
            return {table: self._count(connection, self._live_rows(connection, states, table)) for table in tables}

    def audit(self, tables: Iterable[TableRef], *, max_rows: int | None = None) -> Mapping[TableRef, TableAudit]:
        """See `Sink.audit`."""
        recorded, counts = self.read(), self.count_rows(tables)
        connection, bad = self._file.open().connection, self.quarantined()
        found: dict[TableRef, TableAudit] = {}
        for table, rows in counts.items():
            schema, state = recorded.tables[table].schema, recorded.states[table]
            reasons = self.quarantine_reasons(table) if table in bad else {}
            audit = TableAudit(rows, state.mode, schema.key, quarantined=reasons)
            if audit.has_keys and (max_rows is None or rows <= max_rows):
                key = ", ".join(f"{TARGET}.{quote_identifier(name)}" for name in schema.key)
                groups = f"{self._live_rows(connection, recorded.states, table)} GROUP BY {key} HAVING count(*) > 1"
                with translated(self.path):
                    audit = replace(audit, duplicated_keys=self._count(connection, f"FROM (SELECT 1 {groups})"))
            found[table] = audit
        return found

    def _count(self, connection: duckdb.DuckDBPyConnection, rows: str) -> int:
        found = connection.execute(f"SELECT count(*) {rows}").fetchone()
        return int(found[0]) if found else 0

    def _live_rows(
        self, connection: duckdb.DuckDBPyConnection, states: Mapping[TableRef, TableState], table: TableRef
    ) -> str:
        """Return FROM and WHERE for the rows of a table that the source has; see `shapes.LIVE`."""
        if table not in states:
            raise unrecorded_table(table, self.path)
        return f"FROM {qualified(connection, table)} AS {TARGET} WHERE {shapes.LIVE[states[table].mode]}"


def _are_same(one: Recorded, other: Recorded) -> bool:
    """Return whether two reads of the bookkeeping are equal; errors are compared by their texts."""

    def comparable(recorded: Recorded) -> Recorded:
        tables = {
            ref: (table.state, table.shape, None if table.altered is None else table.altered.what)
            for ref, table in recorded.tables.items()
        }
        return replace(recorded, tables=tables)  # type: ignore[arg-type]  # only compared

    return comparable(one) == comparable(other)
