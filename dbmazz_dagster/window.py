"""One bounded window inside a Dagster run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.metadata import checkpoint_metadata, column_schema, state_metadata, table_metadata
from dbmazz_dagster.owed import DATA_VERSION_TAG, changed_lsn, owed_events, owed_tables
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.tags import (
    CHECKPOINT_METADATA,
    END_LSN_TAG,
    IS_STREAMING,
    SLOT_TAG,
    SOURCE_METADATA,
    TABLE_METADATA,
)

#: Seconds between two log lines of a long window. The sensor counts a run that stops logging as failed
#: (run_history.py).
_REPORT_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Assets:
    """The asset keys of one `@dbmazz_assets` definition."""

    tables: Mapping[TableRef, dg.AssetKey]
    sources: Mapping[TableRef, dg.AssetKey]
    checkpoint: dg.AssetKey | None
    slot: str | None

    @classmethod
    def of(cls, definition: dg.AssetsDefinition) -> _Assets:
        tables: dict[TableRef, dg.AssetKey] = {}
        sources: dict[TableRef, dg.AssetKey] = {}
        checkpoint: dg.AssetKey | None = None
        slot: str | None = None
        for key, metadata in definition.metadata_by_key.items():
            if TABLE_METADATA in metadata:
                (pattern,) = parse_tables(str(metadata[TABLE_METADATA]))
                table = TableRef(pattern.schema, str(pattern.name))
                tables[table] = key
                if source := metadata.get(SOURCE_METADATA):
                    sources[table] = dg.AssetKey.from_user_string(str(source))
            elif CHECKPOINT_METADATA in metadata:
                checkpoint, slot = key, str(metadata[CHECKPOINT_METADATA])
        return cls(tables, sources, checkpoint, slot)

    def verify_slot(self, slot: str) -> None:
        """Raise ConfigError if the assets are those of another slot than the resource's."""
        if self.slot is not None and self.slot != slot:
            raise ConfigError(
                f"the assets are those of slot {self.slot}, and the resource captures slot {slot}",
                object="slot",
                remedy="give both the same slot: @dbmazz_assets(resource) and the resource that the function gets",
            )


