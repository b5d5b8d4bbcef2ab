"""One source and one destination: everything the command line and Dagster do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import replace

from dbmazz_core.connectors.sinks import create_sink
from dbmazz_core.connectors.sources import create_source
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.engine.capture import Capture
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import PipelineStatus, SnapshotResult, StopReason, TableCounts, WindowResult
from dbmazz_core.engine.resume_checks import Agreement
from dbmazz_core.engine.snapshot import SnapshotRun, StopRequested, plan
from dbmazz_core.errors import (
    DestinationError,
    SlotError,
    SlotLost,
    TableNotFound,
    UnsupportedServerVersion,
)
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.findings import CheckReport, Finding, SetupReport
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.records import Begin, CdcRecord, Commit, Heartbeat, SchemaChange
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef

ProgressCallback = Callable[[Progress], None]


class Pipeline:
    """Tables of one PostgreSQL database kept in one DuckDB file.

    Cheap to make; connects when used, and closes again.

    >>> pipeline = Pipeline(Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}))
    >>> pipeline.capture().stop_reason  # doctest: +SKIP
    <StopReason.CAUGHT_UP: 'caught_up'>

    All methods raise DbmazzError, with what to do.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def check(self) -> CheckReport:
        """Everything that capturing needs, looked at and not changed: PostgreSQL, whether the destination opens, holds
        what it should of this server, as the settings have it, and can keep tables of these names."""
        recorded = Recorded()
        findings: list[Finding] = []
        with closing(create_source(self.settings.source)) as source, ExitStack() as stack:
            sink: Sink | None = None
            try:
                sink = stack.enter_context(create_sink(replace(self.settings.sink, lock_timeout_s=0), read_only=True))
                recorded = sink.read(self.settings.source.slot)
            except DestinationError as error:
                findings.append(Finding.of(error))
            try:
                look = source.look()
            except UnsupportedServerVersion as error:
                return CheckReport((Finding.of(error), *findings))
            report = source.check_look(captured=recorded.streaming)
            if sink is not None:
                findings += map(Finding.of, sink.name_conflicts(source.column_names()))
                slot_is_good = not any(isinstance(e, SlotError) for e in report.errors)
                agreement = Agreement(self.settings, source, sink, recorded)
                problems = agreement.problems(look.tables, and_slot=slot_is_good)
                findings += map(Finding.of, problems)
        return replace(report, findings=(*report.findings, *findings))

    def setup(self) -> SetupReport:
        """Replica identities, publication and slot. Idempotent. The destination is only looked at.

        What it already follows must not be published anew behind its back: the changes between would be missing.
        """
        with closing(create_source(self.settings.source)) as source:
            _ready(source)
            with create_sink(self.settings.sink, read_only=True) as sink:
                captured = sink.read(self.settings.source.slot).streaming
            report, _ = source.prepare(captured=captured)
            if source.verify_slot(None) is None:
                with source.snapshot((), new_slot=True) as created:
                    done = (*report.done, f"created replication slot {self.settings.source.slot} at {created.lsn}")
                report = replace(report, done=done)
            return report

    def tables(self) -> list[TableDescription]:
        """The configured tables, each with the columns that are captured, from the source's catalog."""
        with closing(create_source(self.settings.source)) as source:
            return source.table_descriptions()

    def snapshot(
        self, tables: Sequence[TableRef] | None = None, *, progress: ProgressCallback | None = None
    ) -> SnapshotResult:
        """Copy tables anew, whatever the destination holds; readers see the old rows until each is complete.

        Args:
            tables: Which ones; None: all, and a new position for the slot: this repairs a slot that is gone, lost or
                ahead of the checkpoint.
            progress: Called as rows come.
        """
        started = time.monotonic()
        with (
            closing(
                create_source(self.settings.source, snapshot=self.settings.snapshot, on_slot_wait=_waiting(progress))
            ) as source,
            self._opened(source) as (sink, look),
        ):
            run = self._snapshot_run(source, sink, look, tables, progress)
            counts = run.copy()
        return SnapshotResult(run.checkpoint.lsn, counts, time.monotonic() - started, run.quarantined)

    def capture(
        self,
        *,
        limits: WindowLimits | None = None,
        resnapshot: Sequence[TableRef] = (),
        stop: threading.Event | None = None,
        progress: ProgressCallback | None = None,
    ) -> WindowResult:
        """Run one bounded window; the first one sets up and copies the tables.

        Args:
            limits: When to end early; by default those of the settings.
            resnapshot: Tables to copy anew first.
            stop: Set it to end at the next flush, or before the next rows are copied: the next window copies what is
                missing then; a table of `resnapshot` keeps its old rows.
            progress: Called as rows are copied and after each flush.
        """
        started = time.monotonic()
        settings = self.settings
        with closing(
            create_source(settings.source, snapshot=settings.snapshot, on_slot_wait=_waiting(progress, stop))
        ) as source:
            with self._opened(source) as (sink, look):
                try:
                    run = self._prepare(source, sink, look, resnapshot, progress, stop)
                except StopRequested:
                    return _stopped_at(sink.read(settings.source.slot).checkpoint)
                copied = run.copy() if run.needed else {}
                copied_s = time.monotonic() - started
                if run.stopped:
                    result = _stopped_at(sink.read(settings.source.slot).checkpoint)
                else:
                    capture = Capture(
                        settings, source, sink, list(run.tables), limits or settings.limits, stop, progress
                    )
                    result = capture.run(run.checkpoint)
                if result.copy_anew and result.stop_reason is not StopReason.STOP_REQUESTED:
                    again = self._prepare(source, sink, _ready(source), (), progress, stop)
                    copied |= again.copy()
                    run.quarantined |= again.quarantined
                    run.replaced |= again.replaced
                    if again.stopped:
                        result.stop_reason = StopReason.STOP_REQUESTED
            if result.end_lsn > INVALID_LSN:
                result.lag_bytes = max(source.server_lsn() - result.end_lsn, 0)
            source.stop()
            result.copy_anew = {ref: why for ref, why in (result.copy_anew | run.replaced).items() if ref in copied}
        if run.needed:
            result.phases["snapshot"] = copied_s
        for table, rows in copied.items():
            counts = result.tables.setdefault(table, TableCounts())
            counts.snapshot_rows = rows
            counts.quarantined += run.quarantined.get(table, 0)
        result.duration_s = time.monotonic() - started
        return result

    def status(self, *, rows: bool = True) -> PipelineStatus:
        """Slot and destination as they are; what cannot be read of the destination is in `destination_error`."""
        status = self.source_status()
        slot = self.settings.source.slot
        try:
            # No waiting: status is for looking while others work.
            config = replace(self.settings.sink, lock_timeout_s=0)
            with create_sink(config, read_only=True) as sink:
                recorded = sink.read(slot)
                checkpoint, states = recorded.checkpoint, recorded.states
                counts = sink.count_rows(states) if rows else {}
                bad = sink.quarantined(slot)
        except DestinationError as error:
            return replace(status, destination_error=str(error))
        tables = tuple(
            replace(state, rows=counts.get(ref), quarantined=bad.get(ref, 0)) for ref, state in sorted(states.items())
        )
        lag = max(status.server_lsn - checkpoint.lsn, 0) if checkpoint else status.lag_bytes
        return replace(status, checkpoint=checkpoint, tables=tables, lag_bytes=lag)

    def source_status(self) -> PipelineStatus:
        """PostgreSQL's side only; never opens the destination."""
        with closing(create_source(self.settings.source)) as source:
            state, server_lsn = source.slot(), source.server_lsn()
        confirmed = state.confirmed_flush_lsn if state else None
        return PipelineStatus(
            slot=self.settings.source.slot,
            slot_exists=state is not None,
            slot_active=bool(state and state.active),
            active_pid=state.active_pid if state else None,
            wal_status=state.wal_status if state else None,
            confirmed_lsn=confirmed,
            server_lsn=server_lsn,
            checkpoint=None,
            lag_bytes=None if confirmed is None else max(server_lsn - confirmed, 0),
        )

    def destination(self) -> AbstractContextManager[Sink]:
        """The destination, open to be read. What is not there yet is empty.

        Raises:
            DestinationLocked: Another process writes to it, for longer than the settings allow.
            DestinationError: It cannot be read.
        """
        return create_sink(self.settings.sink, read_only=True)

    def has_changes(self, *, timeout_s: float = 5.0) -> bool:
        """Whether a transaction with changes waits in the slot. Consumes nothing.

        Args:
            timeout_s: If the server needs longer to look, the answer is yes.
        """
        with closing(create_source(self.settings.source)) as source:
            return source.has_changes(timeout_s=timeout_s)

    def peek(self, limit: int = 10) -> Iterator[CdcRecord]:
        """The next changes, `limit` of them at most, with the BEGIN and COMMIT around them. Consumes nothing."""
        with closing(create_source(self.settings.source)) as source:
            state = source.verify_slot(None)
            if state is None:
                source.check().raise_first()
                return
            source.start_replication_from(state.confirmed_flush_lsn or INVALID_LSN)
            changes = 0
            for record in source.records(until=source.reachable_lsn()):
                if isinstance(record, Heartbeat):
                    continue
                yield record
                if not isinstance(record, Begin | Commit | SchemaChange):
                    changes += 1
                    if changes >= limit:
                        return

    def teardown(self) -> list[str]:
        """Drop slot and publication. The destination stays as it is; says what was done."""
        with closing(create_source(self.settings.source)) as source:
            return source.teardown()

    # -- steps

    @contextmanager
    def _opened(self, source: PostgresSource) -> Iterator[tuple[Sink, Look]]:
        """The destination, open, and a look at the source after that: no other capture comes in between.

        Before it the source is connected with, so that nobody waits for the destination meanwhile.
        """
        source.connect()
        with create_sink(self.settings.sink) as sink:
            yield sink, _ready(source)

    def _prepare(
        self,
        source: PostgresSource,
        sink: Sink,
        look: Look,
        resnapshot: Sequence[TableRef],
        progress: ProgressCallback | None,
        stop: threading.Event | None = None,
    ) -> SnapshotRun:
        """Set up the source, compare slot and checkpoint, and find out which tables have to be copied."""
        config = self.settings.source
        recorded = sink.read(config.slot)
        agreement = Agreement(self.settings, source, sink, recorded)
        checkpoint = agreement.checkpoint()
        if checkpoint is not None:
            source.verify_history(checkpoint.lsn, checkpoint.timeline)
        restart = config.cleanup_on_stop and checkpoint is not None and source.slot() is None
        slot = source.verify_slot(None if restart else checkpoint.lsn if checkpoint else None)
        if slot is not None and checkpoint is not None and checkpoint.last is not None:
            stopped = stop.is_set if stop is not None else lambda: False
            if not source.verify_replay(checkpoint.last, slot, checkpoint.lsn, stopped):
                raise StopRequested
        # What is copied anew may look as it likes, and may have been missing from the publication.
        followed = [] if restart else [ref for ref in recorded.streaming if ref not in resnapshot]
        infos = look.tables
        # A copy that is asked for is made under the rules of today; no other one shows what was hidden.
        hidden = agreement.hidden()
        agreement.verify_hidden([info for info in infos if info.ref not in resnapshot], hidden)
        names = agreement.name_changes(infos, followed)
        if names.renamed:
            sink.rename_tables(names.renamed, slot=config.slot)
            recorded = sink.read(config.slot)
            agreement = Agreement(self.settings, source, sink, recorded)
            followed = [ref for ref in recorded.streaming if ref not in resnapshot]
        followed = [ref for ref in followed if ref not in names.replaced]
        states = recorded.states
        configured = [info.ref for info in infos]
        _known(configured, resnapshot)
        agreement.verify_names()
        # Before anything is changed, at the source too.
        kept = [(info, None if info.ref in resnapshot else states.get(info.ref)) for info in infos]
        agreement.verify_tables(kept, followed)
        _, look = source.prepare(captured=followed)
        tables = {info.ref: info for info in look.tables}
        if restart:
            sink.mark_incomplete(config.slot)
            checkpoint, states = None, sink.read(config.slot).states
        again = (*resnapshot, *names.replaced)
        run = plan(self.settings, source, sink, tables, states, checkpoint, _confirmed(slot), again, progress, stop)
        run.hidden = {info.oid: hidden[info.oid] for info in infos if info.oid in hidden and info.ref not in resnapshot}
        run.replaced = dict.fromkeys(names.replaced, "was dropped and created again, or another took its name")
        return run

    def _snapshot_run(
        self,
        source: PostgresSource,
        sink: Sink,
        look: Look,
        chosen: Sequence[TableRef] | None,
        progress: ProgressCallback | None,
    ) -> SnapshotRun:
        if chosen is not None:
            return self._prepare(source, sink, look, chosen, progress).forced()
        config = self.settings.source
        agreement = Agreement(self.settings, source, sink, sink.read(config.slot))
        agreement.checkpoint()
        agreement.verify_names()
        agreement.verify_tables([(info, None) for info in look.tables], ())
        _, look = source.prepare()
        tables = {info.ref: info for info in look.tables}
        slot = source.slot()
        if slot is not None and slot.is_lost:
            raise SlotLost(
                f"replication slot {config.slot} lost WAL that it needed and cannot be used again",
                object=f"replication slot {config.slot}",
                remedy="drop it, then copy all tables anew: dbmazz teardown && dbmazz snapshot",
            )
        source.verify_slot(None)
        sink.mark_incomplete(config.slot)
        states = sink.read(config.slot).states
        return plan(
            self.settings, source, sink, tables, states, None, _confirmed(slot), list(tables), progress
        ).forced()


