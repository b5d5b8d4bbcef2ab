"""One bounded window inside a Dagster run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import PipelineStatus, StopReason, TableCounts, WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.model.table_state import TableState
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings, SourceConfig
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.metadata import checkpoint_metadata, column_schema, table_metadata
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.tags import CHECKPOINT_METADATA, SLOT_TAG, TABLE_METADATA

#: Seconds between two log lines of a long window. The sensor takes long silence for death (see run_history.py).
_REPORT_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Assets:
    """The assets of one `@dbmazz_assets`."""

    tables: Mapping[TableRef, dg.AssetKey]
    checkpoint: dg.AssetKey | None

    @classmethod
    def of(cls, definition: dg.AssetsDefinition) -> _Assets:
        tables: dict[TableRef, dg.AssetKey] = {}
        checkpoint: dg.AssetKey | None = None
        for key, metadata in definition.metadata_by_key.items():
            if TABLE_METADATA in metadata:
                (pattern,) = parse_tables(str(metadata[TABLE_METADATA]))
                tables[TableRef(pattern.schema, str(pattern.name))] = key
            elif CHECKPOINT_METADATA in metadata:
                checkpoint = key
        return cls(tables, checkpoint)


def run_window(
    pipeline: Pipeline,
    settings: Settings,
    context: dg.AssetExecutionContext,
    config: DbmazzConfig,
    unchanged: Unchanged,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Capture one window and yield its events; see `DbmazzResource.capture`."""
    assets = _Assets.of(context.assets_def)
    # A run started by hand from the asset graph has no tags of its own.
    context.instance.add_run_tags(context.run.run_id, {SLOT_TAG: settings.source.slot})
    resnapshot = _resnapshot(config, assets, context)
    try:
        result = _interruptible(
            lambda stop, progress: pipeline.capture(
                limits=config.limits(settings.limits), resnapshot=resnapshot, stop=stop, progress=progress
            ),
            context,
        )
    except _Interrupted as interrupted:
        # What was committed is there: say so, then go as Dagster wants it.
        if interrupted.result is not None:
            for event in _Report(pipeline, settings.source, context, assets, interrupted.result).events(unchanged):
                context.log_event(_logged(event))
        raise interrupted.reason from None
    report = _Report(pipeline, settings.source, context, assets, result)
    for event in report.events(unchanged):
        if event.asset_key in context.selected_asset_keys:
            yield event
        else:
            context.log_event(_logged(event))


def _resnapshot(config: DbmazzConfig, assets: _Assets, context: dg.AssetExecutionContext) -> list[TableRef]:
    named = [
        TableRef(pattern.schema, pattern.name)
        for text in config.resnapshot_tables
        for pattern in parse_tables(text)
        if pattern.name is not None
    ]
    selected = context.selected_asset_keys if config.resnapshot else ()
    return sorted({*named, *(table for table, key in assets.tables.items() if key in selected)})


class _Interrupted(Exception):
    """Dagster asked the run to end; `result` is what the window had committed by then."""

    def __init__(self, reason: BaseException, result: WindowResult | None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.result = result


def _interruptible(
    capture: Callable[[threading.Event, Callable[[Progress], None]], WindowResult],
    context: dg.AssetExecutionContext,
) -> WindowResult:
    """Run a capture in a thread of its own, and wait for it.

    Signals reach the main thread only: Dagster's terminate raises in it, wherever it is. Here it is nowhere
    but in this wait, so the window can be asked to end at its next flush instead of being torn out of the
    middle of one. A second signal leaves at once; the engine then loses its open flush, nothing else.
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
                    raise  # the capture's own
                context.log.info(_sentence(latest[0]))
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as reason:
        context.log.info("asked to stop: the window ends at its next flush, a copy before its next rows")
        stop.set()
        try:
            result = future.result()
        except DbmazzError as error:
            context.log.warning(f"while stopping: {error}")
            raise _Interrupted(reason, None) from None
        raise _Interrupted(reason, result) from None


def _sentence(progress: Progress | None) -> str:
    if progress is None:
        return "capturing"
    if progress.message:
        return progress.message
    if progress.table is not None:
        return f"copying {progress.table}: {progress.rows:,} of about {progress.total_rows or 0:,} rows"
    return f"{progress.rows:,} changes up to {progress.lsn}, the window ends at {progress.upper_lsn}"


class _Report:
    """The events that say what a window did."""

    def __init__(
        self,
        pipeline: Pipeline,
        source: SourceConfig,
        context: dg.AssetExecutionContext,
        assets: _Assets,
        result: WindowResult,
    ) -> None:
        self._context = context
        self._assets = assets
        self._result = result
        self._states: Mapping[TableRef, TableState] = {}
        self._schemas: Mapping[TableRef, dg.TableSchema] = {}
        # The window is committed; what only decorates its report must not fail it.
        try:
            status: PipelineStatus = pipeline.status()
            self._states = {state.table: state for state in status.tables}
            if status.destination_error:
                context.log.warning(f"no row counts: {status.destination_error}")
            self._schemas = {described.table: column_schema(described) for described in pipeline.tables()}
        except DbmazzError as error:
            context.log.warning(f"no row counts or columns: {error}")

    def events(self, unchanged: Unchanged) -> Iterator[dg.MaterializeResult[Any]]:
        """Materializations of the tables that changed or were asked for, and of the checkpoint."""
        context, result = self._context, self._result
        idle: list[str] = []
        for table, counts in sorted(result.tables.items()):
            key = self._assets.tables.get(table)
            if key is None:
                context.log.warning(f"{table} was captured but has no asset: reload the definitions")
                continue
            selected = key in context.selected_asset_keys
            metadata = table_metadata(result, counts, self._states.get(table), self._schemas.get(table))
            if _touched(counts) or (selected and (unchanged == "materialize" or self._never_seen(key))):
                yield dg.MaterializeResult(asset_key=key, metadata=metadata)
            elif selected:
                idle.append(str(table))
                if unchanged == "observe":
                    context.log_event(dg.AssetObservation(key, metadata=metadata))
        if idle:
            context.log.info(f"no changes up to {result.end_lsn}: {', '.join(idle)}")
        for sentence in result.schema_changes:
            context.log.info(sentence)
        for table, reason in sorted(result.copy_anew.items()):
            context.log.warning(f"{table} {reason}: copied anew")
        if result.stop_reason is not StopReason.CAUGHT_UP:
            context.log.info(f"stopped by {result.stop_reason.value} with {result.lag_bytes} bytes to go")
        if self._assets.checkpoint is not None and result.end_lsn > INVALID_LSN:
            yield dg.MaterializeResult(asset_key=self._assets.checkpoint, metadata=checkpoint_metadata(result))

    def _never_seen(self, key: dg.AssetKey) -> bool:
        return self._context.instance.get_latest_materialization_event(key) is None


def _touched(counts: TableCounts) -> bool:
    return bool(counts.changes or counts.truncates or counts.snapshot_rows is not None)


def _logged(event: dg.MaterializeResult[Any]) -> dg.AssetMaterialization:
    if event.asset_key is None:
        raise ValueError("an event without an asset key")
    return dg.AssetMaterialization(event.asset_key, metadata=event.metadata)
