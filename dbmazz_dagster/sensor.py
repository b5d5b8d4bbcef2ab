"""The sensor: requests a window when the slot holds changes and no run is capturing them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dbmazz_core.errors import DbmazzError, DestinationError
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.settings.tables import format_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.captured_assets import CapturedAssets
from dbmazz_dagster.checks import MAX_LAG_BYTES, assess_slot
from dbmazz_dagster.metadata import lsn_metadata
from dbmazz_dagster.owed import owed_events, owed_tables
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.run_history import RunHistory, lsn_text, next_attempt, read_run_history
from dbmazz_dagster.tags import ATTEMPT_TAG, FROM_LSN_TAG, REASON_TAG
from dbmazz_dagster.translator import DagsterDbmazzTranslator, DbmazzTableProps

if TYPE_CHECKING:
    from dbmazz_core.pipeline import Pipeline

#: Seconds after which an unchanged state is reported again: the health of the slot, or a slot without changes.
_REPEAT_AFTER_S = 600.0
#: Seconds after which the checkpoint is reported again while another process moves the slot.
_MOVED_AFTER_S = 60.0


def build_dbmazz_sensor(
    resource: DbmazzResource,
    *,
    job: Any = None,
    target: Any = None,
    name: str | None = None,
    minimum_interval_seconds: int = 30,
    advance_after_bytes: int = 1 << 24,
    max_backoff_seconds: float = 900,
    abandoned_after_seconds: float = 600,
    slot_health_check: bool = True,
    max_lag_bytes: int = MAX_LAG_BYTES,
    translator: DagsterDbmazzTranslator | None = None,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Return a sensor that requests a window when the slot holds changes of the captured tables.

        build_dbmazz_sensor(shop, target=shop_tables, default_status=dg.DefaultSensorStatus.RUNNING)

    Each tick reads the state of the slot. It reads the changes in the slot, without consuming them, only if the server
    has written WAL since the slot's confirmed LSN. The sensor requests a run

    - if the slot does not exist yet (the first capture);
    - if a transaction changed the captured tables;
    - if the setting `tables` changed;
    - if the last run failed;
    - if the slot retains more than `advance_after_bytes` of WAL, so that the slot should move.

    It requests no run while a run with the slot's tag is unfinished, or while another process uses the slot. While that
    is no run of this Dagster instance, such as `dbmazz follow`, the sensor materializes the tables that it has changed,
    and the checkpoint as the slot moves. Every
    request has its own run key (slot, confirmed LSN, attempt), so that Dagster launches a new run after a failed one.
    After repeated failures the sensor waits, each time twice as long.

    The cursor shows the confirmed LSN, and prevents repeated events. It may be lost without consequences.

    A tick that fails for a transient reason (server down, slot in use) is skipped, with the error and its remedy as
    reason. A wrong password, a missing privilege or a malformed setting fails the tick.

    >>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders", slot="shop")
    >>> build_dbmazz_sensor(shop, target="*").name
    'shop_sensor'

    Args:
        resource: The capture.
        job: The job to run.
        target: The definition from `@dbmazz_assets`. Its job `<slot>_capture` runs in one process and has the run tag
            of the slot; `job` replaces it. A run selects the checkpoint and the tables of which changes wait, so that
            its cost does not grow with the number of tables. Anything else that `dagster.sensor` takes as `target` is
            passed on, and a run then selects all of it.
        name: Name of the sensor, by default the slot and `_sensor`.
        minimum_interval_seconds: Seconds between two ticks.
        advance_after_bytes: Bytes of WAL since the confirmed LSN after which a window runs even without changes of
            captured tables: the slot moves, and the server can remove the WAL. At least `FLUSH_IDLE_WAL_BYTES` count.
        max_backoff_seconds: Maximum of the wait after repeated failures, in seconds.
        abandoned_after_seconds: A started run that has logged nothing for this many seconds, while no process consumes
            the slot, counts as failed: its machine may have stopped.
        slot_health_check: Evaluate the check `slot_health` of the checkpoint's asset when its result changes, and every
            ten minutes.
        max_lag_bytes: Bytes of WAL that the slot may retain before that check warns.
        translator: The translator that the assets have.
        default_status: Whether the sensor runs from the start.

    Raises:
        ConfigError: `slot` is malformed, or the assets of `target` are those of another slot.
    """
    slot = resource.slot_name
    checkpoint = (translator or DagsterDbmazzTranslator()).get_checkpoint_spec(slot).key
    assets = CapturedAssets.of(target) if isinstance(target, dg.AssetsDefinition) else None
    if assets is not None:
        assets.verify_slot(slot)
    policy = _Policy(
        interval=float(minimum_interval_seconds),
        advance_after_bytes=advance_after_bytes,
        max_backoff=max_backoff_seconds,
        abandoned_after=abandoned_after_seconds,
        max_lag_bytes=max_lag_bytes if slot_health_check else None,
        translator=translator or DagsterDbmazzTranslator(),
        assets=assets,
    )

    if isinstance(target, dg.AssetsDefinition):
        job, target = job or capture_job(resource, target, f"{slot}_capture"), None

    @dg.sensor(
        name=name or f"{slot}_sensor",
        job=job,
        target=target,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=f"Requests a capture window when replication slot {slot} holds changes of the captured tables.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            return _tick(context, resource, policy, checkpoint)
        except DbmazzError as error:
            if not error.is_transient:
                raise
            return dg.SensorResult(skip_reason=f"{error.what}. What to do: {error.remedy}", cursor=context.cursor)

    return evaluate


def capture_job(resource: DbmazzResource, tables: dg.AssetsDefinition, name: str) -> Any:
    """Return a job that runs windows of a capture in one process, with the run tag by which the sensor finds them.

    It has the checks that windows evaluate, and no others.

    Args:
        resource: The capture.
        tables: The definition from `@dbmazz_assets`.
        name: Name of the job.
    """
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(tables).without_checks() | dg.AssetSelection.checks(*tables.check_keys),
        executor_def=dg.in_process_executor,
        tags=resource.run_tags,
        description=f"Run one capture window of replication slot {resource.slot_name}.",
    )


