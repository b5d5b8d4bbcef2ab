"""All definitions of one capture: assets, job, schedule, sensor, checks and resource."""

# No postponed annotations here: Dagster reads the annotation of `config` as an object.

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import dagster as dg

from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.settings.config import Settings
from dbmazz_dagster.assets import build_source_asset_specs, dbmazz_assets
from dbmazz_dagster.captured_assets import CapturedAssets
from dbmazz_dagster.checks import build_dbmazz_checks
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.run_config import DbmazzConfig, Unchanged
from dbmazz_dagster.run_history import unfinished_runs
from dbmazz_dagster.sensor import build_dbmazz_sensor, capture_job
from dbmazz_dagster.translator import DagsterDbmazzTranslator


def build_definitions(
    settings: Settings | None = None,
    *,
    name: str = "dbmazz",
    translator: DagsterDbmazzTranslator | None = None,
    unchanged: Unchanged = "skip",
    schedule_minutes: int | None = None,
    sensor_running: bool | None = None,
    sensor_interval_seconds: int | None = None,
    resolve_patterns: bool | None = None,
) -> dg.Definitions:
    """Return all definitions of one capture. Merge them with your own definitions:

        defs = dg.Definitions.merge(build_definitions(), dg.Definitions(assets=[daily_revenue]))

    The definitions contain an asset per table, the checkpoint's asset and the source tables; the checks; the job
    `<name>_capture`, which runs in one process and has the run tag of the slot; the schedule `<name>_schedule`, stopped
    by default; the sensor `<name>_sensor`; and the resource with the key `<name>`.

    >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"})
    >>> sorted(sensor.name for sensor in build_definitions(settings, name="shop").sensors)
    ['shop_sensor']

    Args:
        settings: The capture; by default the settings in the environment.
        name: Name of the op and the resource, and prefix of the other names. Several captures in one code location need
            different names and different slots.
        translator: Turns tables into asset specs.
        unchanged: What a selected table without changes yields, see `DbmazzResource.capture`.
        schedule_minutes: Minutes between two runs of the schedule, by default DBMAZZ_SCHEDULE_MINUTES, else 5.
        sensor_running: Whether the sensor runs from the start, by default DBMAZZ_SENSOR=running|stopped, else True.
        sensor_interval_seconds: Seconds between two ticks of the sensor, by default DBMAZZ_SENSOR_INTERVAL_S, else 30.
        resolve_patterns: As in `dbmazz_assets`; by default DBMAZZ_RESOLVE_TABLES=true|false, else False.

    Raises:
        ConfigError: A setting is missing or malformed; `object` names its variable.
    """
    env = os.environ
    if schedule_minutes is None:
        schedule_minutes = _whole(env, "DBMAZZ_SCHEDULE_MINUTES", default=5, maximum=59)
    if sensor_interval_seconds is None:
        sensor_interval_seconds = _whole(env, "DBMAZZ_SENSOR_INTERVAL_S", default=30, maximum=86_400)
    if sensor_running is None:
        sensor_running = _choice(env, "DBMAZZ_SENSOR", "running", "stopped") == "running"
    if resolve_patterns is None:
        resolve_patterns = _choice(env, "DBMAZZ_RESOLVE_TABLES", "false", "true") == "true"
    resource = DbmazzResource.from_env() if settings is None else DbmazzResource.from_settings(settings)

    @dbmazz_assets(
        resource,
        name=name,
        translator=translator,
        required_resource_keys={name},
        resolve_patterns=resolve_patterns,
    )
    def tables(context: dg.AssetExecutionContext, config: DbmazzConfig) -> Any:
        capture: DbmazzResource = getattr(context.resources, name)
        yield from capture.capture(context, config=config, unchanged=unchanged)

    sources = build_source_asset_specs(resource, translator=translator, resolve_patterns=resolve_patterns)
    job = capture_job(resource, tables, f"{name}_capture")
    return dg.Definitions(
        assets=[tables, *sources],
        asset_checks=build_dbmazz_checks(resource, translator=translator),
        jobs=[job],
        schedules=[
            _schedule(
                f"{name}_schedule", job, resource, schedule_minutes, CapturedAssets.of(tables), unchanged == "skip"
            )
        ],
        sensors=[
            build_dbmazz_sensor(
                resource,
                job=job,
                target=tables,
                name=f"{name}_sensor",
                translator=translator,
                minimum_interval_seconds=sensor_interval_seconds,
                default_status=dg.DefaultSensorStatus.RUNNING if sensor_running else dg.DefaultSensorStatus.STOPPED,
            )
        ],
        resources={name: resource},
    )


def _schedule(
    name: str, job: Any, resource: DbmazzResource, minutes: int, assets: CapturedAssets, changed_alone: bool
) -> dg.ScheduleDefinition:
    """Return a schedule that runs windows at fixed times, an alternative to the sensor.

    If `changed_alone`, its runs select the checkpoint and the tables of which changes wait, as those of the sensor do.
    """
    slot = resource.slot_name

    @dg.schedule(
        name=name,
        job=job,
        cron_schedule=f"*/{minutes} * * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Runs a capture window of replication slot {slot} every {minutes} minutes; an alternative to the "
        "sensor.",
    )
    def evaluate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        unfinished = unfinished_runs(context.instance, slot)
        if unfinished:
            return dg.SkipReason(f"run {unfinished[0].dagster_run.run_id} has not finished")
        changed = None
        if changed_alone:
            with suppress(DbmazzError):  # the run tells
                changed = resource.pipeline().waiting_tables()
        return dg.RunRequest(tags=resource.run_tags, **assets.selection(changed))

    return evaluate


def _whole(env: Mapping[str, str], variable: str, *, default: int, maximum: int) -> int:
    text = env.get(variable, "").strip()
    if text == "":
        return default
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise ConfigError(
            f"{variable}={text!r} is not a whole number from 1 to {maximum}",
            object=variable,
            remedy=f"set {variable} to a whole number from 1 to {maximum}, or unset it for {default}",
        )
    return int(text)


def _choice(env: Mapping[str, str], variable: str, default: str, other: str) -> str:
    text = env.get(variable, "").strip().lower() or default
    if text not in (default, other):
        raise ConfigError(
            f"{variable}={env[variable]!r} is not {default} or {other}",
            object=variable,
            remedy=f"set {variable} to {default} or {other}, or unset it for {default}",
        )
    return text