def run_window(
    pipeline: Pipeline,
    settings: Settings,
    context: dg.AssetExecutionContext,
    config: DbmazzConfig,
    unchanged: Unchanged,
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Run one window and yield its materializations and checks; see `DbmazzResource.capture`."""
    assets = _Assets.of(context.assets_def)
    assets.verify_slot(settings.source.slot)
    # A run that a user starts from the asset graph does not have the job's tags.
    context.instance.add_run_tags(context.run.run_id, {SLOT_TAG: settings.source.slot})
    resnapshot = _resnapshot(config, assets, context)
    if config.pause_tables:
        pipeline.pause(_tables(config.pause_tables))
    if config.resume_tables:
        pipeline.resume(_tables(config.resume_tables))
    try:
        result = _interruptible(
            lambda stop, progress: pipeline.capture(
                limits=config.limits(settings.limits), resnapshot=resnapshot, stop=stop, progress=progress
            ),
            context,
        )
    except DbmazzError:
        _report_owed(pipeline, context, assets)
        raise
    except _Interrupted as interrupted:
        # The flushes so far are committed: log their materializations, then end as Dagster asked.
        if interrupted.result is not None:
            for event in _WindowReport(pipeline, context, assets, interrupted.result).events(unchanged):
                context.log_event(_as_materialization(event))
        raise interrupted.reason from None
    context.instance.add_run_tags(context.run.run_id, {END_LSN_TAG: str(result.end_lsn)})
    report = _WindowReport(pipeline, context, assets, result)
    for event in report.events(unchanged):
        if event.asset_key in context.selected_asset_keys:
            yield event
        else:
            context.log_event(_as_materialization(event))
    yield from report.checks()


def _report_owed(pipeline: Pipeline, context: dg.AssetExecutionContext, assets: _Assets) -> None:
    """Log what a window has changed that failed behind a committed flush; what cannot be read now stays owed."""
    try:
        states = {state.table: state for state in pipeline.table_states(rows=False)}
    except DbmazzError as error:
        context.log.debug(f"the destination cannot be read after the failure: {error}")
        return
    owed = owed_tables(context.instance, assets.tables, states)
    for event in owed_events(assets.tables, owed, states, "changed by a window that failed later"):
        context.log_event(event)


def _resnapshot(config: DbmazzConfig, assets: _Assets, context: dg.AssetExecutionContext) -> list[TableRef]:
    selected = context.selected_asset_keys if config.resnapshot else ()
    return sorted(
        {*_tables(config.resnapshot_tables), *(table for table, key in assets.tables.items() if key in selected)}
    )


def _tables(texts: Sequence[str]) -> list[TableRef]:
    patterns = [pattern for text in texts for pattern in parse_tables(text)]
    return [TableRef(pattern.schema, pattern.name) for pattern in patterns if pattern.name is not None]


class _Interrupted(Exception):
    """Dagster asked the run to end. `result` is the result of the window up to its last flush."""

    def __init__(self, reason: BaseException, result: WindowResult | None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.result = result


def _interruptible(
    capture: Callable[[threading.Event, Callable[[Progress], None]], WindowResult],
    context: dg.AssetExecutionContext,
) -> WindowResult:
    """Run a capture in another thread, and wait for its result.

    Python runs signal handlers in the main thread only, and Dagster's handler for a termination raises an exception at
    the current statement. In the main thread that statement is this wait. The window itself is not interrupted: it is
    asked to end at its next flush. A second signal ends the wait at once; the flush in progress is then lost.
    """
    stop = threading.Event()
    latest: list[Progress | None] = [None]
    future: Future[WindowResult] = Future()

    def run() -> None:
        try:
            future.set_result(capture(stop, lambda progress: latest.__setitem__(0, progress)))
        except BaseException as error:  # noqa: BLE001 - re-raised where the result is waited for
            future.set_exception(error)

    try:
        threading.Thread(target=run, name="dbmazz-window", daemon=True).start()
        while True:
            try:
                return future.result(timeout=_REPORT_EVERY_S)
            except FutureTimeout:
                if future.done():
                    raise  # the capture raised it
                context.log.info(_progress_line(latest[0]))
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as reason:
        context.log.info("stop requested: the window ends at its next flush, a copy before its next rows")
        stop.set()
        try:
            result = future.result()
        except DbmazzError as error:
            context.log.warning(f"the window failed while it was stopping: {error}")
            raise _Interrupted(reason, None) from None
        raise _Interrupted(reason, result) from None


def _progress_line(progress: Progress | None) -> str:
    if progress is None:
        return "capturing"
    if progress.message:
        return progress.message
    if progress.table is not None:
        return f"copying {progress.table}: {progress.rows:,} of about {progress.total_rows or 0:,} rows"
    return f"applied {progress.rows:,} changes, LSN {progress.lsn} of {progress.upper_lsn}"


class _WindowReport:
    """The materializations and log messages of a finished window."""

    def __init__(
        self, pipeline: Pipeline, context: dg.AssetExecutionContext, assets: _Assets, result: WindowResult
    ) -> None:
        self._pipeline = pipeline
        self._context = context
        self._assets = assets
        self._result = result

    def events(self, unchanged: Unchanged) -> Iterator[dg.MaterializeResult[Any]]:
        """Yield the materializations of tables that changed or were selected, and of the checkpoint."""
        context, result = self._context, self._result
        owed = owed_tables(context.instance, self._assets.tables, result.states)
        materialized: list[TableRef] = []
        without_changes: list[TableRef] = []
        for table in sorted({*result.tables, *owed}):
            key, state = self._assets.tables.get(table), result.states.get(table)
            if key is None:
                context.log.warning(f"{table} was captured, but has no asset: reload the definitions")
                continue
            selected = key in context.selected_asset_keys and (state is None or state.state is TableStatus.STREAMING)
            changed = table in owed or _has_changes(result.tables.get(table, TableCounts()))
            if changed or (selected and unchanged == "materialize"):
                materialized.append(table)
            elif selected:
                without_changes.append(table)
        observed = without_changes if unchanged == "observe" else []
        metadata = self._metadata([*materialized, *observed])
        for table in materialized:
            state = result.states.get(table)
            lsn = None if state is None else changed_lsn(state)
            version = None if lsn is None else dg.DataVersion(str(lsn))
            key = self._assets.tables[table]
            yield dg.MaterializeResult(asset_key=key, metadata=metadata[table], data_version=version)
            if lsn is not None and (source := self._assets.sources.get(table)) is not None:
                context.log_event(dg.AssetObservation(source, tags={DATA_VERSION_TAG: str(lsn)}))
        for table in observed:
            context.log_event(dg.AssetObservation(self._assets.tables[table], metadata=metadata[table]))
        if without_changes:
            names = ", ".join(map(str, without_changes))
            context.log.info(f"no changes up to LSN {result.end_lsn}: {names}")
        for warning in result.warnings:
            context.log.warning(warning)
        if result.postponed is not None:
            context.log.warning(f"postponed: {result.postponed}")
        if result.read_copy is not None and (error := result.read_copy.error) is not None:
            context.log.error(f"{error.what}; what to do: {error.remedy}")
        for sentence in result.schema_changes:
            context.log.info(sentence)
        for table, reason in sorted(result.copy_anew.items()):
            context.log.warning(f"{table} {reason}: re-snapshotted")
        if result.stop_reason is not StopReason.CAUGHT_UP:
            context.log.info(f"stopped before it caught up ({result.stop_reason.value}): lag {result.lag_bytes} bytes")
        if self._assets.checkpoint is not None and result.end_lsn > INVALID_LSN:
            yield dg.MaterializeResult(asset_key=self._assets.checkpoint, metadata=checkpoint_metadata(result))

    def _metadata(self, tables: Sequence[TableRef]) -> dict[TableRef, dict[str, Any]]:
        """Return the metadata of tables, with row counts and columns, which are read for these tables only.

        The window is committed: an error while they are read must not fail the run.
        """
        if not tables:
            return {}
        rows: Mapping[TableRef, int] = {}
        schemas: Mapping[TableRef, dg.TableSchema] = {}
        try:
            rows = self._pipeline.count_rows([ref for ref in tables if ref in self._result.states])
            schemas = {described.table: column_schema(described) for described in self._pipeline.tables(tables)}
        except DbmazzError as error:
            self._context.log.warning(f"row counts and columns are not available: {error}")
        found: dict[TableRef, dict[str, Any]] = {}
        for table in tables:
            state = self._result.states.get(table)
            if state is not None:
                state = replace(state, rows=rows.get(table))
            counts = self._result.tables.get(table, TableCounts())
            found[table] = table_metadata(self._result, counts, state, schemas.get(table))
        return found

    def checks(self) -> Iterator[dg.AssetCheckResult]:
        """Yield the check `is_streaming` of tables that do not stream, and of those that have changed.

        Tables that do not stream also get an observation, and a message in the log.
        """
        context, result = self._context, self._result
        for table, state in sorted(result.states.items()):
            key = self._assets.tables.get(table)
            counts = result.tables.get(table)
            streams = state.state is TableStatus.STREAMING
            if key is None or (streams and not (counts and _has_changes(counts))):
                continue
            reason = state.problem.reason if state.problem else f"{table} is {state.state.value}"
            if not streams:
                metadata = state_metadata(state)
                (context.log.error if state.is_in_trouble else context.log.warning)(
                    f"{table} is {state.state.value}: {reason}"
                )
                context.log_event(dg.AssetObservation(key, metadata=metadata, description=reason))
            if dg.AssetCheckKey(key, IS_STREAMING) in context.selected_asset_check_keys:
                yield dg.AssetCheckResult(
                    passed=streams,
                    asset_key=key,
                    check_name=IS_STREAMING,
                    severity=dg.AssetCheckSeverity.ERROR if state.is_in_trouble else dg.AssetCheckSeverity.WARN,
                    description="streams" if streams else reason,
                    metadata={} if streams else metadata,
                )


def _has_changes(counts: TableCounts) -> bool:
    return bool(counts.changes or counts.truncates or counts.snapshot_rows is not None)


def _as_materialization(event: dg.MaterializeResult[Any]) -> dg.AssetMaterialization:
    if event.asset_key is None:
        raise ValueError("an event without an asset key")
    version = event.data_version
    tags = None if version is None else {DATA_VERSION_TAG: version.value}
    return dg.AssetMaterialization(event.asset_key, metadata=event.metadata, tags=tags)
