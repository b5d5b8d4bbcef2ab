"""The decorator that defines one asset per captured table, and the specs of the source tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.tables import format_tables
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.table_checks import table_check_specs
from dbmazz_dagster.tags import CHECKPOINT_METADATA, SOURCE_METADATA, TABLE_METADATA
from dbmazz_dagster.translator import DagsterDbmazzTranslator, DbmazzTableProps


def dbmazz_assets(
    source: DbmazzResource | Settings,
    *,
    name: str | None = None,
    translator: DagsterDbmazzTranslator | None = None,
    freshness: timedelta | None = timedelta(hours=1),
    op_tags: Mapping[str, Any] | None = None,
    pool: str | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    required_resource_keys: set[str] | None = None,
    blocking_checks: bool = False,
    resolve_patterns: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return a decorator that defines one asset per captured table, and one for the checkpoint of the slot.

        shop = DbmazzResource(source_url=dg.EnvVar("SOURCE_URL"), tables="public.orders, public.customers")

        @dbmazz_assets(shop)
        def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource):
            yield from dbmazz.capture(context)

        defs = dg.Definitions(
            assets=[shop_tables, *build_source_asset_specs(shop)],
            resources={"dbmazz": shop},
            sensors=[build_dbmazz_sensor(shop, target=shop_tables)],
        )

    Every window materializes the checkpoint's asset. A run can select single assets; its window still applies the
    changes of all tables of the slot, see `DbmazzResource.capture`. Definitions load without a database: the tables
    come from the setting `tables`, and their columns from the first materialization.

    Args:
        source: The capture. `tables` and `slot` are read now, all other settings when a run needs them.
        name: Name of the op; by default the name of the function.
        translator: Turns tables into asset specs.
        freshness: The freshness policy of the checkpoint's asset fails if, for this time, no window has run and the
            sensor has not seen that the slot holds no changes. None for no policy.
        op_tags: Tags of the op.
        pool: Concurrency pool; by default `dbmazz_` and the slot. Without a pool, too, PostgreSQL lets only one run
            consume a slot.
        retry_policy: Applies to errors that another attempt may resolve.
        required_resource_keys: Resources that the function takes from `context.resources` instead of a parameter.
        blocking_checks: Whether a check of a table that fails keeps the assets downstream of it, in the same run, from
            being executed. The window itself is committed by then.
        resolve_patterns: Ask PostgreSQL for the tables of `schema.*` each time definitions load. For development: in
            production, list the tables, so that definitions load without a database.

    Raises:
        ConfigError: `tables` or `slot` is malformed, or `tables` has a pattern and `resolve_patterns` is False.
    """
    resource = source if isinstance(source, DbmazzResource) else DbmazzResource.from_settings(source)
    translator = translator or DagsterDbmazzTranslator()
    slot = resource.slot_name
    tables, policy = table_props(resource, resolve_patterns=resolve_patterns), resource.on_bad_value_policy()
    specs = [
        translator.get_asset_spec(props)
        .replace_attributes(skippable=True)
        .merge_attributes(
            metadata={
                TABLE_METADATA: str(props.table),
                SOURCE_METADATA: translator.get_source_asset_spec(props).key.to_user_string(),
            }
        )
        for props in tables
    ]
    return dg.multi_asset(
        name=name,
        specs=[*specs, _checkpoint_spec(translator, slot, freshness)],
        check_specs=[
            check
            for props, spec in zip(tables, specs, strict=True)
            for check in table_check_specs(spec.key, policy.of(props.table), blocking=blocking_checks)
        ],
        can_subset=True,
        op_tags=op_tags,
        pool=pool or f"dbmazz_{slot}",
        retry_policy=retry_policy,
        required_resource_keys=required_resource_keys,
    )


def build_source_asset_specs(
    source: DbmazzResource | Settings,
    *,
    translator: DagsterDbmazzTranslator | None = None,
    resolve_patterns: bool = False,
) -> list[dg.AssetSpec]:
    """Return the specs of the tables in PostgreSQL: external assets, from which lineage begins.

    >>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders")
    >>> [spec.key.to_user_string() for spec in build_source_asset_specs(shop)]
    ['postgres/public/orders']

    Args:
        source: The capture.
        translator: The translator that `dbmazz_assets` has.
        resolve_patterns: As in `dbmazz_assets`.

    Raises:
        ConfigError: `tables` or `slot` is malformed, or `tables` has a pattern and `resolve_patterns` is False.
    """
    resource = source if isinstance(source, DbmazzResource) else DbmazzResource.from_settings(source)
    translator = translator or DagsterDbmazzTranslator()
    return [
        translator.get_source_asset_spec(props) for props in table_props(resource, resolve_patterns=resolve_patterns)
    ]


def table_props(resource: DbmazzResource, *, resolve_patterns: bool) -> Sequence[DbmazzTableProps]:
    """Return the captured tables as a translator gets them, sorted by name."""
    patterns = resource.table_patterns()
    open_ended = [pattern for pattern in patterns if pattern.name is None]
    if not open_ended:
        tables = [TableRef(p.schema, p.name) for p in patterns if p.name is not None]
    elif resolve_patterns:
        tables = [description.table for description in resource.pipeline().tables()]
    else:
        raise ConfigError(
            f"TABLES has {format_tables(open_ended)}: Dagster's definitions need the names of all tables, and load "
            "without a database",
            object="TABLES",
            remedy="list the tables by name; or, in development, query the database each time definitions load: "
            "resolve_patterns=True, or DBMAZZ_RESOLVE_TABLES=true for dbmazz_dagster.definitions",
        )
    database = _database(resource)
    return [DbmazzTableProps(table, resource.slot_name, database) for table in sorted(tables)]


def _database(resource: DbmazzResource) -> str | None:
    """Return DuckDB's name of the destination, the stem of the file, or None if the path is an `EnvVar`."""
    path = resource.sink_url
    return None if isinstance(path, dg.EnvVar) else Path(path.removeprefix("duckdb://")).stem


def _checkpoint_spec(translator: DagsterDbmazzTranslator, slot: str, freshness: timedelta | None) -> dg.AssetSpec:
    spec = translator.get_checkpoint_spec(slot).merge_attributes(metadata={CHECKPOINT_METADATA: slot})
    if freshness is None:
        return spec
    return spec.replace_attributes(freshness_policy=dg.FreshnessPolicy.time_window(fail_window=freshness))
