"""One bounded window inside a Dagster run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, Any

import dagster as dg

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.captured_assets import CapturedAssets
from dbmazz_dagster.owed import owed_events, owed_tables
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.tags import (
    END_LSN_TAG,
    SLOT_TAG,
)
from dbmazz_dagster.window_report import WindowReport, as_materialization

if TYPE_CHECKING:
    from dbmazz_core.pipeline import Pipeline

#: Seconds between two log lines of a long window. The sensor counts a run that stops logging as failed
#: (run_history.py).
_REPORT_EVERY_S = 30.0


def run_window(
    pipeline: Pipeline,
    context: dg.AssetExecutionContext,
    config: DbmazzConfig,
    unchanged: Unchanged,
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Run one window and yield its materializations and checks; see `DbmazzResource.capture`."""
    assets, settings = CapturedAssets.of(context.assets_def), pipeline.settings
    assets.verify_slot(settings.source.slot)
    # A run that a user starts from the asset graph does not have the job's tags. A re-executed run has its parent's,
    # also that of the window that succeeded there.
    context.instance.add_run_tags(context.run.run_id, {SLOT_TAG: settings.source.slot, END_LSN_TAG: ""})
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
            for event in WindowReport(pipeline, context, assets, interrupted.result, unchanged).events():
                context.log_event(as_materialization(event))
        raise interrupted.reason from None
    context.instance.add_run_tags(context.run.run_id, {END_LSN_TAG: str(result.end_lsn)})
    report = WindowReport(pipeline, context, assets, result, unchanged)
    for event in report.events():
        if event.asset_key in context.selected_asset_keys:
            yield event
        else:
            context.log_event(as_materialization(event))
    yield from report.checks()


def _report_owed(pipeline: Pipeline, context: dg.AssetExecutionContext, assets: CapturedAssets) -> None:
    """Log what a window has changed that failed behind a committed flush; what cannot be read now stays owed."""
    try:
        states = {state.table: state for state in pipeline.table_states(rows=False)}
    except DbmazzError as error:
        context.log.debug(f"the destination cannot be read after the failure: {error}")
        return
    owed = owed_tables(context.instance, assets.tables, states)
    for event in owed_events(assets.tables, owed, states, "changed by a window that failed later"):
        context.log_event(event)


def _resnapshot(config: DbmazzConfig, assets: CapturedAssets, context: dg.AssetExecutionContext) -> list[TableRef]:
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
                context.log.info(str(latest[0] or "capturing"))
    except (dg.DagsterExecutionInterruptedError, KeyboardInterrupt) as reason:
        context.log.info("stop requested: the window ends at its next flush, a copy before its next rows")
        stop.set()
        try:
            result = future.result()
        except DbmazzError as error:
            context.log.warning(f"the window failed while it was stopping: {error}")
            raise _Interrupted(reason, None) from None
        raise _Interrupted(reason, result) from None
