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

from dbmazz_core.connectors.sinks.duckdb.opening import opened
from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, shapes
from dbmazz_core.connectors.sinks.duckdb_sql.compression import Compression
from dbmazz_core.connectors.sinks.duckdb_sql.conflicts import changed_by_hand, unknown_table
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import conflicts, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import owner_conflicts
from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.transaction import (
    CHECKPOINT_SELDOM,
    Destination,
    DuckDBTransaction,
)
from dbmazz_core.errors import DestinationConflict, DestinationError
from dbmazz_core.model.recorded import Recorded, RecordedTable
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: DuckDB 1 hands the range of a join's keys to pyarrow, to filter a frame by it, which fails over texts (tried, 1.4.0:
#: "no kernel matching input types (string_view, bool)", where the table is smaller than the frame).
FILTERS_FRAMES = not duckdb.__version__.startswith("1.")


class DuckDBSink:
    """Implements `dbmazz_core.model.sink.Sink`. Opens the file at once; use as a context manager.

    Args:
        config: Path, lock timeout, memory limit.
        feed: The replication slot whose tables and checkpoint these are.
        read_only: Open for reading; a missing file is then empty bookkeeping, not a new file.

    Raises:
        DestinationLocked: If another process holds the file for longer than the timeout.
        DestinationError: If the file cannot be opened.
    """

    def __init__(self, config: SinkConfig, *, feed: str, read_only: bool = False) -> None:
        self.path = config.url
        self.feed = feed
        self._created = not read_only and not Path(config.url).exists()
        self._connection = opened(config, read_only)
        self._destination = Destination(self._connection, self.path, feed, Compression(self._connection))
        self._transaction: DuckDBTransaction | None = None
        with translated(self.path):
            # Set, not passed to connect: DuckDB refuses a second connection in a process with other options.
            self._connection.execute("SET TimeZone = 'UTC'")
            self._connection.execute(f"SET memory_limit = '{config.memory_limit}B'")
            self._connection.execute("SET preserve_insertion_order = false")
            if not FILTERS_FRAMES:
                self._connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
            # It would go to standard output, between the lines of --json.
            self._connection.execute("SET enable_progress_bar = false")
            self._connection.execute(CHECKPOINT_SELDOM)
            # The first transaction creates the bookkeeping, so that a run which fails before has changed nothing.
            self._layout = bookkeeping.layout(self._connection)
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
        """Roll back an open transaction and close the file; remove it if it is new and nothing was committed."""
        if self._transaction is not None:
            self._transaction.rollback()
        with translated(self.path):
            if self._created and self._layout == 0:
                # A run that failed before its first commit leaves no file. Before closing: until then it is locked.
                Path(self.path).unlink(missing_ok=True)
            self._connection.close()

    def begin(self) -> DuckDBTransaction:
        """See `Sink.begin`."""
        create = self._layout < bookkeeping.LAYOUT
        self._transaction = DuckDBTransaction(self._destination, create=create, ended=self._ended)
        return self._transaction

    def _ended(self, rolled_back: bool) -> None:
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
            tables = bookkeeping.read_recorded(self._connection, self.feed, self._layout)
            columns = shapes.read_all_columns(self._connection)
        return Recorded(checkpoint, {table.state.table: self._compared(table, columns) for table in tables})

    def _compared(self, table: RecordedTable, columns: Mapping[TableRef, shapes.Columns]) -> RecordedTable:
        """Return a table with the error if it has another shape now than the recorded one."""
        ref, expected = table.state.table, shapes.columns(table.schema, table.state.mode)
        found = columns.get(ref, [])
        if shapes.comparable(found) == shapes.comparable(expected):
            return table
        return replace(table, altered=changed_by_hand(ref, self.path, expected, found))

    def owner_conflicts(self, tables: Collection[TableRef]) -> Mapping[TableRef, DestinationConflict]:
        """See `Sink.owner_conflicts`."""
        with translated(self.path):
            owners = {} if self._layout == 0 else bookkeeping.read_owners(self._connection)
            return owner_conflicts(self._connection, tables, owners, self.feed, self.path)

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationConflict]:
        """See `Sink.name_conflicts`."""
        return list(conflicts(tables))

    def quarantined(self) -> Mapping[TableRef, int]:
        """See `Sink.quarantined`."""
        with translated(self.path):
            known = self._layout >= bookkeeping.WITH_QUARANTINE
            return bookkeeping.count_quarantine(self._connection, self.feed) if known else {}

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """See `Sink.quarantine_reasons`."""
        with translated(self.path):
            known = self._layout >= bookkeeping.WITH_QUARANTINE
            return bookkeeping.quarantine_reasons(self._connection, table) if known else {}

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
        """Return SQL from FROM on, for the rows of a table that the source has."""
        state = bookkeeping.read_state(self._connection, table, self._layout)
        if state is None:
            raise unknown_table(table, self.path)
        return f"FROM {qualified(self._connection, table)} AS {TARGET} WHERE {shapes.LIVE[state.mode]}"
