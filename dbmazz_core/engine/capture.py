"""From the checkpoint to where the server is now: a window over one stream, rarely over two."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from threading import Event

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.engine.schema_following import SchemaFollower
from dbmazz_core.engine.snapshot import quarantine_of
from dbmazz_core.engine.window import Window
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Source
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef


@dataclass(slots=True)
class Capture:
    """Follows the stream into tables that are all copied.

    Attributes:
        settings: All settings.
        source: Set up, with nothing streaming.
        sink: Open, with nothing begun.
        tables: The captured tables.
        limits: When to end early.
        stop: Set from elsewhere to end at the next flush.
        progress: Called after each flush.
    """

    settings: Settings
    source: Source
    sink: Sink
    tables: Collection[TableRef]
    limits: WindowLimits
    stop: Event | None = None
    progress: Callable[[Progress], None] | None = None

    def run(self, checkpoint: Checkpoint) -> WindowResult:
        """Apply what was committed since the checkpoint.

        Raises:
            DbmazzError: What was flushed before stays, what came after is forgotten and comes again.
        """
        recorded = self.sink.read(self.settings.source.slot)
        states = recorded.states
        copies = {ref: states[ref].snapshot_lsn or INVALID_LSN for ref in self.tables if ref in states}
        end = self.source.stream_end(checkpoint.lsn, copies)
        result = self._window(checkpoint, recorded, self.limits, end)
        if end is not None and result.stop_reason is StopReason.CAUGHT_UP and not result.copy_anew:
            recorded = self.sink.read(self.settings.source.slot)
            assert recorded.checkpoint is not None
            result.extend(self._window(recorded.checkpoint, recorded, _left(self.limits, result), None))
        return result

    def _window(
        self, checkpoint: Checkpoint, recorded: Recorded, limits: WindowLimits, end: Lsn | None
    ) -> WindowResult:
        settings, source, sink = self.settings, self.source, self.sink
        states = recorded.states
        # The window passes over the changes of tables that are not configured any more.
        sink.mark_incomplete(settings.source.slot, [ref for ref in states if ref not in self.tables])
        captured = {ref: recorded.tables[ref] for ref in self.tables if ref in states}
        for table in captured.values():
            table.verify_unaltered()
        schemas = {ref: table.schema for ref, table in captured.items()}
        identities = {ref: table.identity for ref, table in captured.items() if table.identity is not None}
        follower = SchemaFollower(
            dict(schemas),
            dict(identities),
            source.describe,
            source.layouts,
            settings.tables.schema_changes,
            histories={ref for ref, state in states.items() if state.mode is Mode.CHANGELOG},
        )
        bound = source.bound(list(self.tables), identities)
        upper, catalog = (bound.lsn, bound.tables) if end is None else (end, {})
        quarantine = quarantine_of(settings, sink)
        stream = source.start_replication_from(
            checkpoint.lsn,
            upper_lsn=upper,
            tables=list(self.tables),
            table_start={ref: state.snapshot_lsn or INVALID_LSN for ref, state in states.items()},
            schemas=schemas,
            identities=identities,
            same_keys=bound.same_keys,
            lenient=quarantine.wanted if quarantine else None,
        )
        window = Window(
            stream,
            sink,
            checkpoint,
            upper,
            follower,
            catalog,
            flush=settings.flush,
            modes={ref: state.mode for ref, state in states.items()},
            limits=limits,
            stop=self.stop,
            progress=self.progress,
            quarantine=quarantine,
        )
        result = window.run()
        source.end_stream()
        result.phases["receive"] = stream.receive_cpu_s
        return result


def _left(limits: WindowLimits, result: WindowResult) -> WindowLimits:
    """What a window leaves of the limits to the one behind it."""
    changes, size, seconds = limits.max_changes, limits.max_bytes, limits.max_seconds
    return WindowLimits(
        max_changes=None if changes is None else max(changes - result.changes, 0),
        max_bytes=None if size is None else max(size - result.bytes, 0),
        max_seconds=None if seconds is None else max(seconds - result.duration_s, 0),
    )
