"""The capture: 12 tables from PostgreSQL into a DuckDB file, with a read copy for everybody who reads."""

# No postponed annotations here: Dagster reads the annotations as objects.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dbmazz_dagster import (
    DbmazzConfig,
    DbmazzIOManager,
    DbmazzReader,
    DbmazzResource,
    build_dbmazz_checks,
    build_dbmazz_sensor,
    build_source_asset_specs,
    dbmazz_assets,
)

TABLES = (
    "addresses",
    "categories",
    "customers",
    "order_items",
    "orders",
    "payments",
    "products",
    "returns",
    "shipments",
    "stock",
    "suppliers",
    "warehouses",
)
#: Both files are in the directory where Dagster was started.
FILE, READ_COPY = "shop.duckdb", "shop.read.duckdb"

shop = DbmazzResource(
    source_url=dg.EnvVar("SOURCE_URL"),
    tables=", ".join(f"public.{table}" for table in TABLES),
    slot="shop",
    sink_url=FILE,
    sink_read_copy=READ_COPY,
)


@dbmazz_assets(shop)
def shop_tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource, config: DbmazzConfig) -> Iterator[Any]:
    yield from dbmazz.capture(context, config=config)


sources = build_source_asset_specs(shop)
checks = build_dbmazz_checks(shop)
#: Its job `shop_capture` runs one window; the sensor requests it when PostgreSQL has changes.
sensor = build_dbmazz_sensor(shop, target=shop_tables, default_status=dg.DefaultSensorStatus.RUNNING)

resources = {
    "dbmazz": shop,
    "reader": DbmazzReader.of(shop),
    "io_manager": DbmazzIOManager(path=FILE, read_copy=READ_COPY),
}
