"""The sensor: asks for a window when there is something to capture, and nobody is at it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from dbmazz_core.engine.result import PipelineStatus
from dbmazz_core.errors import DbmazzError
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.tables import format_tables
from dbmazz_dagster.checks import MAX_LAG_BYTES, assess_slot
from dbmazz_dagster.failures import is_transient
from dbmazz_dagster.metadata import lsn_metadata
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.run_history import RunHistory, lsn_text, next_attempt, read_run_history
from dbmazz_dagster.tags import ATTEMPT_TAG, FROM_LSN_TAG, REASON_TAG
from dbmazz_dagster.translator import DagsterDbmazzTranslator

#: Seconds after which an unchanged state is reported again: the slot's health, and that there is nothing to
#: capture.
_REPEAT_AFTER_S = 600.0


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
    """A sensor that asks for a window when changes wait in the slot.

        build_dbmazz_sensor(shop, target=shop_tables, default_status=dg.DefaultSensorStatus.RUNNING)

    Each tick reads the slot's state, and looks into the slot (consuming nothing) only where the server has
    written WAL since the slot's confirmed LSN. It asks for a run when the slot does not exist yet (the first
    capture), when a transaction touched the captured tables, when `tables` changed, when the last run failed,
    and when so much unrelated WAL has gathered that the slot should move on. It asks for none while a run
    with the slot's tag is unfinished or anybody else consumes the slot. Every request has a run key of its
    own (slot, confirmed LSN, attempt), so that a failed run never stalls it; after repeated failures it
    waits, twice as long each time.

    The cursor is for display and for saying things once: it shows the confirmed LSN. Losing it loses nothing.

    A poll that fails for a passing reason (server down, slot busy) is a skipped tick that says what and what
    to do; a wrong password, a missing privilege or a bad setting fails the tick.

    Args:
        resource: What is captured.
        job: The job to run.
        target: Instead of a job: the assets to materialize, such as the definition that `@dbmazz_assets`
            made.
        name: By default the slot and `_sensor`.
        minimum_interval_seconds: Seconds between two ticks.
        advance_after_bytes: Unrelated WAL, in bytes, that is worth a window: the slot moves and the server
            can remove it.
        max_backoff_seconds: Longest wait after repeated failures.
        abandoned_after_seconds: A started run that has said nothing for so long, while nobody consumes the
            slot, is taken for dead, as when its machine went away.
        slot_health_check: Evaluate the check `slot_health` of the checkpoint asset, when it changes and every
            ten minutes.
        max_lag_bytes: WAL that the slot may hold back before that check warns.
        translator: The one that the assets have.
        default_status: Whether the sensor runs from the start.
    """
    slot = resource.slot_name
    checkpoint = (translator or DagsterDbmazzTranslator()).get_checkpoint_spec(slot).key
    policy = _Policy(
        interval=float(minimum_interval_seconds),
        advance_after_bytes=advance_after_bytes,
        max_backoff=max_backoff_seconds,
        abandoned_after=abandoned_after_seconds,
        max_lag_bytes=max_lag_bytes if slot_health_check else None,
    )

    @dg.sensor(
        name=name or f"{slot}_sensor",
        job=job,
        target=target,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description=f"Asks for a window when changes wait in slot {slot}.",
    )
    def evaluate(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        try:
            return _tick(context, resource, policy, checkpoint)
        except DbmazzError as error:
            if not is_transient(error):
                raise
            return dg.SensorResult(skip_reason=f"{error.what}. What to do: {error.remedy}", cursor=context.cursor)

    return evaluate


@dataclass(frozen=True, slots=True)
class _Policy:
    interval: float
    advance_after_bytes: int
    max_backoff: float
    abandoned_after: float
    max_lag_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Decision:
    """Whether to ask for a run, and the sentence that says why."""

    request: bool
    why: str
    caught_up: bool = False


def _tick(
    context: dg.SensorEvaluationContext, resource: DbmazzResource, policy: _Policy, checkpoint: dg.AssetKey
) -> dg.SensorResult:
    settings = resource.settings()
    pipeline = Pipeline(settings)
    status = pipeline.source_status()
    confirmed = status.confirmed_lsn if status.slot_exists else None
    history = read_run_history(
        context.instance,
        status.slot,
        confirmed,
        abandoned_after=None if status.slot_active else policy.abandoned_after,
    )
    cursor = _read_cursor(context.cursor)
    tables = format_tables(settings.source.tables)
    decision = _decide(status, history, pipeline, policy, retabled=cursor.get("tables", tables) != tables)
    cursor |= {
        "slot": status.slot,
        "confirmed_lsn": None if confirmed is None else str(confirmed),
        "server_lsn": str(status.server_lsn),
    }
    if decision.request:
        cursor["tables"] = tables
    events = _events(status, decision, policy, checkpoint, cursor)
    cursor.setdefault("tables", tables)
    if not decision.request:
        return dg.SensorResult(skip_reason=decision.why, cursor=json.dumps(cursor), asset_events=events)
    attempt = next_attempt(context.instance, status.slot, confirmed)
    request = dg.RunRequest(
        run_key=f"{status.slot}:{lsn_text(confirmed)}:{attempt}",
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
    status: PipelineStatus, history: RunHistory, pipeline: Pipeline, policy: _Policy, *, retabled: bool
) -> _Decision:
    """The rules, in the order in which they are asked; PostgreSQL is asked last."""
    if history.unfinished is not None:
        return _Decision(False, f"run {history.unfinished} is under way")
    if status.slot_active:
        return _Decision(False, f"slot {status.slot} is in use by the server process {status.active_pid}")
    wait = history.seconds_to_wait(policy.interval, policy.max_backoff, time.time())
    if wait > 0:
        return _Decision(
            False, f"{history.without_progress} runs in a row got nowhere; the next may start in {wait:.0f} s"
        )
    if not status.slot_exists or status.confirmed_lsn is None:
        return _Decision(True, f"slot {status.slot} does not exist: first capture")
    if history.last_failed is not None:
        return _Decision(True, f"run {history.last_failed} did not succeed")
    if retabled:
        return _Decision(True, "the configured tables changed")
    unread = max(0, status.server_lsn - status.confirmed_lsn)
    if unread == 0:
        return _Decision(False, f"nothing written since {status.confirmed_lsn}", caught_up=True)
    if unread > policy.advance_after_bytes:
        return _Decision(True, f"{unread} bytes of WAL since {status.confirmed_lsn}")
    if pipeline.has_changes():
        return _Decision(True, f"changes wait since {status.confirmed_lsn}")
    return _Decision(False, f"no changes of the captured tables since {status.confirmed_lsn}", caught_up=True)


def _events(
    status: PipelineStatus,
    decision: _Decision,
    policy: _Policy,
    checkpoint: dg.AssetKey,
    cursor: dict[str, Any],
) -> Sequence[dg.AssetCheckEvaluation | dg.AssetMaterialization]:
    """What the tick saw, as events without a run; the cursor remembers what has been said and when."""
    now = time.time()
    events: list[dg.AssetCheckEvaluation | dg.AssetMaterialization] = []
    if policy.max_lag_bytes is not None and (status.slot_exists or cursor.get("health")):
        health = assess_slot(status, policy.max_lag_bytes)
        state = "passed" if health.passed else health.severity.value
        if cursor.get("health") != state or _due(cursor, "health_at", now):
            events.append(health.evaluation(checkpoint))
            cursor |= {"health": state, "health_at": now}
    # That nothing waits is news of the checkpoint as well: without it a quiet night would look like a stale
    # destination, for freshness counts materializations only.
    if decision.caught_up and status.confirmed_lsn is not None and _due(cursor, "caught_up_at", now):
        events.append(
            dg.AssetMaterialization(
                checkpoint,
                description="the sensor looked: nothing to capture",
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


def _due(cursor: dict[str, Any], key: str, now: float) -> bool:
    last = cursor.get(key)
    return not isinstance(last, int | float) or now - last > _REPEAT_AFTER_S


def _read_cursor(text: str | None) -> dict[str, Any]:
    """The cursor's contents; anybody can edit it in the UI, so one that is not ours counts as none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
