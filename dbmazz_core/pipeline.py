"""Join one source, the engine and one destination: all operations of the command line and of Dagster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace

from dbmazz_core.connectors.sinks import create_sink
from dbmazz_core.connectors.sources import create_source
from dbmazz_core.engine import pausing
from dbmazz_core.engine.capture import quarantined_tables
from dbmazz_core.engine.capture_run import CaptureRun
from dbmazz_core.engine.follow_run import FollowRun
from dbmazz_core.engine.follow_status import FollowStatus
from dbmazz_core.engine.preparation import Preparation, read_look
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import PipelineStatus, SnapshotResult, StopReason, WindowResult
from dbmazz_core.engine.resume_checks import ResumeChecks
from dbmazz_core.errors import DestinationError, SlotError, UnsupportedServerVersion
from dbmazz_core.forks import verify_can_run
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.findings import CheckReport, Finding, SetupReport
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.records import CdcRecord
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.stopping import StopRequested
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.model.table_state import TableState
from dbmazz_core.process_limits import name_limits
from dbmazz_core.settings.config import Settings, WindowLimits
from dbmazz_core.table_ref import TableRef

ProgressCallback = Callable[[Progress], None]


@name_limits
class Pipeline:
    """Keeps tables of one source in one destination.

    A pipeline is cheap to create. Each method connects, and closes all connections at its end.

    >>> pipeline = Pipeline(Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"}))
    >>> pipeline.capture().stop_reason  # doctest: +SKIP
    <StopReason.CAUGHT_UP: 'caught_up'>

    All methods raise DbmazzError, with a remedy.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    # -- checks and status

    def check(self) -> CheckReport:
        """Check everything that a capture window needs. Nothing is changed.

        The report has the problems of the source. It also says whether the destination opens, holds the tables of this
        source as the settings require, and can hold tables with these names.
        """
        recorded = Recorded()
        findings: list[Finding] = []
        with closing(self._source()) as source, ExitStack() as stack:
            sink: Sink | None = None
            try:
                opened = stack.enter_context(self._sink(read_only=True, lock_timeout_s=0))
                recorded, sink = opened.read(), opened
                if (readable := sink.format()) is not None:
                    path = self.settings.sink.url
                    findings.append(Finding("ok", f"{readable} can read {path}", path))
            except DestinationError as error:
                findings.append(Finding.of(error))
            try:
                look = source.look()
            except UnsupportedServerVersion as error:
                return CheckReport((Finding.of(error), *findings))
            report = source.check_look(captured=recorded.streaming)
            if sink is not None:
                findings += map(Finding.of, sink.name_conflicts(source.column_names()))
                refs = [table.ref for table in look.tables]
                findings += [Finding.of(warning, "warning") for warning in sink.name_warnings(refs)]
                feed_is_usable = not any(isinstance(e, SlotError) for e in report.errors)
                checks = ResumeChecks(self.settings, source, sink, recorded)
                problems = checks.problems(refs, and_feed=feed_is_usable)
                findings += map(Finding.of, problems)
        return replace(report, findings=(*report.findings, *findings))

    def status(self, *, rows: bool = True) -> PipelineStatus:
        """Return the state of source and destination.

        Args:
            rows: Whether rows are counted. If the destination cannot be read, `destination_error` says why.
        """
        with closing(self._source()) as connected:
            return self._status(connected, rows=rows)

    def _status(self, connected: ManagedSource, *, rows: bool) -> PipelineStatus:
        source = connected.status()
        try:
            # Status must answer while another process works, so it does not wait for the destination.
            with self._sink(read_only=True, lock_timeout_s=0) as sink:
                recorded = sink.read()
                checkpoint, states = recorded.checkpoint, recorded.all_states
                counts = sink.count_rows(recorded.states) if rows else {}
                bad, readable = sink.quarantined(), sink.format()
        except DestinationError as error:
            return PipelineStatus(source, None, source.lag_bytes, destination_error=str(error))
        unpublished = connected.unpublished_columns(list(states))
        tables = tuple(
            replace(state, rows=counts.get(ref), quarantined=bad.get(ref, 0), unpublished=unpublished.get(ref, ()))
            for ref, state in sorted(states.items())
        )
        followed = {ref: recorded.tables[ref].shape.schema for ref in recorded.streaming}
        stream_format = connected.stream_format(followed, quarantined_tables(self.settings))
        lag = max(source.server_lsn - checkpoint.lsn, 0) if checkpoint else source.lag_bytes
        return PipelineStatus(source, checkpoint, lag, tables, None, recorded.held_s, readable, stream_format)

    def source_status(self) -> SourceStatus:
        """Return the state of the source. The destination is not opened."""
        with closing(self._source()) as source:
            return source.status()

    def tables(self, only: Collection[TableRef] | None = None) -> list[TableDescription]:
        """Return the configured tables, each with its captured columns, from the source's catalog.

        Args:
            only: Some of the tables; None: all.
        """
        with closing(self._source()) as source:
            return source.table_descriptions(only)

    def audit(self, tables: Collection[TableRef], *, max_rows: int | None = None) -> Mapping[TableRef, TableAudit]:
        """Return facts about the rows of tables in the destination: how many, whether keys are unique, quarantine.

        Args:
            tables: The tables; those that were never copied are left out.
            max_rows: Keys are compared only in tables with at most so many rows; None: in all tables.
        """
        with self.destination() as sink:
            copied = sink.read().tables
            return sink.audit([table for table in tables if table in copied], max_rows=max_rows)

    def destination(self) -> AbstractContextManager[Sink]:
        """Open the destination for reading. A destination that does not exist yet is empty.

        Raises:
            DestinationLocked: Another process writes to it, for longer than the settings allow.
            DestinationError: It cannot be read.
        """
        return self._sink(read_only=True)

    def has_changes(self, *, timeout_s: float = 5.0) -> bool:
        """Return whether a transaction with changes waits at the source. Consumes nothing.

        Args:
            timeout_s: If the server needs longer to answer, the result is True.
        """
        waiting = self.waiting_tables(limit=1, timeout_s=timeout_s)
        return waiting is None or bool(waiting)

    def waiting_tables(self, *, limit: int = 10_000, timeout_s: float = 5.0) -> frozenset[TableRef] | None:
        """Return the tables of which changes wait at the source, by the names that they had then. Consumes nothing.

        Args:
            limit: Messages after which the server ends at the next transaction. Tables that changed later are missing.
            timeout_s: Seconds for the server to answer. If it needs longer, the result is None.
        """
        with closing(self._source()) as source:
            return source.waiting_tables(limit=limit, timeout_s=timeout_s)

    def peek(self, limit: int = 10) -> Iterator[CdcRecord]:
        """Yield the next changes, at most `limit`, with the BEGIN and COMMIT around them. Consumes nothing."""
        with closing(self._source()) as source:
            yield from source.peek(limit)

    # -- set-up and teardown

    def setup(self) -> SetupReport:
        """Set up the source: replica identities, publication and slot. Idempotent.

        The destination is only read: it knows which tables it follows. These must not be published again, because
        changes made in between would be missing.
        """
        with closing(self._source()) as source:
            read_look(source)
            with self._sink(read_only=True) as sink:
                captured = sink.read().streaming
            report, _ = source.prepare(captured=captured)
            if (created := source.create_feed()) is not None:
                report = replace(report, done=(*report.done, created))
            return report

    def teardown(self, *, drop_publication: bool = False) -> list[str]:
        """Drop the slot, and the publication; return sentences that say what was done. The destination is not changed.

        Args:
            drop_publication: Drop the publication also if dbmazz did not create it, or other slots may use it.
        """
        with closing(self._source()) as source:
            return source.teardown(drop_publication=drop_publication)

    # -- states of tables

    def destination_version(self) -> str | None:
        """Return a text that differs once the destination has changed, without opening it; None if there is none."""
        with self._sink(read_only=True) as sink:
            return sink.version()

    def table_states(self, *, rows: bool = True, lock_timeout_s: float | None = None) -> list[TableState]:
        """Return the states of all tables of the destination, by name. The source is not asked.

        Args:
            rows: Whether rows are counted.
            lock_timeout_s: Seconds to wait while another process writes; None: as the settings say.
        """
        with self._sink(read_only=True, lock_timeout_s=lock_timeout_s) as sink:
            recorded = sink.read()
            counts = sink.count_rows(recorded.states) if rows else {}
            bad = sink.quarantined()
        return [
            replace(state, rows=counts.get(ref), quarantined=bad.get(ref, 0))
            for ref, state in sorted(recorded.all_states.items())
        ]

    def pause(self, tables: Sequence[TableRef]) -> Mapping[TableRef, TableState]:
        """Pause tables, see `pausing.pause`; return their states."""
        with self._sink() as sink:
            return pausing.pause(sink, tables)

    def resume(self, tables: Sequence[TableRef]) -> Mapping[TableRef, TableState]:
        """Resume paused tables: the next window copies them again, see `pausing.resume`; return their states."""
        with self._sink() as sink:
            return pausing.resume(sink, tables)

    def rewrite(self) -> str:
        """Write the destination anew in the format of the settings; return a sentence that says what was done."""
        with self._sink() as sink:
            return sink.rewrite()

    # -- copies and capture windows

    def snapshot(
        self,
        tables: Sequence[TableRef] | None = None,
        *,
        new_server: bool = False,
        take_over: bool = False,
        upgraded_server: bool = False,
        progress: ProgressCallback | None = None,
    ) -> SnapshotResult:
        """Copy or re-snapshot tables. Readers see the old rows of a table until its copy is complete.

        Args:
            tables: The tables; None: all tables, with a new position of the slot. This repairs a slot that is gone,
                lost or ahead of the checkpoint.
            new_server: Whether the tables may have moved to another server or database, such as by dump and restore.
                The destination's tables, with the history that their modes keep, continue there. Only without `tables`.
            take_over: Whether the slot may have served another destination until now, which then can no longer follow.
                Only without `tables`.
            upgraded_server: Whether pg_upgrade has upgraded the server and kept the slot. Then only tables that need it
                are copied, and the destination continues at the slot's position.
            progress: Called after rows were loaded.
        """
        started = time.monotonic()
        with closing(self._source(_waiting(progress))) as source, self._sink() as sink:
            source.lock_feed(timeout_s=self.settings.sink.lock_timeout_s)
            preparation = Preparation(self.settings, source, sink, progress)
            if upgraded_server:
                copying = preparation.for_upgraded_server()
            elif tables is None:
                copying = preparation.for_new_feed(new_server=new_server, take_over=take_over)
            else:
                copying = preparation.for_window(tables)
            copying.with_rows = True  # a snapshot on request copies rows, whatever DO_SNAPSHOT says
            counts = copying.copy()
            states = sink.read().all_states
            read_copy = sink.publish()
        duration_s = time.monotonic() - started
        lsn, bad = copying.checkpoint.lsn, copying.quarantined
        return SnapshotResult(lsn, counts, duration_s, bad, preparation.warnings, states, read_copy)

    def capture(
        self,
        *,
        limits: WindowLimits | None = None,
        resnapshot: Sequence[TableRef] = (),
        stop: threading.Event | None = None,
        progress: ProgressCallback | None = None,
    ) -> WindowResult:
        """Run one capture window. The first window sets up the source and copies the tables.

        Args:
            limits: When to end early; None: the limits of the settings.
            resnapshot: Tables to re-snapshot first.
            stop: Set it to end at the next flush, or before the next rows are copied. The next window copies the rest;
                tables of `resnapshot` that are not yet copied keep their old rows.
            progress: Called after rows were loaded, and after each flush.
        """
        with closing(self._source(_waiting(progress, stop))) as source, self._sink() as sink:
            limits = limits or self.settings.limits
            run = CaptureRun(self.settings, source, sink, limits, stop or threading.Event(), progress)
            result = run.run(resnapshot)
            if result.end_lsn > INVALID_LSN:
                reached = result.upper_lsn if result.stop_reason is StopReason.CAUGHT_UP else result.end_lsn
                result.lag_bytes = max(source.position() - max(result.end_lsn, reached), 0)
            source.stop()
            if result.stop_reason is not StopReason.POSTPONED:
                result.read_copy = sink.publish()
        result.file_held_s = sink.held_s
        return result

    def follow(
        self,
        *,
        stop: threading.Event | None = None,
        reload: Callable[[], Settings | None] | None = None,
        watch: Callable[[FollowStatus], None] | None = None,
        progress: ProgressCallback | None = None,
    ) -> FollowStatus:
        """Capture until `stop` is set: windows whose last stream stays open. Return the last status.

        Changes are flushed every `FOLLOW_INTERVAL_MS`, or sooner as `FLUSH_SIZE` and `FLUSH_MAX_BYTES` say. Limits of
        windows do not count. After a broken connection, and while others hold the destination, it tries again.

        Args:
            stop: Set it to end at the next flush.
            reload: Returns new settings if there are any, else None. Slot and destination must be the same.
            watch: Called with the status whenever it has changed, and about every second.
            progress: Called after rows were loaded, after each flush, and with sentences about what happened.

        Raises:
            DbmazzError: A person must do something; or an error came before the first stream was open; or attempts
                were in vain for longer than `FOLLOW_RETRY_TIMEOUT_S`. Committed flushes stay.
        """
        stop, progress = stop or threading.Event(), progress or (lambda _: None)
        run = FollowRun(
            settings=self.settings,
            open_source=lambda settings: Pipeline(settings)._source(_waiting(progress, stop)),
            open_sink=lambda settings: Pipeline(settings)._sink(often=True),
            stop=stop,
            reload=reload or (lambda: None),
            watch=watch or (lambda _: None),
            progress=progress,
            status=FollowStatus(self.settings.source.slot),
        )
        return run.run()

    # -- source and destination

    def _source(self, on_wait: Callable[[str], None] | None = None) -> ManagedSource:
        verify_can_run()
        return create_source(self.settings.source, snapshot=self.settings.snapshot, on_slot_wait=on_wait)

    def _sink(
        self, *, read_only: bool = False, lock_timeout_s: float | None = None, often: bool = False
    ) -> AbstractContextManager[Sink]:
        config = self.settings.sink
        if lock_timeout_s is not None:
            config = replace(config, lock_timeout_s=lock_timeout_s)
        feed, memory = self.settings.source.slot, self.settings.memory
        return create_sink(config, feed=feed, read_only=read_only, often=often, memory=memory)


def _waiting(progress: ProgressCallback | None, stop: threading.Event | None = None) -> Callable[[str], None]:
    """Return the callback for a source that waits: it reports the wait, and raises StopRequested if `stop` is set."""

    def report(message: str) -> None:
        if stop is not None and stop.is_set():
            raise StopRequested
        if progress is not None:
            progress(Progress("wait", message=message))

    return report