@dataclass(frozen=True, slots=True)
class _Policy:
    interval: float
    advance_after_bytes: int
    max_backoff: float
    abandoned_after: float
    max_lag_bytes: int | None
    translator: DagsterDbmazzTranslator
    assets: CapturedAssets | None


@dataclass(frozen=True, slots=True)
class _Decision:
    """Whether to request a run, and the reason.

    Attributes:
        request: Whether to request a run.
        why: The reason, as skip reason or run tag.
        caught_up: Whether the slot holds no changes of the captured tables.
        elsewhere: Whether a process that is no run of this Dagster instance uses the slot.
        tables: The tables of which changes wait, as far as they are known; None: the run selects all tables.
    """

    request: bool
    why: str
    caught_up: bool = False
    elsewhere: bool = False
    tables: frozenset[TableRef] | None = None


def _tick(
    context: dg.SensorEvaluationContext, resource: DbmazzResource, policy: _Policy, checkpoint: dg.AssetKey
) -> dg.SensorResult:
    pipeline = resource.pipeline()
    settings = pipeline.settings
    status = pipeline.source_status()
    confirmed = status.confirmed_lsn if status.slot_exists else None
    history = read_run_history(
        context.instance,
        status.slot,
        confirmed,
        abandoned_after=None if status.used_by is not None else policy.abandoned_after,
    )
    cursor = _read_cursor(context.cursor, status.slot)
    tables = format_tables(settings.source.tables)
    # Before the slot is looked into, which takes a while: a run that starts meanwhile reports its changes itself. A
    # process that uses the slot without an unfinished run is none of this instance's runs, and reports nothing.
    owed = [*_owed(context, pipeline, policy, cursor)] if history.unfinished is None else []
    has_moved = cursor.get("confirmed_lsn") not in (None, str(confirmed))
    decision = _decide(status, history, pipeline, policy, tables_changed=cursor.get("tables", tables) != tables)
    cursor |= {
        "slot": status.slot,
        "confirmed_lsn": None if confirmed is None else str(confirmed),
        "server_lsn": str(status.server_lsn),
    }
    if decision.request:
        cursor["tables"] = tables
    events = [*_events(status, decision, policy, checkpoint, cursor), *owed]
    if decision.elsewhere:
        idle_wal_bytes = settings.flush.idle_wal_bytes
        events += _events_of_others(status, checkpoint, cursor, has_moved=has_moved, idle_wal_bytes=idle_wal_bytes)
    cursor.setdefault("tables", tables)
    if not decision.request:
        return dg.SensorResult(skip_reason=decision.why, cursor=json.dumps(cursor), asset_events=events)
    attempt = next_attempt(context.instance, status.slot, confirmed)
    request = dg.RunRequest(
        run_key=f"{status.slot}:{lsn_text(confirmed)}:{attempt}",
        **({} if policy.assets is None else policy.assets.selection(decision.tables)),
        tags={
            **resource.run_tags,
            FROM_LSN_TAG: lsn_text(confirmed),
            ATTEMPT_TAG: str(attempt),
            REASON_TAG: decision.why,
        },
    )
    context.log.info(decision.why)
    return dg.SensorResult(run_requests=[request], cursor=json.dumps(cursor), asset_events=events)


