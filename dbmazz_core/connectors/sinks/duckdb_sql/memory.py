"""Keep what DuckDB cannot write to disk before a COMMIT within the memory limit.

DuckDB keeps three things of a transaction in memory until its end, whatever the memory limit is (tried, 1.5 and 2.0):

- The old and the new values of an UPDATE, also of one by MERGE. DELETE and INSERT are spilled to disk. Beyond a part of
  the limit, a transaction therefore deletes rows and inserts them again instead of updating them.
- The last 2,048 rows of a table that were written since the last checkpoint, as it reads them as one vector. Rows of a
  megabyte fill the memory before there are as many, so the file is checkpointed sooner.
- As many of the rows that it inserted, when it commits. A transaction with more such wide rows than there is room for
  fails at its COMMIT; a copy of the table, committed in pieces, passes (module `staging`).

A limit that is a share of `MEMORY_LIMIT` fits rows of up to some kilobytes. It grows with wider rows, to `MOST_BYTES`,
and for a value that is larger than that. Where DuckDB fails for want of memory, because a table had wide rows before,
the limit grows to `MOST_BYTES`, and the transaction is repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl

#: Part of the limit that the values of a transaction's updates may take, by the size of their frames. 500 MB of 953 MB
#: were too much with rows of 2 kB; DuckDB takes several times as much for rows of some bytes.
_UPDATES = 1 / 8
#: Part of the limit that the rows of a vector may take.
_VECTOR = 1 / 4
_VECTOR_ROWS = 2048
#: Rows of a frame of which each may be enormous: the receiver hands over about 4 MB at a time, or one row.
_FEW_ROWS = 8
#: Part of the limit that the wide rows may take that a transaction inserts into a table. Of 953 MB, 600 passed and
#: 1,000 did not, with rows of 1 MB; of 200 MB, 150 passed and 180 did not, with rows of 200 kB.
_COMMIT = 1 / 2
_SELDOM_BYTES = 1_000_000_000
#: How far a limit that was not set grows for wide rows.
MOST_BYTES = 1 << 30
#: How many times its own size DuckDB needs for a frame of a few enormous rows.
_ENORMOUS = 3


class MemoryLimit:
    """Decides how a run writes, by the sizes of frames.

    Args:
        limit: DuckDB's memory limit, in bytes.
        grows: Whether it grows for wide rows; otherwise a user has set it.

    Attributes:
        limit: The limit as of now.
        has_failed: Whether the limit grew because DuckDB failed, since the file was opened.
        wide_tables: Tables that turned out to have wide rows: a copy came upon them after others, or an UPDATE did.
    """

    def __init__(self, limit: int, *, grows: bool = False) -> None:
        self.wide_tables: set[TableRef] = set()
        self.limit = limit
        self.has_failed = False
        self._share = limit
        self._grows = grows
        self._has_wide_rows = False

    def make_room(self, frame: pl.DataFrame) -> None:
        """Let the limit grow until the rows of a frame are not wide, or `MOST_BYTES` are reached."""
        if not self._grows or not len(frame):
            return
        size = int(frame.estimated_size())
        vector = int(size / len(frame) * _VECTOR_ROWS / _VECTOR)
        self.limit = max(self.limit, min(vector, MOST_BYTES), size * _ENORMOUS if len(frame) <= _FEW_ROWS else 0)

    def grow(self) -> bool:
        """Let the limit grow to `MOST_BYTES` for good, because it was too small; return False if it is as large."""
        if not self._grows or self.limit >= MOST_BYTES:
            return False
        self.limit = self._share = MOST_BYTES
        self.has_failed = True
        return True

    def reset(self) -> None:
        """Let the limit be the share again, as the file is opened for other rows."""
        self.limit = self._share
        self.has_failed = False

    def observe(self, frame: pl.DataFrame) -> int:
        """Note how wide the rows of a frame are, and return the frame's size in bytes. Call before writing it."""
        self._has_wide_rows |= self.is_wide(frame)
        return int(frame.estimated_size())

    def is_wide(self, frame: pl.DataFrame) -> bool:
        """Return whether a vector of such rows fills the memory."""
        return frame.estimated_size() * _VECTOR_ROWS > self.limit * _VECTOR * max(len(frame), 1)

    def allows_updates(self, size: int) -> bool:
        """Return whether a transaction that has updated rows of so many bytes may update more."""
        return size <= self.limit * _UPDATES

    def wide_bytes(self, frame: pl.DataFrame) -> int:
        """Return the size of a frame in bytes if its rows are wide, else 0."""
        return int(frame.estimated_size()) if self.is_wide(frame) else 0

    def has_room(self, size: int) -> bool:
        """Return whether a transaction can commit wide rows of so many bytes."""
        return size <= self.limit * _COMMIT

    @property
    def checkpoint_threshold(self) -> int:
        """The size of the WAL, in bytes, after which DuckDB checkpoints the file.

        Once per window is enough, at its last commit; by default, DuckDB does it after each 16 MB.
        """
        return int(self.limit * _VECTOR) if self._has_wide_rows else _SELDOM_BYTES
