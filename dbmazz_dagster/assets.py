"""The decorator that makes one asset per captured table, and the specs of the source tables."""

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
from dbmazz_dagster.tags import CHECKPOINT_METADATA, TABLE_METADATA
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
    resolve_patterns: bool = False,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make one asset per captured table, and one for the checkpoint that every window materializes.

        shop = DbmazzResource(source_url=dg.EnvVar("SOURCE_URL"), tables="public.orders, public.customers")

        @dbmazz_assets(shop)
        def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource):
            yield from dbmazz.capture(context)

        defs = dg.Definitions(
            assets=[shop_tables, *build_source_asset_specs(shop)],
            resources={"dbmazz": shop},
            sensors=[build_dbmazz_sensor(shop, target=shop_tables)],
        )

    The assets can be materialized by themselves; a window nevertheless applies every table of the slot, see
    `DbmazzResource.capture`. Definitions load without any database: the tables come from the `tables`
    setting, their columns with the first materialization.

    Args:
        source: What is captured: `tables` and `slot` are read now, everything else when a run needs it.
        name: Name of the op; by default the function's.
        translator: How tables become assets.
        freshness: The checkpoint asset fails its freshness policy when nothing was captured, and the sensor
            has not seen that there was nothing to capture, for so long. None for no policy.
        op_tags: Tags of the op.
        pool: Concurrency pool; by default `dbmazz_` and the slot. PostgreSQL lets one run consume a slot in
            any case.
        retry_policy: Applies to errors that another attempt may cure.
        required_resource_keys: Resources that the function takes from `context.resources` rather than by
            parameter.
        resolve_patterns: Ask PostgreSQL which tables `schema.*` means, each time definitions load. For
            development; elsewhere definitions should not need a database, so list the tables.

    Raises:
        ConfigError: If `tables` or `slot` is malformed, or has a pattern and `resolve_patterns` is not set.
    """
    resource = source if isinstance(source, DbmazzResource) else DbmazzResource.from_settings(source)
    translator = translator or DagsterDbmazzTranslator()
    slot = resource.slot_name
    specs = [
        translator.get_asset_spec(props)
        .replace_attributes(skippable=True)
        .merge_attributes(metadata={TABLE_METADATA: str(props.table)})
        for props in table_props(resource, resolve_patterns=resolve_patterns)
    ]
    return dg.multi_asset(
        name=name,
        specs=[*specs, _checkpoint_spec(translator, slot, freshness)],
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
    """The tables in PostgreSQL, as external assets: where lineage begins.

    >>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders")
    >>> [spec.key.to_user_string() for spec in build_source_asset_specs(shop)]
    ['postgres/public/orders']

    Raises:
        ConfigError: As `dbmazz_assets`.
    """
    resource = source if isinstance(source, DbmazzResource) else DbmazzResource.from_settings(source)
    translator = translator or DagsterDbmazzTranslator()
    return [
        translator.get_source_asset_spec(props) for props in table_props(resource, resolve_patterns=resolve_patterns)
    ]


def table_props(resource: DbmazzResource, *, resolve_patterns: bool) -> Sequence[DbmazzTableProps]:
    """The captured tables, as translators get them."""
    patterns = resource.table_patterns()
    open_ended = [pattern for pattern in patterns if pattern.name is None]
    if not open_ended:
        tables = [TableRef(p.schema, p.name) for p in patterns if p.name is not None]
    elif resolve_patterns:
        tables = [description.table for description in resource.pipeline().tables()]
    else:
        raise ConfigError(
            f"TABLES has {format_tables(open_ended)}: which assets that means, only the database knows, and "
            "definitions load without one",
            object="TABLES",
            remedy="list the tables by name; or, in development, let the database be asked each time "
            "definitions load: resolve_patterns=True, or DBMAZZ_RESOLVE_TABLES=true for "
            "dbmazz_dagster.definitions",
        )
    database = _database(resource)
    return [DbmazzTableProps(table, resource.slot_name, database) for table in sorted(tables)]


def _database(resource: DbmazzResource) -> str | None:
    """DuckDB names an attached file by its stem."""
    path = resource.sink_url
    return None if isinstance(path, dg.EnvVar) else Path(path.removeprefix("duckdb://")).stem


def _checkpoint_spec(translator: DagsterDbmazzTranslator, slot: str, freshness: timedelta | None) -> dg.AssetSpec:
    spec = translator.get_checkpoint_spec(slot).merge_attributes(metadata={CHECKPOINT_METADATA: slot})
    if freshness is None:
        return spec
    return spec.replace_attributes(freshness_policy=dg.FreshnessPolicy.time_window(fail_window=freshness))
