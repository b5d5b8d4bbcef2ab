"""One run of a capture: follow the tables that stream, copy the tables that need it, and follow these as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from dbmazz_core.engine.capture import Capture, remaining
from dbmazz_core.engine.copying import Copying
from dbmazz_core.engine.preparation import Plan, Preparation
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.engine.table_states import record_facts
from dbmazz_core.errors import DestinationChanged, DestinationLocked
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.policies import LockedPolicy
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.stopping import StopRequested
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.engine.window import Upkeep

#: How many times in a row a window begins again because another process has changed its tables meanwhile.
_ATTEMPTS = 5


@dataclass(slots=True)
class CaptureRun:
    """Runs one capture window.

    New tables never hold up the others: the changes of the tables that stream are committed first. Then the source is
    set up for the others, and they are copied.

    Attributes:
        settings: All settings.
        source: Connected, with nothing streaming.
        sink: Open, without a transaction.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush, or before the next rows are copied.
        progress: Called after rows were loaded, and after each flush.
        upkeep: Keeps the last stream of the run open, see `Capture`.
    """

    settings: Settings
    source: ManagedSource
    sink: Sink
    limits: WindowLimits
    stop: Event
    progress: Callable[[Progress], None] | None = None
    upkeep: Upkeep | None = None
    _copies: _Copies = field(default_factory=lambda: _Copies())
    _warnings: tuple[str, ...] = ()
    _result: WindowResult | None = None

    def run(self, resnapshot: Sequence[TableRef] = ()) -> WindowResult:
        """Run the window; return its result without the lag.

        If another process changes the tables or their states between two commits, the window begins again at the last
        one.

        Args:
            resnapshot: Tables to re-snapshot.

        Raises:
            DbmazzError: Committed flushes and copies stay.
        """
        started, attempts, flushes = time.monotonic(), 0, 0
        while True:
            try:
                self._run([ref for ref in resnapshot if ref not in self._copies.rows])
            except StopRequested:
                result = self._result or _stopped_at(self.sink.read().checkpoint)
                result.stop_reason = StopReason.STOP_REQUESTED
            except DestinationChanged:
                before, flushes = flushes, 0 if self._result is None else self._result.flushes
                attempts = 1 if flushes > before else attempts + 1
                if attempts >= _ATTEMPTS or self.sink.read().checkpoint is None:
                    raise
                self.source.end_stream()
                continue
            except DestinationLocked as error:
                if self.settings.sink.when_locked is LockedPolicy.FAIL:
                    raise
                return self._postponed(error, started)
            else:
                assert self._result is not None
                result = self._result
            return self._reported(result, started)

    @property
    def so_far(self) -> WindowResult | None:
        """What the run has done before the stream that is open now, without copies; None: nothing."""
        return self._result

    @property
    def warnings(self) -> tuple[str, ...]:
        """See `WindowResult.warnings`."""
        return self._warnings

    def _run(self, resnapshot: Sequence[TableRef]) -> None:
        self.source.lock_feed(timeout_s=self.settings.sink.lock_timeout_s, stopped=self.stop.is_set)
        plan, before = self._plan(resnapshot), self._result
        if plan.followed and plan.recorded.checkpoint is not None and self._has_set_up(plan):
            if _is_stopped(self._capture(plan.followed, plan.recorded.checkpoint)):
                return
            plan = self._plan(())
        copying = self._copy(plan)
        if copying.stopped:
            raise StopRequested
        if copying.needed:
            self.source.mark_history()
        if self._result is before or copying.needed or self.upkeep is not None:
            self._capture(list(copying.tables), copying.checkpoint, self.upkeep)
        assert self._result is not None
        if self._result.copy_anew and not _is_stopped(self._result) and self._copy(self._plan(())).stopped:
            raise StopRequested

    def _preparation(self) -> Preparation:
        return Preparation(self.settings, self.source, self.sink, self.progress, self.stop)

    def _plan(self, resnapshot: Sequence[TableRef]) -> Plan:
        preparation = self._preparation()
        plan = preparation.verify(resnapshot)
        self._copies.replaced |= {**plan.waiting, **preparation.replaced}
        return plan

    def _has_set_up(self, plan: Plan) -> bool:
        """Return whether the source must be set up, or tables copied, before all tables stream."""
        return not plan.point.restart and (plan.needs_copies or self.source.needs_setup())

    def _copy(self, plan: Plan) -> Copying:
        """Set up the source, and copy the tables that need it."""
        preparation, started = self._preparation(), time.monotonic()
        copying = preparation.set_up(plan)
        self._warnings = preparation.warnings
        if copying.needed:
            self._copies.rows |= copying.copy()
            self._copies.duration_s += time.monotonic() - started
        self._copies.quarantined |= copying.quarantined
        return copying

    def _capture(
        self,
        tables: Sequence[TableRef],
        checkpoint: Checkpoint,
        upkeep: Upkeep | None = None,
    ) -> WindowResult:
        """Follow tables from the checkpoint; return the result of this and of earlier streams of the window."""
        before = self._result
        limits = self.limits if before is None else remaining(self.limits, before)
        capture = Capture(self.settings, self.source, self.sink, tables, limits, self.stop, self.progress, upkeep)
        try:
            capture.run(checkpoint)
        finally:
            if before is None:
                self._result = capture.result
            elif capture.result is not None:
                before.extend(capture.result)
        assert self._result is not None
        return self._result

    def _postponed(self, error: DestinationLocked, started: float) -> WindowResult:
        """Return the result of a window that ends because others use the destination."""
        result = self._result or _stopped_at(None)
        result.stop_reason, result.postponed = StopReason.POSTPONED, error.what
        if (waiting := self.source.status().lag_bytes) is not None:
            result.postponed += f"; {waiting:,} bytes of WAL wait in the slot"
        self._copies.report(result)
        result.warnings, result.duration_s = self._warnings, time.monotonic() - started
        return result

    def _reported(self, result: WindowResult, started: float) -> WindowResult:
        """Add the copies and the states of the tables to the result."""
        recorded = record_facts(self.sink, self.sink.read(), self.source, self.settings.tables)
        result.states = recorded.all_states
        if self._copies.duration_s:
            result.phases["snapshot"] = self._copies.duration_s
        self._copies.report(result)
        result.warnings = self._warnings
        result.duration_s = time.monotonic() - started
        return result


@dataclass(slots=True)
class _Copies:
    """The copies of a window.

    Attributes:
        rows: By copied table: the number of its rows.
        quarantined: By copied table: the number of rows that went to quarantine.
        replaced: Tables that are copied for a reason that the source gives, with the reason.
        duration_s: Seconds spent on copies.
    """

    rows: dict[TableRef, int] = field(default_factory=dict)
    quarantined: dict[TableRef, int] = field(default_factory=dict)
    replaced: dict[TableRef, str] = field(default_factory=dict)
    duration_s: float = 0.0

    def report(self, result: WindowResult) -> None:
        """Add the copies to a window's result."""
        reasons = result.copy_anew | self.replaced
        result.copy_anew = {ref: why for ref, why in reasons.items() if ref in self.rows}
        for table, rows in self.rows.items():
            counts = result.tables.setdefault(table, TableCounts())
            counts.snapshot_rows = rows
            counts.quarantined += self.quarantined.get(table, 0)


def _is_stopped(result: WindowResult) -> bool:
    return result.stop_reason is StopReason.STOP_REQUESTED


def _stopped_at(checkpoint: Checkpoint | None) -> WindowResult:
    lsn = checkpoint.lsn if checkpoint else INVALID_LSN
    return WindowResult(lsn, lsn, lsn, stop_reason=StopReason.STOP_REQUESTED)
