"""A DuckDB file as the destination, exactly once: rows and checkpoint are committed together.

The tables have no PRIMARY KEY index: MERGE by key is ten times faster on the net effect of a flush, and keeps keys
unique (docs/benchmarks.md).
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb.opening import closing, open_file
from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, quarantine_records, shapes, table_records
from dbmazz_core.connectors.sinks.duckdb_sql.compression import TextCompression
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import columns_changed, unrecorded_table
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.memory import MemoryLimit
from dbmazz_core.connectors.sinks.duckdb_sql.names import name_conflicts, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import owner_conflicts
from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction
from dbmazz_core.errors import DestinationConflict, DestinationError
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: In a join with a smaller table, DuckDB 1 lets pyarrow filter the frame by the range of the table's keys. That fails
#: for texts (tried, 1.4.0: "no kernel matching input types (string_view, bool)").
FILTERS_FRAMES = not duckdb.__version__.startswith("1.")


class DuckDBSink:
    """Implements `dbmazz_core.model.sink.Sink` for a DuckDB file. The constructor opens the file.

    Args:
        config: Path, lock timeout, memory limit.
        feed: The feed that the tables and the checkpoint belong to (PostgreSQL: the slot).
        read_only: Open for reading. A missing file is not created; `read` then returns empty bookkeeping.

    Raises:
        DestinationLocked: If another process holds the file for longer than the timeout.
        DestinationError: If the file cannot be opened, or a newer dbmazz wrote it.
    """

    def __init__(self, config: SinkConfig, *, feed: str, read_only: bool = False) -> None:
        self.path = config.url
        self.feed = feed
        self._read_only = read_only
        self._closed = False
        self._connection = open_file(config, read_only)
        self._destination = Destination(
            self._connection, self.path, feed, TextCompression(self._connection), MemoryLimit(config.memory_limit)
        )
        self._transaction: DuckDBTransaction | None = None
        self._layout = 0
        try:
            with translated(self.path):
                self._configure(config)
                # The first transaction creates the bookkeeping: a run that fails before changes nothing.
                self._layout = bookkeeping.layout(self._connection)
            if self._layout > bookkeeping.LAYOUT:
                raise DestinationError(
                    f"a newer dbmazz wrote {self.path} (layout {self._layout}; this version supports "
                    f"{bookkeeping.LAYOUT})",
                    object=self.path,
                    remedy="pip install -U dbmazz",
                )
        except BaseException:
            self.close()
            raise

    def _configure(self, config: SinkConfig) -> None:
        # SET instead of options of connect: DuckDB rejects a second connection of a process with other options.
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"SET memory_limit = '{config.memory_limit}B'")
        self._connection.execute("SET preserve_insertion_order = false")
        if not FILTERS_FRAMES:
            self._connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
        # The progress bar would mix with the lines of --json on standard output.
        self._connection.execute("SET enable_progress_bar = false")
        self._destination.set_checkpoint_threshold()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Roll back an open transaction and close the file. Delete a new file to which nothing was committed."""
        if self._transaction is not None:
            self._transaction.rollback()
        if self._closed:
            return
        self._closed = True
        with translated(self.path):
            if self._read_only:
                self._connection.close()
                return
            with closing(Path(self.path)) as created:
                if created and self._is_unused():
                    # Delete before closing: until then the lock keeps other processes out of the file.
                    Path(self.path).unlink(missing_ok=True)
                self._connection.close()

    def _is_unused(self) -> bool:
        try:
            return bookkeeping.layout(self._connection) == 0 or bookkeeping.is_unused(self._connection)
        except duckdb.Error:
            return False  # DuckDB has invalidated the database

    def begin(self) -> DuckDBTransaction:
        """See `Sink.begin`."""
        create = self._layout < bookkeeping.LAYOUT
        self._transaction = DuckDBTransaction(self._destination, create=create, on_end=self._on_end)
        return self._transaction

    def _on_end(self, rolled_back: bool) -> None:
        self._transaction = None
        if not rolled_back:
            self._layout = bookkeeping.LAYOUT

    def interrupt(self) -> None:
        """See `Sink.interrupt`."""
        self._connection.interrupt()

    def read(self) -> Recorded:
        """See `Sink.read`."""
        if self._layout == 0:
            return Recorded()
        with translated(self.path):
            checkpoint = bookkeeping.read_checkpoint(self._connection, self.feed, self._layout)
            tables, pending = table_records.read_recorded(self._connection, self.feed, self._layout)
            columns = shapes.read_all_columns(self._connection)
        return Recorded(
            checkpoint,
            {table.state.table: self._with_drift(table, columns) for table in tables},
            {state.table: state for state in pending},
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
        with translated(self.path):
            return DestinationIdentity(
                bookkeeping.read_id(self._connection, self._layout), f"{path} on host {socket.gethostname()}"
            )

    def identify(self) -> DestinationIdentity:
        """See `Sink.identify`."""
        identity = self.identity()
        if identity.id is not None:
            return identity
        with translated(self.path):
            if self._layout < bookkeeping.LAYOUT:
                bookkeeping.create(self._connection)
                self._layout = bookkeeping.LAYOUT
            bookkeeping.write_id(self._connection)
        return self.identity()

    def owner_conflicts(self, tables: Collection[TableRef]) -> Mapping[TableRef, DestinationConflict]:
        """See `Sink.owner_conflicts`."""
        with translated(self.path):
            owners = {} if self._layout == 0 else table_records.read_owners(self._connection)
            return owner_conflicts(self._connection, tables, owners, self.feed, self.path)

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationConflict]:
        """See `Sink.name_conflicts`."""
        return list(name_conflicts(tables))

    def quarantined(self) -> Mapping[TableRef, int]:
        """See `Sink.quarantined`."""
        with translated(self.path):
            has_quarantine = self._layout >= bookkeeping.LAYOUT_WITH_QUARANTINE
            return quarantine_records.count_quarantine(self._connection, self.feed) if has_quarantine else {}

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """See `Sink.quarantine_reasons`."""
        with translated(self.path):
            has_quarantine = self._layout >= bookkeeping.LAYOUT_WITH_QUARANTINE
            return quarantine_records.quarantine_reasons(self._connection, table) if has_quarantine else {}

    def count_duplicated_keys(self, schema: TableSchema) -> int:
        """See `Sink.count_duplicated_keys`."""
        key = ", ".join(f"{TARGET}.{quote_identifier(name)}" for name in schema.key)
        with translated(self.path):
            rows = f"{self._live_rows(schema.table)} GROUP BY {key} HAVING count(*) > 1"
            row = self._connection.execute(f"SELECT count(*) FROM (SELECT 1 {rows})").fetchone()
        return int(row[0]) if row else 0

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """See `Sink.count_rows`."""
        counts: dict[TableRef, int] = {}
        with translated(self.path):
            for table in tables:
                row = self._connection.execute(f"SELECT count(*) {self._live_rows(table)}").fetchone()
                counts[table] = int(row[0]) if row else 0
        return counts

    def _live_rows(self, table: TableRef) -> str:
        """Return FROM and WHERE for the rows of a table that the source has; see `shapes.LIVE`."""
        state = table_records.read_state(self._connection, table, self._layout)
        if state is None:
            raise unrecorded_table(table, self.path)
        return f"FROM {qualified(self._connection, table)} AS {TARGET} WHERE {shapes.LIVE[state.mode]}"
