"""Apply changes to the destination in a separate thread, while the window reads and decodes the next changes.

The destination's connection belongs to that thread from the first `submit` until `settle` or `abandon` has returned.
Only one flush, or one piece of a flush, is in progress at a time. Memory is therefore bounded by that piece and the
changes that the window reads meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.isolation import CHANGES_MISSED, LeftOut
from dbmazz_core.engine.result import TableCounts, WindowResult
from dbmazz_core.engine.schema_following import WindowEvent
from dbmazz_core.errors import DbmazzError
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.sink import NoRoom, Sink, SinkTransaction
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.table_ref import TableRef

#: An interrupt between two statements has no effect: it is repeated after this time, in seconds.
_INTERRUPT_S = 0.05
#: Longest time, in seconds, until Ctrl-C is noticed while the window waits for the destination.
_LOOK_UP_S = 0.1


@dataclass(frozen=True, slots=True)
class Flush:
    """The end of a flush: the checkpoint to commit, and facts to report once the commit is durable.

    Attributes:
        checkpoint: The checkpoint that is committed with the changes.
        commit_time: Commit time of the last source transaction of this flush; None if the flush has none.
        counts: The changes of this flush by table.
        transactions: Number of source transactions in this flush.
        release: Whether the destination is released after this flush, because the next one is not near.
        missed: Removed tables that have changes up to the checkpoint, or soon after it: they must be copied again
            before they can stream.
    """

    checkpoint: Checkpoint
    commit_time: datetime | None
    counts: Mapping[TableRef, TableCounts]
    transactions: int
    release: bool = False
    missed: Collection[TableRef] = ()


class Flusher:
    """Applies events in order, and commits flushes. Use as a context manager, from one thread.

    Args:
        sink: The destination, without an open transaction.
        applier: Applies the events.
        result: Takes the seconds spent on commits.
        committed: Called for each flush that has become durable, in the thread that calls the flusher's methods.

    Attributes:
        begun: Whether the destination's transaction is open, or will be open once the submitted events are applied.
    """

    def __init__(
        self, sink: Sink, applier: EventApplier, result: WindowResult, committed: Callable[[Flush], None]
    ) -> None:
        self._sink = sink
        self._applier = applier
        self._result = result
        self._committed = committed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dbmazz-flush")
        self._transaction: SinkTransaction | None = None
        self._running: Future[Flush | None] | None = None
        self._committing = threading.Event()
        self.begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """After an error, roll back. If the rollback fails too, the first error gets a note; it is not replaced."""
        try:
            if error is not None:
                self.abandon(interrupt=not isinstance(error, Exception))
        except DbmazzError as second:
            assert error is not None
            error.add_note(f"the rollback failed as well: {second.what}")
        finally:
            self._thread.shutdown()

    def submit(self, events: Sequence[WindowEvent], flush: Flush | None = None) -> None:
        """Apply events once the events submitted before are applied.

        Args:
            events: The events.
            flush: The end of the flush; None: the flush has more pieces.

        Raises:
            LeftOut: Tables must leave the stream, which must be opened again at the last commit.
            DbmazzError: The events submitted before could not be applied.
        """
        self.settle()
        begin, self.begun = not self.begun, flush is None
        self._running = self._thread.submit(self._apply, events, begin, flush)

    def settle(self, *, block: bool = True) -> None:
        """Report a flush that has become durable.

        Args:
            block: Whether to wait until the submitted events are applied.

        Raises:
            LeftOut, DbmazzError: The submitted events could not be applied, see `submit`.
        """
        running = self._running
        if running is None or not (block or running.done()):
            return
        # The SIGINT handler of polars restarts system calls (SA_RESTART): a wait without limit would not see Ctrl-C.
        while not wait([running], _LOOK_UP_S).done:
            pass
        flush = running.result()  # if Ctrl-C interrupts this line, `_running` is still set for `abandon`
        self._running = None
        if flush is not None:
            self._applier.committed()
            self._committed(flush)

    @property
    def is_idle(self) -> bool:
        """Whether no events are being applied, and the destination's transaction is not open."""
        return self._running is None and not self.begun

    @property
    def is_running(self) -> bool:
        """Whether submitted events are not yet applied, or `settle` has not reported it."""
        return self._running is not None

    def release(self) -> None:
        """Release the destination, unless events are being applied, or the destination's transaction is open."""
        if self.is_idle:
            self._transaction = None
            self._sink.release()

    def abandon(self, *, interrupt: bool = False) -> None:
        """Roll back everything that is not committed. A commit in progress is completed.

        Args:
            interrupt: Whether to cancel the events in progress, at the next table at the latest. After that, nothing
                can be submitted.

        Raises:
            DbmazzError: If the rollback fails.
        """
        if self._running is not None:
            if interrupt:
                self._applier.cancel()
                while not wait([self._running], _INTERRUPT_S).done:
                    if not self._committing.is_set():
                        self._sink.interrupt()
            while not wait([self._running], _LOOK_UP_S).done:
                pass
            self._running = None
        self._applier.rolled_back()
        self.begun = False
        if self._transaction is not None:
            self._transaction.rollback()
            self._transaction = None

    def _begin(self) -> None:
        self._transaction = self._sink.begin()
        self._applier.begin(self._transaction)

    def _apply(self, events: Sequence[WindowEvent], begin: bool, flush: Flush | None) -> Flush | None:
        """Apply events, in the flusher's thread, and commit if the flush ends with them.

        Events that fail for single tables are applied again without these tables.
        """
        if begin:
            self._begin()
        failures = 0
        while True:
            assert self._transaction is not None
            try:
                self._applier.apply(events, self._transaction)
            except LeftOut as left_out:
                if not begin:
                    raise  # earlier pieces of this flush are gone: the stream must be opened again
                failures += 1
                self._transaction.rollback()
                self._applier.leave_out(left_out.tables)
                if failures > 1:
                    self._leave_out_failing(events)
                self._begin()
            else:
                break
        if flush is not None:
            clock = time.perf_counter()
            for table in flush.missed:
                self._transaction.mark(table, TableStatus.REMOVED, CHANGES_MISSED)
            self._committing.set()
            try:
                self._transaction.commit(flush.checkpoint, last=flush.release)
            except NoRoom as no_room:
                raise LeftOut({}) from no_room  # the stream is opened again at the destination's checkpoint
            finally:
                self._committing.clear()
            if flush.release:
                self._transaction = None
                self._sink.release()
            self._result.phases["merge"] += time.perf_counter() - clock
        return flush

    def _leave_out_failing(self, events: Sequence[WindowEvent]) -> None:
        """Leave out every table whose events fail, so that the time does not grow with the square of their number.

        Each table's events are applied in a transaction of their own, which is rolled back.
        """
        for own in self._applier.by_table(events).values():
            with self._sink.begin() as transaction:
                try:
                    self._applier.apply(own, transaction)
                except LeftOut as left_out:
                    tables = left_out.tables
                else:
                    tables = {}
            self._applier.leave_out(tables)
