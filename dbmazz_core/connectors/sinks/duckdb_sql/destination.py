"""The open file that a sink writes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.compression import TextCompression
from dbmazz_core.connectors.sinks.duckdb_sql.memory import MemoryLimit

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class Destination:
    """An open DuckDB file with the tables of a feed.

    Attributes:
        connection: The connection.
        path: The file, for messages.
        feed: The feed that the tables belong to (PostgreSQL: the slot).
        compression: Sets the compression of texts.
        memory: Decides how to write within the memory limit.
        opened_at: When the file was opened (`time.monotonic`).
    """

    connection: duckdb.DuckDBPyConnection
    path: str
    feed: str
    compression: TextCompression
    memory: MemoryLimit
    opened_at: float

    def make_room(self, *frames: pl.DataFrame) -> None:
        """Let DuckDB use more memory, if it may, where the rows of frames are wide. Call before `observe`."""
        limit = self.memory.limit
        for frame in frames:
            self.memory.make_room(frame)
        if self.memory.limit != limit:
            self.set_memory_limit()
            self.set_checkpoint_threshold()

    def observe(self, frame: pl.DataFrame) -> int:
        """Prepare to write a frame; return its size in bytes."""
        self.compression.observe(frame)
        threshold = self.memory.checkpoint_threshold
        size = self.memory.observe(frame)
        if self.memory.checkpoint_threshold != threshold:
            self.set_checkpoint_threshold()
        return size

    def set_memory_limit(self) -> None:
        """Let DuckDB use as much memory as the limit allows."""
        self.connection.execute(f"SET memory_limit = '{self.memory.limit}B'")

    def set_checkpoint_threshold(self, size: int | None = None) -> None:
        """Let DuckDB checkpoint the file after so many bytes of WAL; None: as the memory limit allows."""
        size = self.memory.checkpoint_threshold if size is None else size
        self.connection.execute(f"SET checkpoint_threshold = '{size}B'")
