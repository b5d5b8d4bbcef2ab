"""One capture window: read the stream, accumulate changes, flush, acknowledge.

A flush is one transaction of the destination: the changes of all tables, and the checkpoint. It ends at the end of a
source transaction. The source gets an acknowledgement only after the flush was committed. Changes that are too large
for memory are applied in pieces within one flush. A piece holds complete source transactions, or a part of one large
source transaction.

The window reads ahead to the next flush or piece while a flush or piece is applied (`flusher.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Protocol

from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.flusher import Flush, Flusher
from dbmazz_core.engine.isolation import Isolation
from dbmazz_core.engine.pending_flush import PendingFlush
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.engine.schema_following import SchemaFollower, WindowEvent
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, ChangeBatch
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Bound
from dbmazz_core.model.stream import ChangeStream, NewSchema, StreamPart, TextNeeded, Truncation
from dbmazz_core.settings.config import FlushConfig, WindowLimits
from dbmazz_core.settings.memory import MemoryConfig
from dbmazz_core.table_ref import TableRef

#: Longest wait for messages, in seconds, before limits and stop requests are looked at again.
_POLL_S = 0.2
#: The same while an open stream is idle, and while a flush is applied whose end is to be acknowledged.
_OPEN_POLL_S = 1.0
_FLUSHING_POLL_S = 0.01
#: Most pieces of complete transactions in a flush. Each commit costs: the destination writes the rows of a flush to a
#: log of its own, and from there into the file (docs/benchmarks.md has the measurements).
_MAX_PIECES = 16
#: The same for rows that are wide on average: a destination may have to hold many of them in memory to commit them.
_MAX_WIDE_PIECES = 4
_WIDE_ROW_BYTES = 1 << 16


class Upkeep(Protocol):
    """Does beside an open stream what a window does when it begins."""

    def opened(self) -> None:
        """Begin with a new stream, whose tables and definitions are those of the bookkeeping."""

    def end_reason(self, behind_s: float | None) -> StopReason | None:
        """Do what is due; return a reason to end the stream, or None.

        The destination has no open transaction, and is released afterwards.

        Args:
            behind_s: For how many seconds received changes have waited to be applied; None: the stream has not reached
                the server's position of its beginning.
        """


class Window:
    """Runs one window over a stream that starts at the checkpoint.

    An open window (`Bound.is_open`) goes on behind the bound. It applies rows only: the bound proves the definitions
    of the tables up to there, and the catalog those behind it, where the stream describes a table again. At the first
    description that the catalog does not confirm, and at a TRUNCATE, the window ends ahead of this transaction, which
    is left to a window with a bound.

    Args:
        stream: Starts at the checkpoint, and ends at the bound.
        sink: Holds the tables.
        checkpoint: The sink's checkpoint.
        bound: The position at which the stream ends, and the tables as they are there.
        follower: Turns descriptions of tables into schema changes; it has the tables as the sink has them.
        modes: The mode of each table; tables without an entry are in mode `mirror`.
        flush: When to flush.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush.
        progress: Called after each flush.
        quarantined: Returns whether rows of a table with bad values go to quarantine; None: bad values stop the window.
        isolation: Tells which errors concern single tables only; None: all stop the window.
        upkeep: Is asked by an open window whenever no flush is in progress; a window with a bound does not need it.

    Attributes:
        result: What the window has done so far, up to its last commit.
    """

    def __init__(
        self,
        stream: ChangeStream,
        sink: Sink,
        checkpoint: Checkpoint,
        bound: Bound,
        follower: SchemaFollower,
        *,
        flush: FlushConfig,
        limits: WindowLimits,
        modes: Mapping[TableRef, Mode] | None = None,
        stop: Event | None = None,
        progress: Callable[[Progress], None] | None = None,
        quarantined: Callable[[TableRef], bool] | None = None,
        isolation: Isolation | None = None,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._isolation = isolation or Isolation()
        self._upkeep = upkeep
        self._stream = stream
        self._checkpoint = checkpoint
        self._follower = follower
        self._bound = bound
        self._flush = flush
        self._piece_bytes = flush.max_bytes or MemoryConfig().flush_bytes
        self._limits = limits
        self._stop = stop or Event()
        self._progress = progress or (lambda _: None)
        self._pending = PendingFlush()
        # Counts of the open transaction. They count once it is complete: if the window ends before, it comes again.
        self._open_counts: dict[TableRef, TableCounts] = {}
        # Removed tables whose changes were seen.
        self._missed: frozenset[TableRef] = frozenset()
        # Row changes of complete transactions, for the limit.
        self._received = 0
        self._started = time.monotonic()
        self._flushed_at = -math.inf
        self.result = WindowResult(checkpoint.lsn, checkpoint.lsn, bound.lsn)
        self.result.tables = {table: TableCounts() for table in follower.shapes}
        self.result.phases = {"decode": 0.0, "compact": 0.0, "merge": 0.0}
        schemas = {table: shape.schema for table, shape in follower.shapes.items()}
        self._applier = EventApplier(schemas, modes or {}, quarantined, self.result, self._isolation)
        self._flusher = Flusher(sink, self._applier, self.result, self._acknowledge)

    @property
    def left_out(self) -> Mapping[TableRef, DbmazzError | SchemaEvent]:
        """Tables that have left the stream, each with the reason; some may not be recorded yet."""
        return self._applier.left_out

    def run(self) -> WindowResult:
        """Read until the bound or a limit; return the result with LSNs, counts and phases.

        Raises:
            LeftOut: Tables must leave the stream, which must be opened again at the sink's checkpoint.
            TextNeeded: The stream must be opened again there, with values as text.
            DbmazzError: Committed flushes stay. Later changes are forgotten, and come again in the next window.
        """
        with self._flusher:
            self.result.stop_reason = self._read()
            if self._pending.large_applied and not self._pending.large_complete:
                # The window was stopped in the middle of a large transaction.
                self._flusher.settle()
                self._flusher.abandon()
            caught_up = self.result.stop_reason is StopReason.CAUGHT_UP
            if caught_up:
                with self._of_tables():
                    self._pending.complete_events += self._follower.finish(self._bound.tables)
            if not (caught_up and self._can_wait()):
                self._commit_pending(at_bound=caught_up, release=True)
            self._flusher.settle()
        self.result.duration_s = time.monotonic() - self._started
        return self.result

    def _read(self) -> StopReason:
        """Read and flush until the bound or a limit is reached, or a stop is requested."""
        while True:
            if self._stop.is_set():
                return StopReason.STOP_REQUESTED
            reason = self._limit_reached()
            if reason is not None and not self._pending.in_transaction:
                return reason
            if self._upkeep is not None and self._bound.is_open and self._flusher.is_idle:
                reason = self._upkeep.end_reason(self._behind_s())
                if reason is not None:
                    return reason
            rows, size = self._room()
            clock = time.perf_counter()
            with self._of_tables():
                part = self._stream.next(
                    rows=1 if reason else rows,
                    size=1 if reason else size,
                    timeout=self._seconds_to_wait(),
                    take_gathered=not self._flusher.is_running and self._pending.has_complete,
                )
            if part is not None:
                if part.bytes:
                    self.result.phases["decode"] += time.perf_counter() - clock
                if self._bound.is_open and not self._has_only_rows(part):
                    return StopReason.SOURCE_CHANGED
                self._take(part)
                if part.at_bound or (part.complete and not self._bound.is_open and self._has_reached_bound):
                    return StopReason.CAUGHT_UP
            self._flusher.settle(block=False)
            if part is None:
                self._flusher.release()
            self._flush_if_due()

    @property
    def _reached_lsn(self) -> Lsn:
        """The window has received all transactions that committed before this LSN."""
        return max(self._pending.end_lsn or Lsn(0), self._checkpoint.lsn)

    @property
    def _has_reached_bound(self) -> bool:
        return self._reached_lsn >= self.result.upper_lsn

    def _behind_s(self) -> float | None:
        """Return for how long received changes have waited; None: older ones than the bound are still to come."""
        if not self._has_reached_bound:
            return None
        first = self._pending.first_event_at
        return 0.0 if first is None else time.monotonic() - first

    def _seconds_to_wait(self) -> float:
        """Return for how long to wait for messages, at most."""
        if not self._bound.is_open:
            return _POLL_S
        if self._flusher.is_running:
            return _FLUSHING_POLL_S
        if not self._pending.has_complete:
            return _OPEN_POLL_S
        return min(self._seconds_until_old(), _OPEN_POLL_S)

    def _seconds_until_old(self) -> float:
        """Return after how many seconds the pending flush is due by its age.

        In a window with a bound that counts from the first event, as more of them are near. In an open one it counts
        from the last flush, so that a change that comes alone does not wait.
        """
        since = self._pending.first_event_at
        if since is None:
            return math.inf
        if self._bound.is_open:
            since = self._flushed_at
        return max(since + self._flush.interval_ms / 1000 - time.monotonic(), 0.0)

    def _has_only_rows(self, part: StreamPart) -> bool:
        """Return whether a part has no TRUNCATE, and describes tables only as they are recorded."""
        if any(isinstance(event, Truncation) for event in part.events):
            return False
        described = {event.table for event in part.events if isinstance(event, NewSchema)}
        shapes = {table: self._follower.shapes[table] for table in described}
        return not shapes or self._follower.source.are_unchanged(shapes)

    def _take(self, part: StreamPart) -> None:
        """Add a part of the stream to the pending flush, and count it."""
        with self._of_tables():
            events = self._follower.events(part.events)
        if self._pending.has_complete and any(isinstance(event, SchemaEvent) for event in events):
            # Some destinations cannot alter a table whose rows the same transaction has changed.
            self._commit_pending(at_bound=False)
        self._pending.add(part, events)
        self.result.bytes += part.bytes
        self._pending.transactions += part.transactions
        for event in events:
            self._count(event)
        if part.complete:
            for table, counts in self._open_counts.items():
                self._pending.counts.setdefault(table, TableCounts()).add(counts)
                self._received += counts.changes
            self._open_counts.clear()

    @contextmanager
    def _of_tables(self) -> Iterator[None]:
        """Raise LeftOut instead of an error that concerns single tables only, once earlier flushes are durable."""
        try:
            yield
        except TextNeeded:
            self._flusher.settle()
            raise
        except DbmazzError as error:
            if (left_out := self._isolation.left_out(error)) is None:
                raise
            self._flusher.settle()
            raise left_out from error

    def _count(self, event: WindowEvent) -> None:
        """Count an event of the open transaction."""
        counts = self._open_counts.setdefault(event.table, TableCounts())
        if isinstance(event, ChangeBatch):
            counts.inserts += event.count(INSERT)
            counts.updates += event.count(UPDATE)
            counts.deletes += event.count(DELETE)
            self._pending.rows += len(event)
        elif isinstance(event, Truncation):
            counts.truncates += 1

    def _limit_reached(self) -> StopReason | None:
        """Return the reason to end early if a limit of the window is reached."""
        limits, result = self._limits, self.result
        if limits.max_changes is not None and self._received >= limits.max_changes:
            return StopReason.MAX_CHANGES
        if limits.max_bytes is not None and result.bytes >= limits.max_bytes:
            return StopReason.MAX_BYTES
        # A window that ended without progress would make the next window start at the same position and wait as long.
        moved = self._reached_lsn > result.start_lsn
        if limits.max_seconds is not None and moved and time.monotonic() - self._started >= limits.max_seconds:
            return StopReason.MAX_SECONDS
        return None

    def _room(self) -> tuple[int, int]:
        """Return the rows and bytes until the next flush or limit, whichever comes first."""
        pending, limits = self._pending, self._limits
        rows = self._flush.size - pending.rows
        size = self._piece_bytes - pending.bytes
        if limits.max_changes is not None:
            rows = min(rows, limits.max_changes - self._received)
        if limits.max_bytes is not None:
            size = min(size, limits.max_bytes - self.result.bytes)
        return max(rows, 1), max(size, 1)

    def _flush_if_due(self) -> None:
        """Commit the pending flush, or apply a piece of it, if size or time require it."""
        pending, limit = self._pending, self._piece_bytes
        # What comes while a flush is applied is for the next one: a flush for each part would fall behind.
        is_old = self._seconds_until_old() == 0.0 and not (self._bound.is_open and self._flusher.is_running)
        pieces = pending.pieces_applied + 1
        is_wide = pieces * limit >= pending.rows * _WIDE_ROW_BYTES
        is_full = pieces >= (_MAX_WIDE_PIECES if is_wide else _MAX_PIECES) and pending.bytes >= limit
        is_due = pending.has_complete and (pending.rows >= self._flush.size or is_old or is_full)
        if pending.large_complete or is_due or self._has_moved_idle():
            self._commit_pending(at_bound=False, release=not is_due or is_old)
        elif pending.complete_events and pending.bytes >= limit:
            self._flusher.submit(pending.complete_events)
            pending.complete_piece_applied()
        if self._pending.open_bytes >= limit:
            self._apply_open_transaction()

    def _has_moved_idle(self) -> bool:
        """Return whether an open stream has passed so much WAL without changes that the checkpoint must move."""
        return (
            self._bound.is_open
            and self._pending.first_event_at is None
            and self._flusher.is_idle
            and self._reached_lsn - self._checkpoint.lsn >= self._flush.idle_wal_bytes
        )

    def _apply_open_transaction(self) -> None:
        """Apply the received part of a transaction that is too large for memory, in a flush of its own."""
        if self._pending.has_complete:
            self._commit_pending(at_bound=False)
        self._flusher.submit(self._pending.open_events)
        self._pending.large_piece_applied()

    def _can_wait(self) -> bool:
        """Return whether there is nothing to commit but that the source has written other WAL, and not much of it."""
        return (
            not self._pending.has_content
            and not self._pending.complete_events
            and not self._bound.more  # the next stream begins at the checkpoint
            and not self._flusher.begun
            and not self._stream.touched - self._missed
            and self.result.upper_lsn - self._checkpoint.lsn < self._flush.idle_wal_bytes
        )

    def _commit_pending(self, *, at_bound: bool, release: bool = False) -> None:
        """Submit the pending flush: apply the complete transactions, and commit with the checkpoint.

        Args:
            at_bound: Whether everything up to the upper LSN was received, so that the checkpoint moves there.
            release: Whether the destination is released afterwards, because the next flush is not near.
        """
        pending = self._pending
        lsn = max(self._reached_lsn, self.result.upper_lsn) if at_bound else self._reached_lsn
        if pending.complete_events or self._flusher.begun or lsn > self._checkpoint.lsn:
            self._checkpoint = replace(self._checkpoint, lsn=lsn)
            transaction = pending.last_transaction
            if transaction is not None:
                self._checkpoint = replace(self._checkpoint, commit_time=transaction.commit_time, last=transaction)
            commit_time = None if transaction is None else transaction.commit_time
            missed = self._stream.touched - self._missed
            self._missed |= missed
            flush = Flush(self._checkpoint, commit_time, pending.counts, pending.transactions, release, missed)
            self._flusher.submit(pending.complete_events, flush)
        self._pending = pending.following()
        self._flushed_at = time.monotonic()

    def _acknowledge(self, flush: Flush) -> None:
        """Acknowledge a flush that is durable, and report it."""
        self._stream.confirm(flush.checkpoint.lsn)
        self.result.flushes += 1
        self.result.transactions += flush.transactions
        for table, counts in flush.counts.items():
            if table not in self.left_out:
                self.result.tables[table].add(counts)
                self.result.changes += counts.changes
        self.result.end_lsn = flush.checkpoint.lsn
        if flush.commit_time is not None:
            self.result.commit_time = flush.commit_time
        self._progress(Progress.of_window(self.result, self.result.changes))
