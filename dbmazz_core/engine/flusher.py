"""Applying to the destination in a thread of its own, while the window reads and decodes what comes next.

The destination's connection belongs to that thread from the first `submit` until `settle` or `abandon` has returned.
One flush, or one piece of a large transaction, is under way at a time: what waits is bounded by what the window reads
meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from dbmazz_core.engine.apply_events import EventApplier
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.engine.schema_following import WindowEvent
from dbmazz_core.errors import DbmazzError
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.sink import Sink, SinkTransaction

#: An interrupt between two statements is lost: again after so many seconds.
_INTERRUPT_S = 0.05
#: How long Ctrl-C may go unnoticed while the destination is waited for.
_LOOK_UP_S = 0.1


@dataclass(frozen=True, slots=True)
class Flush:
    """What a flush commits.

    Attributes:
        checkpoint: Committed with it.
        commit_time: Of the window's last source transaction up to there, None if there was none since the flush before.
        changes: The window's row changes up to there.
        last: Whether the window ends with it.
    """

    checkpoint: Checkpoint
    commit_time: datetime | None
    changes: int
    last: bool = False


class Flusher:
    """Applies events in order, and commits where it is told to. Use as a context manager, from one thread.

    Args:
        sink: Where to; no transaction is begun.
        applier: Applies to it.
        result: Takes the seconds of committing.
        committed: Called for each flush that has become durable, in the thread that calls the methods here.
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
        #: Whether the destination's transaction is open, or will be once what was submitted has run.
        self.begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Without an error, everything is settled before. The error stays what it is if the rollback fails as well."""
        try:
            if error is not None:
                self.abandon(interrupt=not isinstance(error, Exception))
        except DbmazzError as second:
            assert error is not None
            error.add_note(f"the rollback failed as well: {second.what}")
        finally:
            self._thread.shutdown()

    def submit(self, events: Sequence[WindowEvent], flush: Flush | None = None) -> None:
        """Apply events, once what was submitted before is done.

        Args:
            events: What to apply.
            flush: Commit with it; None: there is more to come in this transaction.

        Raises:
            DbmazzError: From what was submitted before.
        """
        self.settle()
        begin, self.begun = not self.begun, flush is None
        self._running = self._thread.submit(self._apply, events, begin, flush)

    def settle(self, *, block: bool = True) -> None:
        """Take note of what has been done.

        Args:
            block: Wait for it.

        Raises:
            DbmazzError: From what was submitted; it is not applied then.
        """
        running = self._running
        if running is None or not (block or running.done()):
            return
        # Polars' handler of SIGINT has system calls go on (SA_RESTART): a wait without limit would not see Ctrl-C.
        while not wait([running], _LOOK_UP_S).done:
            pass
        done = running.result()  # interrupted, it stays what is running
        self._running = None
        if done is not None:
            self._applier.committed()
            self._committed(done)

    def abandon(self, *, interrupt: bool = False) -> None:
        """Roll back what is not committed. A commit that is under way is not broken off.

        Args:
            interrupt: Break off what is being applied, at the next table at the latest; nothing can be submitted after.

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

    def _apply(self, events: Sequence[WindowEvent], begin: bool, flush: Flush | None) -> Flush | None:
        if begin:
            self._transaction = self._sink.begin()
        assert self._transaction is not None
        self._applier.apply(events, self._transaction)
        if flush is not None:
            clock = time.perf_counter()
            self._committing.set()
            try:
                self._transaction.commit(flush.checkpoint, last=flush.last)
            finally:
                self._committing.clear()
            self._result.phases["merge"] += time.perf_counter() - clock
        return flush
