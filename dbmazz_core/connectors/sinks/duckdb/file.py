"""The DuckDB file of a sink, which is open only while it is needed.

DuckDB locks a file for one process that writes, or for several that read. A window therefore opens the file to read its
bookkeeping, and opens it for writing only where it has something to commit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb.kept_instance import KeptInstance
from dbmazz_core.connectors.sinks.duckdb.opening import closing, open_file, verify_path
from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping
from dbmazz_core.connectors.sinks.duckdb_sql.compression import TextCompression
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.memory import MemoryLimit
from dbmazz_core.connectors.sinks.duckdb_sql.names import database
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.settings.memory import MemoryConfig

#: In a join with a smaller table, DuckDB 1 lets pyarrow filter the frame by the range of the table's keys. That fails
#: for texts (tried, 1.4.0: "no kernel matching input types (string_view, bool)").
FILTERS_FRAMES = not duckdb.__version__.startswith("1.")

#: Freed bytes of a task that DuckDB's allocator keeps for the next one.
_ALLOCATOR_BYTES = 16 << 20

#: What tells one content of a file from another: inode, size, time of the last change, all of file and WAL.
FileIdentity = tuple[int, int, int]
_Signature = tuple[FileIdentity | None, FileIdentity | None]


class DuckDBFile:
    """Opens a DuckDB file when it is needed, and closes it as soon as others may use it.

    Args:
        config: Path, lock timeout, memory limit.
        feed: The feed that the tables belong to.
        read_only: Never open it for writing. A missing file is then an empty one.
        instance: Opens the file; None: each time an instance of DuckDB for it alone.
        memory: Gives DuckDB its share if `config` has no memory limit; None: the default.

    Attributes:
        layout: Layout of the bookkeeping when the file was last opened; 0: it has none.
        held_s: Seconds for which the file was open for writing, so that nobody else could open it.
        changed: Whether the content may have been changed between the last two times that the file was open.
        openings: How many times the file was opened with a content that may have been changed before.
    """

    def __init__(
        self,
        config: SinkConfig,
        *,
        feed: str,
        read_only: bool = False,
        instance: KeptInstance | None = None,
        memory: MemoryConfig | None = None,
    ) -> None:
        self.path = config.url
        self.layout = 0
        self.held_s = 0.0
        self.changed = False
        self.openings = 0
        self._config = config
        self._feed = feed
        self._read_only = read_only
        self._instance = instance
        share = (memory or MemoryConfig()).sink_bytes
        self._memory = MemoryLimit(config.memory_limit or share, grows=config.memory_limit is None)
        self._destination: Destination | None = None
        self._writable = False
        self._signature: _Signature | None = None
        self._interrupted = threading.Event()

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._destination is not None

    @property
    def is_writable(self) -> bool:
        """Whether the file is open for writing."""
        return self.is_open and self._writable

    @property
    def held_now_s(self) -> float:
        """Seconds for which the file is open for writing since it was opened; 0 if it is not."""
        destination = self._destination
        return 0.0 if destination is None or not self._writable else time.monotonic() - destination.opened_at

    def open(self, *, for_writing: bool = False) -> Destination:
        """Return the open file; open it if it is not open, or only for reading.

        Raises:
            DestinationLocked: Another process holds the file for longer than the timeout.
            DestinationError: The file cannot be opened, or a newer dbmazz wrote it.
        """
        for_writing = for_writing and not self._read_only
        if self._memory.has_failed:
            self.close()  # DuckDB invalidates a database whose COMMIT or checkpoint has failed
        if self._destination is not None and (self._writable or not for_writing):
            return self._destination
        self.close()
        if not self._read_only:
            verify_path(self._config)
        connect = None if self._instance is None else self._instance.connect
        connection = open_file(self._config, not for_writing, self._interrupted, connect)
        self._writable = for_writing
        self._destination = destination = Destination(
            connection, self.path, self._feed, TextCompression(connection), self._memory, time.monotonic()
        )
        try:
            self.changed = self._signature is None or self._signature != _signature(self.path)
            self.openings += self.changed
            with translated(self.path):
                self._configure(destination)
                self.layout = bookkeeping.layout(connection)
            if self.layout > bookkeeping.LAYOUT:
                raise DestinationError(
                    f"a newer dbmazz wrote {self.path} (layout {self.layout}; this version supports "
                    f"{bookkeeping.LAYOUT})",
                    object=self.path,
                    remedy="pip install -U dbmazz",
                )
        except BaseException:
            self.close()
            raise
        return destination

    def _configure(self, destination: Destination) -> None:
        # SET instead of options of connect: DuckDB rejects a second connection of a process with other options.
        # The progress bar would mix with the lines of --json on standard output.
        others = "" if FILTERS_FRAMES else "SET disabled_optimizers = 'join_filter_pushdown';"
        destination.connection.execute(
            f"SET TimeZone = 'UTC'; SET allocator_flush_threshold = '{_ALLOCATOR_BYTES}B'; "
            f"SET allocator_bulk_deallocation_flush_threshold = '{_ALLOCATOR_BYTES}B'; "
            f"SET preserve_insertion_order = false; SET enable_progress_bar = false; {others}"
        )
        self._memory.reset()
        destination.set_memory_limit()
        destination.set_checkpoint_threshold()
        database(destination.connection)  # asked now, before a transaction begins

    def version(self) -> str | None:
        """Return a text that differs once the file has changed; None if there is no file."""
        file, wal = _signature(self.path)
        return None if file is None else "-".join(map(str, (*file, *(wal or ()))))

    def is_unchanged(self) -> bool:
        """Return whether the closed file still has the content that it had when it was last open."""
        return self._signature is not None and self._signature == _signature(self.path)

    def close(self, before: Callable[[duckdb.DuckDBPyConnection], None] | None = None) -> None:
        """Close the file, if it is open. Delete a new file to which nothing was committed.

        Args:
            before: Called with the connection just before.
        """
        destination, self._destination = self._destination, None
        if destination is None:
            return
        connection = destination.connection
        try:
            if before is not None:
                before(connection)
        finally:
            with translated(self.path):
                if not self._writable:
                    self._signature = _signature(self.path)
                    self._end(connection)
                else:
                    self._close_for_writing(connection)
                    self.held_s += time.monotonic() - destination.opened_at

    def _close_for_writing(self, connection: duckdb.DuckDBPyConnection) -> None:
        with closing(Path(self.path)) as created:
            if created and self._is_unused(connection):
                # Delete before closing: until then the lock keeps other processes out of the file.
                Path(self.path).unlink(missing_ok=True)
            self._signature = self._checkpointed(connection)
            self._end(connection)

    def _end(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self._instance is None:
            connection.close()
        else:
            self._instance.close(connection)

    def _checkpointed(self, connection: duckdb.DuckDBPyConnection) -> _Signature | None:
        """Move the WAL into the file, as closing does, and return the signature: closing changes nothing then.

        While the file is open, nobody else can change it.
        """
        try:
            if Path(f"{self.path}.wal").exists():
                connection.execute("CHECKPOINT")
        except duckdb.Error:
            return None  # another thread's transaction is open, or DuckDB has invalidated the database
        return _signature(self.path)

    def _is_unused(self, connection: duckdb.DuckDBPyConnection) -> bool:
        try:
            return bookkeeping.layout(connection) == 0 or bookkeeping.is_unused(connection)
        except duckdb.Error:
            return False  # DuckDB has invalidated the database

    def interrupt(self) -> None:
        """Cancel the statement that another thread runs, and every later wait for the file's lock."""
        self._interrupted.set()
        if (destination := self._destination) is not None:
            destination.connection.interrupt()


def _signature(path: str) -> _Signature:
    return file_identity(path), file_identity(f"{path}.wal")


def file_identity(path: str | Path) -> FileIdentity | None:
    """Return inode, size and time of the last change of a file, in nanoseconds; None if there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