def _waiting(progress: ProgressCallback | None, stop: threading.Event | None = None) -> Callable[[str], None]:
    """To be called while a slot is waited for."""

    def say(message: str) -> None:
        if stop is not None and stop.is_set():
            raise StopRequested
        if progress is not None:
            progress(Progress("wait", message=message))

    return say


def _stopped_at(checkpoint: Checkpoint | None) -> WindowResult:
    """A window that was asked to stop before it began."""
    lsn = checkpoint.lsn if checkpoint else INVALID_LSN
    return WindowResult(lsn, lsn, lsn, stop_reason=StopReason.STOP_REQUESTED)


def _known(tables: Sequence[TableRef], chosen: Sequence[TableRef]) -> None:
    for ref in chosen:
        if ref not in tables:
            raise TableNotFound(
                f"{ref} is not one of the configured tables",
                object=str(ref),
                remedy=f"add it to TABLES, or choose of: {', '.join(map(str, tables))}",
            )


def _confirmed(slot: SlotState | None) -> Lsn | None:
    return None if slot is None else slot.confirmed_flush_lsn or INVALID_LSN


def _ready(source: PostgresSource) -> Look:
    """Look at the source, and raise what is wrong with it; what is wrong with the slot depends on the checkpoint."""
    look = source.look()
    for error in source.check_look().errors:
        if not isinstance(error, SlotError):
            raise error
    return look
