"""Follow the source from the checkpoint to its current position, with as many streams as the source needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from dbmazz_core.engine.isolation import Isolation, LeftOut, mark_left_out
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.engine.table_states import unmissed
from dbmazz_core.errors import DbmazzError
from dbmazz_core.loading import load_polars
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Bound, FollowedTable, Source
from dbmazz_core.model.stream import TextNeeded
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.engine.window import Upkeep


@dataclass(slots=True)
class Capture:
    """Captures changes of tables whose copies are complete.

    Attributes:
        settings: All settings.
        source: Set up, with nothing streaming.
        sink: Open, without a transaction.
        tables: The captured tables.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush.
        progress: Called after each flush.
        upkeep: Keeps streams open, see `Window`; None: they end at their bounds.
        result: What was done so far, up to the last commit; None before the first stream.
        text_reason: Why the source must send values as text; None until it has come to a value that needs it.
    """

    settings: Settings
    source: Source
    sink: Sink
    tables: Collection[TableRef]
    limits: WindowLimits
    stop: Event | None = None
    progress: Callable[[Progress], None] | None = None
    upkeep: Upkeep | None = None
    result: WindowResult | None = None
    text_reason: str | None = None

    def run(self, checkpoint: Checkpoint) -> WindowResult:
        """Apply the transactions that committed since the checkpoint.

        A table whose trouble must not stop the others is left out, see `isolation`: the stream is then opened again at
        the last commit, without that table, if the flush alone cannot be repeated.

        Raises:
            DbmazzError: Committed flushes stay. Later changes come again in the next window.
        """
        more = self._window(checkpoint, self.sink.read(), self.limits)
        assert self.result is not None
        while more:
            recorded = self.sink.read()
            assert recorded.checkpoint is not None
            more = self._window(recorded.checkpoint, recorded, remaining(self.limits, self.result))
        return self.result

    def _window(self, checkpoint: Checkpoint, recorded: Recorded, limits: WindowLimits) -> bool:
        """Run one window, and add its result; return whether another stream follows."""
        self.sink.release()
        settings, source = self.settings, self.source
        states = recorded.states
        tables = frozenset(self.tables)
        captured = {ref: recorded.tables[ref] for ref in recorded.streaming if ref in tables}
        followed = {
            ref: FollowedTable(table.shape, table.state.snapshot_lsn or INVALID_LSN) for ref, table in captured.items()
        }
        bound = source.bound(checkpoint.lsn, followed)
        if self.upkeep is not None and bound.unchanged and not bound.more:
            bound = replace(bound, is_open=True)
        elif self._is_quiet(checkpoint, bound):
            self._add(_without_changes(checkpoint, bound, followed))
            return False
        load_polars()
        from dbmazz_core.engine.schema_following import SchemaFollower
        from dbmazz_core.engine.window import Window

        follower = SchemaFollower(
            source,
            {ref: table.shape for ref, table in captured.items()},
            settings.tables.schema_changes,
            histories={ref for ref, state in states.items() if state.mode is Mode.CHANGELOG},
        )
        quarantined = quarantined_tables(settings)
        try:
            stream = source.stream(
                checkpoint.lsn,
                bound,
                followed,
                keep_unreadable=quarantined,
                watched=unmissed(recorded),
                text_reason=self.text_reason,
            )
        except TextNeeded as needed:
            self.text_reason = str(needed)
            self._add(WindowResult(checkpoint.lsn, checkpoint.lsn, bound.lsn))
            return True
        except DbmazzError as error:
            left_out = self._isolation.left_out(error)
            if left_out is None or not left_out.tables.keys() & captured.keys():
                raise
            result = WindowResult(checkpoint.lsn, checkpoint.lsn, bound.lsn)
            self._add(self._without(left_out.tables, result))
            return True
        if self.upkeep is not None and bound.is_open:
            self.upkeep.opened()
        window = Window(
            stream,
            self.sink,
            checkpoint,
            bound,
            follower,
            flush=settings.flush_limits,
            modes={ref: state.mode for ref, state in states.items()},
            limits=limits,
            stop=self.stop,
            progress=self.progress,
            quarantined=quarantined,
            isolation=self._isolation,
            upkeep=self.upkeep,
        )
        try:
            result = window.run()
            more = bound.more and result.stop_reason is StopReason.CAUGHT_UP and not result.copy_anew
        except TextNeeded as needed:
            self.text_reason, result, more = str(needed), window.result, True
        except LeftOut as left_out:
            if left_out.tables and not left_out.tables.keys() & captured.keys():
                raise left_out.__cause__ or left_out from None
            result = self._without({**window.left_out, **left_out.tables}, window.result)
            more = self.upkeep is None or not result.copy_anew
        except DbmazzError:
            self._add(window.result)
            raise
        source.end_stream()
        result.phases["receive"] = stream.receive_cpu_s
        result.format = stream.format
        self._add(result)
        return more

    def _is_quiet(self, checkpoint: Checkpoint, bound: Bound) -> bool:
        """Return whether the source says without a stream that there is nothing to apply up to the bound."""
        is_stopped = self.stop is not None and self.stop.is_set()
        waits = bound.lsn - checkpoint.lsn < self.settings.flush.idle_wal_bytes  # as `Window._can_wait`
        return waits and not is_stopped and self.source.is_quiet(checkpoint.lsn, bound)

    def _add(self, result: WindowResult) -> None:
        if self.result is None:
            self.result = result
        else:
            self.result.extend(result)

    @property
    def _isolation(self) -> Isolation:
        return Isolation(self.settings.tables.on_error)

    def _without(self, tables: Mapping[TableRef, DbmazzError | SchemaEvent], result: WindowResult) -> WindowResult:
        """Record that tables have left the stream at the last commit; return the result with them."""
        unrecorded = {ref: why for ref, why in tables.items() if ref not in result.failed | result.copy_anew}
        with self.sink.begin() as transaction:
            for table, why in unrecorded.items():
                mark_left_out(transaction, table, why)
                result.leave_out(table, why)
            transaction.commit()
        return result


def _without_changes(checkpoint: Checkpoint, bound: Bound, tables: Iterable[TableRef]) -> WindowResult:
    """Return the result of a window that has nothing to apply."""
    result = WindowResult(checkpoint.lsn, checkpoint.lsn, bound.lsn)
    result.tables = {table: TableCounts() for table in tables}
    result.phases = {"decode": 0.0, "compact": 0.0, "merge": 0.0}
    return result


def quarantined_tables(settings: Settings) -> Callable[[TableRef], bool] | None:
    """Return a function that tells whether rows of a table with bad values go to quarantine; None if no table's do."""
    policy = settings.tables.on_bad_value
    if BadValuePolicy.QUARANTINE not in (policy.default, *(value for _, value in policy.exceptions)):
        return None
    return lambda table: policy.of(table) is BadValuePolicy.QUARANTINE


def remaining(limits: WindowLimits, result: WindowResult) -> WindowLimits:
    """Return the limits of the next window, after a window with this result."""
    changes, size, seconds = limits.max_changes, limits.max_bytes, limits.max_seconds
    return WindowLimits(
        max_changes=None if changes is None else max(changes - result.changes, 0),
        max_bytes=None if size is None else max(size - result.bytes, 0),
        max_seconds=None if seconds is None else max(seconds - result.duration_s, 0),
    )
