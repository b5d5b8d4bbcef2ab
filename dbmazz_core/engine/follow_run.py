"""A run of `follow`: windows whose last stream stays open, one after the other, until it is stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Event

from dbmazz_core.engine.capture_run import CaptureRun
from dbmazz_core.engine.follow_status import FollowPhase, FollowStatus
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.engine.upkeep import FollowUpkeep
from dbmazz_core.errors import DbmazzError, DestinationLocked
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.policies import LockedPolicy
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.settings.config import Settings, WindowLimits

#: Seconds to wait after an error: twice as long after each further one, up to the maximum.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
#: Seconds between two windows in a row after which no stream could stay open: tables change all the time.
_BETWEEN_WINDOWS_S = 1.0


@dataclass(slots=True)
class FollowRun:
    """Runs windows whose last stream stays open.

    Attributes:
        settings: All settings.
        open_source: Returns a new source for the settings.
        open_sink: Returns a new sink for the settings.
        stop: Set from elsewhere to end at the next flush.
        reload: Returns new settings if there are any; called about every second.
        watch: Called with the status whenever it has changed, and about every second.
        progress: Called with what copies, waits and windows tell.
        status: The status now.
    """

    settings: Settings
    open_source: Callable[[Settings], ManagedSource]
    open_sink: Callable[[Settings], AbstractContextManager[Sink]]
    stop: Event
    reload: Callable[[], Settings | None]
    watch: Callable[[FollowStatus], None]
    progress: Callable[[Progress], None]
    status: FollowStatus
    # The totals before the stream that `_window` is the result of.
    _before: FollowStatus | None = None
    _window: WindowResult | None = None
    _run: CaptureRun | None = None
    _new_settings: Settings | None = None
    _began: bool = False
    _failing_since: float | None = None
    _wait_s: float = _FIRST_WAIT_S
    _opened: bool = False
    _told: set[str] = field(default_factory=set)
    _warned: set[str] = field(default_factory=set)

    def run(self) -> FollowStatus:
        """Follow until `stop` is set; return the last status.

        Raises:
            DbmazzError: A person must do something; or an error came before the first window had begun to apply
                changes; or attempts were in vain for longer than the settings say. Committed flushes stay.
        """
        while not self.stop.is_set():
            try:
                with closing(self.open_source(self.settings)) as source, self.open_sink(self.settings) as sink:
                    self._windows(source, sink)
            except DbmazzError as error:
                self._wait(error)
            if self._new_settings is not None:
                self.settings, self._new_settings = self._new_settings, None
        self._update(replace(self.status, phase=FollowPhase.STOPPED, error=None))
        return self.status

    def _windows(self, source: ManagedSource, sink: Sink) -> None:
        """Run windows until `stop` is set, or there are new settings."""
        settings = self.settings
        # A file that others use is an error here, which is waited for.
        settings = replace(
            settings,
            sink=replace(settings.sink, when_locked=LockedPolicy.FAIL),
            flush=replace(settings.flush, interval_ms=settings.follow.interval_ms),
        )
        upkeep = FollowUpkeep(settings, source, sink, self._on_open, self._on_turn, self._on_look, self._on_publish)
        self._update(replace(self.status, phase=FollowPhase.STARTING))
        while not self.stop.is_set():
            self._opened = False
            self._told.clear()
            self._run = CaptureRun(settings, source, sink, WindowLimits(), self.stop, self._on_progress, upkeep)
            result = self._run.run()
            self._tell(result)
            self._update(replace(self.status, phase=FollowPhase.STARTING, states=result.states or self.status.states))
            if self._new_settings is not None:
                return
            if not self._opened and result.stop_reason is not StopReason.STOP_REQUESTED:
                sink.release()
                self.stop.wait(_BETWEEN_WINDOWS_S)
        source.stop()
        if (copy := sink.publish()) is not None:
            self._on_publish(copy)

    def _wait(self, error: DbmazzError) -> None:
        """Wait before the next attempt; raise the error if there is none."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        timeout_s = self.settings.follow.retry_timeout_s
        is_late = timeout_s is not None and now - self._failing_since >= timeout_s
        if not self._began or not error.is_transient or is_late:
            raise error
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, _LONGEST_WAIT_S)
        self._update(
            replace(self.status, phase=FollowPhase.WAITING, error=error, interruptions=self.status.interruptions + 1)
        )
        self._say(f"{error.what}; next attempt in {wait_s:g} s")
        if isinstance(error, DestinationLocked):
            wait_s = _FIRST_WAIT_S  # the attempt itself waits
        self.stop.wait(wait_s)

    # -- what windows and their streams report

    def _on_progress(self, progress: Progress) -> None:
        if progress.phase == "stream" and progress.window is not None:
            self._works()
            if progress.window is not self._window:
                self._before, self._window = self.status, progress.window
            self._add(progress.window)
        elif progress.phase == "snapshot" and progress.table is not None:
            self._works()
            counts = replace(self.status.tables.get(progress.table, TableCounts()), snapshot_rows=progress.rows)
            self._update(replace(self.status, tables={**self.status.tables, progress.table: counts}))
        self.progress(progress)

    def _add(self, window: WindowResult) -> None:
        """Update the totals with those of the stream that is open."""
        assert self._before is not None
        totals = self._before.with_result(window)
        now = datetime.now(UTC)
        latency_s = None if window.commit_time is None else max((now - window.commit_time).total_seconds(), 0.0)
        self._update(
            replace(
                self.status,
                checkpoint=totals.checkpoint,
                commit_time=totals.commit_time,
                latency_s=latency_s,
                changes=totals.changes,
                transactions=totals.transactions,
                flushes=totals.flushes,
                tables=totals.tables,
            )
        )

    def _works(self) -> None:
        """Note that source and destination work."""
        self._began, self._failing_since, self._wait_s = True, None, _FIRST_WAIT_S

    def _on_open(self, recorded: Recorded) -> None:
        self._opened = True
        self._works()
        assert self._run is not None
        if (result := self._run.so_far) is not None:
            self._tell(result)
        for warning in self._run.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._say(f"warning: {warning}")
        checkpoint = None if recorded.checkpoint is None else recorded.checkpoint.lsn
        self._update(
            replace(
                self.status,
                phase=FollowPhase.STREAMING,
                error=None,
                checkpoint=checkpoint,
                states=recorded.all_states,
            )
        )

    def _on_turn(self, behind_s: float | None) -> StopReason | None:
        if behind_s is not None:
            self._update(replace(self.status, current_at=time.time() - behind_s))
        elif self.status.commit_time is not None:
            self._update(replace(self.status, current_at=self.status.commit_time.timestamp()))
        self._new_settings = self.reload() or self._new_settings
        return None if self._new_settings is None else StopReason.SOURCE_CHANGED

    def _on_look(self, source: SourceStatus, recorded: Recorded) -> None:
        self._update(replace(self.status, source=source, states=recorded.all_states))

    def _on_publish(self, copy: ReadCopy) -> None:
        before = self.status.read_copy
        is_new = before is None or before.error is None
        if copy.error is not None and is_new:
            self._say(f"{copy.error.what}\n  what to do: {copy.error.remedy}")
        self._update(replace(self.status, read_copy=copy))

    def _tell(self, result: WindowResult) -> None:
        """Tell what a run of windows has done beside rows, each once."""
        copied = [f"{ref} {reason}: re-snapshotted" for ref, reason in sorted(result.copy_anew.items())]
        for sentence in [*result.schema_changes, *copied]:
            if sentence not in self._told:
                self._told.add(sentence)
                self._say(sentence)

    def _say(self, message: str) -> None:
        self.progress(Progress("wait", message=message))

    def _update(self, status: FollowStatus) -> None:
        self.status = status
        self.watch(status)
