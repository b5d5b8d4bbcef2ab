"""One bounded window: read, accumulate, compact, flush, acknowledge.

A flush is one destination transaction: the changes of all tables, and the checkpoint. It ends at a source transaction's
end, and only after it has been committed is anything acknowledged to PostgreSQL. A source transaction too large for
memory is applied in pieces within one destination transaction, which is committed at its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Event

from dbmazz_core.batch import DELETE, INSERT, UPDATE, ChangeBatch
from dbmazz_core.config import FlushConfig, WindowLimits
from dbmazz_core.connectors.sinks.base import Sink
from dbmazz_core.connectors.sources.base import ChangeStream, StreamPart, Truncation
from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.follow_schema import SchemaEvent, SchemaFollower, WindowEvent
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.quarantine import Quarantine
from dbmazz_core.engine.result import Checkpoint, StopReason, TableCounts, WindowResult
from dbmazz_core.identity import SourceTable
from dbmazz_core.lsn import Lsn
from dbmazz_core.table_options import Mode
from dbmazz_core.tables import TableRef

_EVERYTHING = 1 << 62
#: Longest wait for news before limits and stop requests are looked at again.
_POLL_S = 0.2


@dataclass(slots=True)
class _Pending:
    """Events that are not yet applied: first those of complete transactions, then those of the open one."""

    complete: list[WindowEvent] = field(default_factory=list)
    open: list[WindowEvent] = field(default_factory=list)
    rows: int = 0
    complete_bytes: int = 0
    open_bytes: int = 0
    since: float | None = None
    end_lsn: Lsn | None = None
    commit_time: datetime | None = None

    def add(self, part: StreamPart, events: list[WindowEvent]) -> None:
        if self.since is None and events:
            self.since = time.monotonic()
        self.open += events
        self.open_bytes += part.bytes
        if part.complete:
            self.complete += self.open
            self.complete_bytes += self.open_bytes
            self.open, self.open_bytes = [], 0
        if part.end_lsn is not None:
            self.end_lsn = part.end_lsn
            self.commit_time = part.commit_time or self.commit_time


class Window:
    """Runs one window over a stream that starts at the checkpoint.

    Args:
        stream: Starts at the checkpoint, with the upper LSN as its bound.
        sink: Holds the tables.
        checkpoint: The sink's.
        upper_lsn: The bound: the server's flush LSN when the window began.
        follower: Keeps the shape of the captured tables; it has them as the sink has them.
        catalog: The captured tables as the source's catalog has them at the upper LSN, as far as that is known.
        modes: How each is kept; `mirror` where nothing is said.
        flush: When to flush.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush.
        progress: Called after each flush.
        quarantine: Where rows with bad values go; None: they stop the window.
    """

    def __init__(
        self,
        stream: ChangeStream,
        sink: Sink,
        checkpoint: Checkpoint,
        upper_lsn: Lsn,
        follower: SchemaFollower,
        catalog: Mapping[TableRef, SourceTable],
        *,
        flush: FlushConfig,
        limits: WindowLimits,
        modes: Mapping[TableRef, Mode] | None = None,
        stop: Event | None = None,
        progress: Callable[[Progress], None] | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._checkpoint = checkpoint
        self._follower = follower
        self._catalog = catalog
        self._flush = flush
        self._limits = limits
        self._stop = stop or Event()
        self._progress = progress or (lambda _: None)
        self._pending = _Pending()
        # Of a source transaction too large for memory: whether the destination's transaction is open with part of it
        # applied, and whether its COMMIT has come since.
        self._begun = False
        self._completed = False
        # Of the open transaction: it may be stopped in, and then it comes again.
        self._uncounted: dict[TableRef, TableCounts] = {}
        self._started = time.monotonic()
        self.result = WindowResult(checkpoint.lsn, checkpoint.lsn, upper_lsn)
        self.result.tables = {table: TableCounts() for table in follower.schemas}
        self.result.phases = {"decode": 0.0, "compact": 0.0, "merge": 0.0}
        self._applier = EventApplier(sink, checkpoint.slot, follower.schemas, modes or {}, quarantine, self.result)

    def run(self) -> WindowResult:
        """Read until the bound or a limit is reached; the result's LSNs, counts and phases are filled in.

        Raises:
            DbmazzError: What was flushed before stays, what came after is forgotten and comes again.
        """
        try:
            self.result.stop_reason = self._read()
            if self._begun and not self._completed:
                self._rollback()  # stopped in the middle of it
            caught_up = self.result.stop_reason is StopReason.CAUGHT_UP
            if caught_up:
                self._pending.complete += self._follower.finish(self._catalog)
            self._commit_pending(final=caught_up)
        except BaseException:
            self._rollback()
            raise
        self.result.duration_s = time.monotonic() - self._started
        return self.result

    def _read(self) -> StopReason:
        while True:
            if self._stop.is_set():
                return StopReason.STOP_REQUESTED
            reason = self._limit_reached()
            if reason is not None and not self._in_transaction:
                return reason
            rows, size = self._room()
            clock = time.perf_counter()
            part = self._stream.next(rows=1 if reason else rows, size=1 if reason else size, timeout=_POLL_S)
            if part is not None:
                if part.bytes:
                    self.result.phases["decode"] += time.perf_counter() - clock
                self._take(part)
                if part.at_bound or (part.complete and self._reached >= self.result.upper_lsn):
                    return StopReason.CAUGHT_UP
            self._flush_if_due()

    @property
    def _in_transaction(self) -> bool:
        return (self._begun and not self._completed) or bool(self._pending.open_bytes)

    @property
    def _reached(self) -> Lsn:
        return max(self._pending.end_lsn or Lsn(0), self._checkpoint.lsn)

    def _take(self, part: StreamPart) -> None:
        events = [event for received in part.events for event in self._follower.events(received)]
        if self._pending.complete and any(isinstance(event, SchemaEvent) for event in events):
            # A destination that cannot alter what the transaction has changed has it untouched then.
            self._commit_pending(final=False)
        self._pending.add(part, events)
        self._completed = self._begun and part.complete
        self.result.bytes += part.bytes
        self.result.transactions += part.transactions
        for event in events:
            counts = self._uncounted.setdefault(event.table, TableCounts())
            if isinstance(event, ChangeBatch):
                counts.inserts += event.count(INSERT)
                counts.updates += event.count(UPDATE)
                counts.deletes += event.count(DELETE)
                self._pending.rows += len(event)
            elif isinstance(event, Truncation):
                counts.truncates += 1
        if part.complete:
            for table, counts in self._uncounted.items():
                self.result.tables[table].add(counts)
                self.result.changes += counts.changes
            self._uncounted.clear()

    def _limit_reached(self) -> StopReason | None:
        limits, result = self._limits, self.result
        if limits.max_changes is not None and result.changes >= limits.max_changes:
            return StopReason.MAX_CHANGES
        if limits.max_bytes is not None and result.bytes >= limits.max_bytes:
            return StopReason.MAX_BYTES
        # Not before something has come: the next window would begin where this one did, and wait as long.
        moved = self._reached > result.start_lsn
        if limits.max_seconds is not None and moved and time.monotonic() - self._started >= limits.max_seconds:
            return StopReason.MAX_SECONDS
        return None

    def _room(self) -> tuple[int, int]:
        """Rows and bytes until the next flush or limit, whichever comes first."""
        pending, limits = self._pending, self._limits
        rows = self._flush.size - pending.rows
        size = self._flush.max_bytes - pending.complete_bytes - pending.open_bytes
        if limits.max_changes is not None:
            rows = min(rows, limits.max_changes - self.result.changes)
        if limits.max_bytes is not None:
            size = min(size, limits.max_bytes - self.result.bytes)
        return max(rows, 1), max(size, 1)

    def _flush_if_due(self) -> None:
        pending = self._pending
        size = pending.complete_bytes + pending.open_bytes
        old = pending.since is not None and time.monotonic() - pending.since >= self._flush.interval_ms / 1000
        due = pending.rows >= self._flush.size or size >= self._flush.max_bytes or old
        if self._completed or (pending.complete and due):
            self._commit_pending(final=False)
        if pending.open_bytes >= self._flush.max_bytes:
            self._apply_open()

    def _apply_open(self) -> None:
        """Apply what has come of a transaction too large for memory, without committing."""
        events, self._pending.open, self._pending.open_bytes = self._pending.open, [], 0
        self._apply(events)
        self._pending.rows, self._pending.since = 0, None

    def _commit_pending(self, *, final: bool) -> None:
        """Apply everything complete and commit it with the checkpoint; then acknowledge.

        Args:
            final: All there is up to the upper LSN is in, so the checkpoint moves there.
        """
        pending = self._pending
        lsn = max(self._reached, self.result.upper_lsn) if final else self._reached
        if pending.complete or self._begun or lsn > self._checkpoint.lsn:
            if not self._begun:
                self._sink.begin()
                self._begun = True
            self._apply(pending.complete)
            checkpoint = replace(
                self._checkpoint, lsn=lsn, commit_time=pending.commit_time or self._checkpoint.commit_time
            )
            clock = time.perf_counter()
            self._sink.commit(checkpoint)
            self.result.phases["merge"] += time.perf_counter() - clock
            self._begun = self._completed = False
            self._applier.committed()
            self._checkpoint = checkpoint
            self._stream.confirm(lsn)  # only now
            self.result.flushes += 1
            self.result.end_lsn = lsn
            self.result.commit_time = pending.commit_time or self.result.commit_time
            self._progress(Progress.of_window(self.result))
        rows = sum(len(event) for event in pending.open if isinstance(event, ChangeBatch))
        since = time.monotonic() if pending.open else None
        self._pending = _Pending(open=pending.open, open_bytes=pending.open_bytes, rows=rows, since=since)

    def _apply(self, events: list[WindowEvent]) -> None:
        if not self._begun:
            self._sink.begin()
            self._begun = True
        self._applier.apply(events)

    def _rollback(self) -> None:
        self._applier.rolled_back()
        if self._begun:
            self._begun = False
            self._sink.rollback()
