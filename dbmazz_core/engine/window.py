"""One bounded window: read, accumulate, compact, flush, acknowledge.

A flush is one destination transaction: the changes of all tables, and the checkpoint. It ends at a source transaction's
end, and only after it has been committed is anything acknowledged to PostgreSQL. What is too large for memory is
applied in pieces within one destination transaction: several source transactions together, or one that is large by
itself.

While a flush, or a piece of one, is applied (`flusher.py`), the window reads on, up to the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.flusher import Flush, Flusher
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.engine.schema_following import SchemaFollower, WindowEvent
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, ChangeBatch
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Bound
from dbmazz_core.model.stream import ChangeStream, StreamPart, Truncation
from dbmazz_core.settings.config import FlushConfig, WindowLimits
from dbmazz_core.table_ref import TableRef

_EVERYTHING = 1 << 62
#: Longest wait for news before limits and stop requests are looked at again.
_POLL_S = 0.2
#: Pieces of complete transactions in a flush at most. Each commit costs: what one holds goes to DuckDB's WAL, and from
#: there into the file (docs/benchmarks.md: what was tried).
_PIECES = 16


@dataclass(slots=True)
class _Pending:
    """What is not yet committed.

    Attributes:
        complete: Events of complete transactions that are not yet applied.
        open: Those of the transaction behind them, which is not yet complete.
        complete_bytes, open_bytes: Bytes of their messages.
        rows: Row changes among them, and among what is applied of complete transactions.
        pieces: How often complete transactions have been applied.
        large: Whether a part of one transaction that is too large for memory has been applied; nothing else has then.
        ended: Whether its COMMIT has come since.
        since: When the first of it came (`time.monotonic`).
        end_lsn: Of the last complete transaction.
        last: That transaction.
    """

    complete: list[WindowEvent] = field(default_factory=list)
    open: list[WindowEvent] = field(default_factory=list)
    complete_bytes: int = 0
    open_bytes: int = 0
    rows: int = 0
    pieces: int = 0
    large: bool = False
    ended: bool = False
    since: float | None = None
    end_lsn: Lsn | None = None
    last: CommittedTransaction | None = None

    @property
    def bytes(self) -> int:
        """Of what is not yet applied."""
        return self.complete_bytes + self.open_bytes

    @property
    def in_transaction(self) -> bool:
        """Whether there is a part of a transaction that is not complete."""
        return bool(self.open_bytes) or (self.large and not self.ended)

    @property
    def ready(self) -> bool:
        """Whether there are complete transactions to commit."""
        return bool(self.complete or self.pieces)

    def add(self, part: StreamPart, events: list[WindowEvent]) -> None:
        if self.since is None and events:
            self.since = time.monotonic()
        self.open += events
        self.open_bytes += part.bytes
        if part.complete:
            self.complete += self.open
            self.complete_bytes += self.open_bytes
            self.open, self.open_bytes = [], 0
            self.ended = self.large
        if part.end_lsn is not None:
            self.end_lsn = part.end_lsn
            self.last = part.last or self.last


class Window:
    """Runs one window over a stream that starts at the checkpoint.

    Args:
        stream: Starts at the checkpoint, with the upper LSN as its bound.
        sink: Holds the tables.
        checkpoint: The sink's.
        bound: Where the stream ends, and the tables that are certain to be so there.
        follower: Keeps the shape of the captured tables; it has them as the sink has them.
        modes: How each is kept; `mirror` where nothing is said.
        flush: When to flush.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush.
        progress: Called after each flush.
        quarantined: The tables whose rows with bad values go to quarantine; None: bad values stop the window.
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
    ) -> None:
        self._stream = stream
        self._checkpoint = checkpoint
        self._follower = follower
        self._bound = bound
        self._flush = flush
        self._limits = limits
        self._stop = stop or Event()
        self._progress = progress or (lambda _: None)
        self._pending = _Pending()
        # Of the open transaction: it may be stopped in, and then it comes again.
        self._uncounted: dict[TableRef, TableCounts] = {}
        self._started = time.monotonic()
        self.result = WindowResult(checkpoint.lsn, checkpoint.lsn, bound.lsn)
        self.result.tables = {table: TableCounts() for table in follower.shapes}
        self.result.phases = {"decode": 0.0, "compact": 0.0, "merge": 0.0}
        schemas = {table: shape.schema for table, shape in follower.shapes.items()}
        applier = EventApplier(schemas, modes or {}, quarantined, self.result)
        self._flusher = Flusher(sink, applier, self.result, self._committed)

    def run(self) -> WindowResult:
        """Read until the bound or a limit is reached; the result's LSNs, counts and phases are filled in.

        Raises:
            DbmazzError: What was flushed before stays, what came after is forgotten and comes again.
        """
        with self._flusher:
            self.result.stop_reason = self._read()
            if self._pending.large and not self._pending.ended:
                self._flusher.settle()
                self._flusher.abandon()  # stopped in the middle of it
            caught_up = self.result.stop_reason is StopReason.CAUGHT_UP
            if caught_up:
                self._pending.complete += self._follower.finish(self._bound.tables)
            self._commit_pending(final=caught_up, last=True)
            self._flusher.settle()
        self.result.duration_s = time.monotonic() - self._started
        return self.result

    def _read(self) -> StopReason:
        while True:
            if self._stop.is_set():
                return StopReason.STOP_REQUESTED
            reason = self._limit_reached()
            if reason is not None and not self._pending.in_transaction:
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
            self._flusher.settle(block=False)
            self._flush_if_due()

    @property
    def _reached(self) -> Lsn:
        return max(self._pending.end_lsn or Lsn(0), self._checkpoint.lsn)

    def _take(self, part: StreamPart) -> None:
        events = [event for received in part.events for event in self._follower.events(received)]
        if self._pending.ready and any(isinstance(event, SchemaEvent) for event in events):
            # A destination that cannot alter what the transaction has changed has it untouched then.
            self._commit_pending(final=False)
        self._pending.add(part, events)
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
        size = self._flush.max_bytes - pending.bytes
        if limits.max_changes is not None:
            rows = min(rows, limits.max_changes - self.result.changes)
        if limits.max_bytes is not None:
            size = min(size, limits.max_bytes - self.result.bytes)
        return max(rows, 1), max(size, 1)

    def _flush_if_due(self) -> None:
        pending, limit = self._pending, self._flush.max_bytes
        old = pending.since is not None and time.monotonic() - pending.since >= self._flush.interval_ms / 1000
        full = pending.pieces + 1 >= _PIECES and pending.bytes >= limit
        if pending.ended or (pending.ready and (pending.rows >= self._flush.size or old or full)):
            self._commit_pending(final=False)
        elif pending.complete and pending.bytes >= limit:
            self._flusher.submit(pending.complete)
            pending.complete, pending.complete_bytes = [], 0
            pending.pieces += 1
        if self._pending.open_bytes >= limit:
            self._apply_open()

    def _apply_open(self) -> None:
        """Apply what has come of a transaction too large for memory, alone, without committing."""
        if self._pending.ready:
            self._commit_pending(final=False)
        pending = self._pending
        self._flusher.submit(pending.open)
        pending.open, pending.open_bytes, pending.large = [], 0, True
        pending.rows, pending.since = 0, None

    def _commit_pending(self, *, final: bool, last: bool = False) -> None:
        """Have everything complete applied and committed with the checkpoint.

        Args:
            final: All there is up to the upper LSN is in, so the checkpoint moves there.
            last: The window ends with it.
        """
        pending = self._pending
        lsn = max(self._reached, self.result.upper_lsn) if final else self._reached
        if pending.complete or self._flusher.begun or lsn > self._checkpoint.lsn:
            self._checkpoint = replace(self._checkpoint, lsn=lsn)
            if pending.last is not None:
                self._checkpoint = replace(self._checkpoint, commit_time=pending.last.commit_time, last=pending.last)
            commit_time = None if pending.last is None else pending.last.commit_time
            flush = Flush(self._checkpoint, commit_time, self.result.changes, last)
            self._flusher.submit(pending.complete, flush)
        rows = sum(len(event) for event in pending.open if isinstance(event, ChangeBatch))
        since = time.monotonic() if pending.open else None
        self._pending = _Pending(open=pending.open, open_bytes=pending.open_bytes, rows=rows, since=since)

    def _committed(self, flush: Flush) -> None:
        """Acknowledge a flush: only now."""
        self._stream.confirm(flush.checkpoint.lsn)
        self.result.flushes += 1
        self.result.end_lsn = flush.checkpoint.lsn
        if flush.commit_time is not None:
            self.result.commit_time = flush.commit_time
        self._progress(Progress.of_window(self.result, flush.changes))
