"""From the checkpoint to where the server is now: a window over one stream, rarely over two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event

from dbmazz_core.connectors.sources.postgres.catalog import TableInfo
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.engine.follow_schema import SchemaFollower
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.engine.snapshot import quarantine_of
from dbmazz_core.engine.window import Window
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.identity import SourceTable, TableIdentity
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.sink import Sink
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
    source: PostgresSource
    sink: Sink
    tables: Mapping[TableRef, TableInfo]
    limits: WindowLimits
    stop: Event | None = None
    progress: Callable[[Progress], None] | None = None

    def run(self, checkpoint: Checkpoint) -> WindowResult:
        """Apply what was committed since the checkpoint.

        Raises:
            DbmazzError: What was flushed before stays, what came after is forgotten and comes again.
        """
        bound = self._bound(checkpoint)
        result = self._window(checkpoint, self.limits, bound)
        if bound is not None and result.stop_reason is StopReason.CAUGHT_UP and not result.copy_anew:
            reached = self.sink.read(self.settings.source.slot).checkpoint
            assert reached is not None
            result.extend(self._window(reached, _left(self.limits, result), None))
        return result

    def _window(self, checkpoint: Checkpoint, limits: WindowLimits, bound: Lsn | None) -> WindowResult:
        settings, source, sink = self.settings, self.source, self.sink
        recorded = sink.read(settings.source.slot)
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
        upper, catalog = self._upper(identities)
        same_keys = {ref for ref, now in catalog.items() if ref in identities and _same_key(identities[ref], now)}
        if bound is not None:
            upper, catalog = bound, {}
        quarantine = quarantine_of(settings, sink)
        stream = source.start_replication_from(
            checkpoint.lsn,
            upper_lsn=upper,
            found=list(self.tables.values()),
            table_start={ref: state.snapshot_lsn or INVALID_LSN for ref, state in states.items()},
            schemas=schemas,
            identities=identities,
            same_keys=same_keys,
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

    def _upper(self, known: Mapping[TableRef, TableIdentity]) -> tuple[Lsn, dict[TableRef, SourceTable]]:
        """Where the server is now, and the tables that are known to be so there.

        Args:
            known: What the tables were when the destination was last made to fit.
        """
        oids = [table.oid for table in self.tables.values()]
        upper, now = self.source.reachable_lsn(), self.source.catalog(oids)
        if all(ref in known and known[ref].is_as(table.identity) for ref, table in now.items()):
            return upper, now  # as they have been all the while
        before = now
        upper, now = self.source.reachable_lsn(), self.source.catalog(oids)
        # What is alike before and behind it, is so at the bound.
        return upper, {
            ref: table for ref, table in now.items() if ref in before and table.identity == before[ref].identity
        }

    def _bound(self, checkpoint: Checkpoint) -> Lsn | None:
        """Where a stream has to end, and another one to begin; None if it may go on.

        To PostgreSQL 14 a table that it has decoded while it was not published stays so for the rest of the session,
        also when it becomes a partition of one that is (pgoutput.c, rel_sync_cache_relation_cb). At the end of a window
        that shows, and the root is copied anew; not if the copy has seen the partition already. So no session that
        begins before a copy goes on behind it.
        """
        if self.source.renews_partitions:
            return None
        states = self.sink.read(self.settings.source.slot).states
        roots = [states[ref] for ref, info in self.tables.items() if info.is_partitioned and ref in states]
        copies = (state.snapshot_lsn or INVALID_LSN for state in roots)
        return max((lsn for lsn in copies if lsn > checkpoint.lsn), default=None)


def _same_key(known: TableIdentity, now: SourceTable) -> bool:
    """Whether a table's key has been of the same index, and its columns have had their names, all the while."""
    versions = {(column.number, column.name, column.version) for column in known.columns}
    return known.key_index == now.identity.key_index and all(
        (column.number, column.name, column.version) in versions
        for column in now.identity.columns
        if column.name in now.schema.key
    )


def _left(limits: WindowLimits, result: WindowResult) -> WindowLimits:
    """What a window leaves of the limits to the one behind it."""
    changes, size, seconds = limits.max_changes, limits.max_bytes, limits.max_seconds
    return WindowLimits(
        max_changes=None if changes is None else max(changes - result.changes, 0),
        max_bytes=None if size is None else max(size - result.bytes, 0),
        max_seconds=None if seconds is None else max(seconds - result.duration_s, 0),
    )