def _decide(
    status: SourceStatus, history: RunHistory, pipeline: Pipeline, policy: _Policy, *, tables_changed: bool
) -> _Decision:
    """Return whether to request a run. The rule that reads the slot's changes is the last, since it costs most."""
    if history.unfinished is not None:
        return _Decision(False, f"run {history.unfinished} has not finished")
    if status.used_by is not None:
        return _Decision(False, f"slot {status.slot} is in use by server process {status.used_by}", elsewhere=True)
    wait = history.seconds_to_wait(policy.interval, policy.max_backoff, time.time())
    if wait > 0:
        return _Decision(
            False, f"{history.without_progress} runs in a row made no progress; next attempt in {wait:.0f} s"
        )
    if not status.slot_exists or status.confirmed_lsn is None:
        return _Decision(True, f"slot {status.slot} does not exist: first capture")
    if history.last_failed is not None:
        return _Decision(True, f"run {history.last_failed} did not succeed")
    if tables_changed:
        return _Decision(True, "the setting TABLES changed")
    unread = max(0, status.server_lsn - status.confirmed_lsn)
    if unread == 0:
        return _Decision(False, f"no WAL since {status.confirmed_lsn}", caught_up=True)
    # A window moves the slot past WAL without changes only where it is as much as the settings say.
    if unread > max(policy.advance_after_bytes, pipeline.settings.flush.idle_wal_bytes):
        waiting = pipeline.waiting_tables()
        return _Decision(True, f"{unread} bytes of WAL since {status.confirmed_lsn}", tables=waiting)
    waiting = pipeline.waiting_tables()
    if waiting is None or waiting:
        return _Decision(True, f"changes of the captured tables since {status.confirmed_lsn}", tables=waiting)
    return _Decision(False, f"no changes of the captured tables since {status.confirmed_lsn}", caught_up=True)


def _events(
    status: SourceStatus,
    decision: _Decision,
    policy: _Policy,
    checkpoint: dg.AssetKey,
    cursor: dict[str, Any],
) -> Sequence[dg.AssetCheckEvaluation | dg.AssetMaterialization]:
    """Return the events of a tick, which need no run. The cursor records the last events and their times."""
    now = time.time()
    events: list[dg.AssetCheckEvaluation | dg.AssetMaterialization] = []
    if policy.max_lag_bytes is not None and (status.slot_exists or cursor.get("health")):
        health = assess_slot(status, policy.max_lag_bytes)
        state = "passed" if health.passed else health.severity.value
        if cursor.get("health") != state or _due(cursor, "health_at", now):
            events.append(health.evaluation(checkpoint))
            cursor |= {"health": state, "health_at": now}
    # A slot without changes is an event of the checkpoint, too: freshness policies count materializations only, and a
    # night without changes would make the destination look stale.
    if decision.caught_up and status.confirmed_lsn is not None and _due(cursor, "caught_up_at", now):
        events.append(
            dg.AssetMaterialization(
                checkpoint,
                description="the sensor found no changes to capture",
                metadata={
                    "changes": 0,
                    "lag_bytes": float(max(0, status.server_lsn - status.confirmed_lsn)),
                    "lag_seconds": 0.0,
                    **lsn_metadata(status.confirmed_lsn),
                },
            )
        )
        cursor["caught_up_at"] = now
    return events


def _events_of_others(
    status: SourceStatus, checkpoint: dg.AssetKey, cursor: dict[str, Any], *, has_moved: bool, idle_wal_bytes: int
) -> Iterator[dg.AssetMaterialization]:
    """Yield the materialization of the checkpoint while another process captures, for freshness.

    It is current if its slot has moved since the last tick, or if it may leave so much WAL unconfirmed since there are
    no changes in it.

    Args:
        status: The state of the slot.
        checkpoint: The checkpoint's asset.
        cursor: Records when this was last reported.
        has_moved: Whether the slot has moved since the last tick.
        idle_wal_bytes: Bytes of WAL that a capture leaves unconfirmed if they hold no changes.
    """
    lag_bytes, confirmed = status.lag_bytes, status.confirmed_lsn
    if lag_bytes is None or confirmed is None or not (has_moved or lag_bytes <= idle_wal_bytes):
        return
    now = time.time()
    if _due(cursor, "elsewhere_at", now, _MOVED_AFTER_S if has_moved else _REPEAT_AFTER_S):
        cursor["elsewhere_at"] = now
        yield dg.AssetMaterialization(
            checkpoint,
            description=f"server process {status.used_by} captures, outside of this Dagster instance",
            metadata={"lag_bytes": float(lag_bytes), **lsn_metadata(confirmed)},
        )


def _owed(
    context: dg.SensorEvaluationContext, pipeline: Pipeline, policy: _Policy, cursor: dict[str, Any]
) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations of changes that no run has reported, if the destination has changed since."""
    version = pipeline.destination_version()
    if version is None or version == cursor.get("destination"):
        return
    try:
        states = {state.table: state for state in pipeline.table_states(rows=False, lock_timeout_s=0)}
    except DestinationError as error:
        context.log.debug(f"the destination is read at the next tick: {error}")
        return
    cursor["destination"] = version
    slot, path = pipeline.settings.source.slot, Path(pipeline.settings.sink.url)
    assets = {table: policy.translator.get_asset_spec(DbmazzTableProps(table, slot, path.stem)).key for table in states}
    owed = owed_tables(context.instance, assets, states)
    yield from owed_events(assets, owed, states, "changed outside of this Dagster instance, or by a run that failed")


def _due(cursor: dict[str, Any], key: str, now: float, after_s: float = _REPEAT_AFTER_S) -> bool:
    last = cursor.get(key)
    return not isinstance(last, int | float) or not 0 <= now - last <= after_s


def _read_cursor(text: str | None, slot: str) -> dict[str, Any]:
    """Return the contents of the cursor. Users can edit it in the UI: a malformed one, or another slot's, is empty."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("slot") == slot else {}
