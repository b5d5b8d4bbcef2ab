"""A capture with blocking checks of a user's own, which fail behind every window."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from collections.abc import Iterator
from typing import Any

import dagster as dg

from dbmazz_dagster import DbmazzResource, dbmazz_assets

shop = DbmazzResource.from_env()
ORDERS = dg.AssetKey(["public", "orders"])


@dbmazz_assets(shop)
def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
    yield from dbmazz.capture(context)


@dg.asset_check(asset=ORDERS, blocking=True)
def no_orders() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False)


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec("fails", asset=ORDERS, blocking=True),
        dg.AssetCheckSpec("raises", asset=ORDERS, blocking=True),
    ]
)
def no_orders_twice() -> Iterator[dg.AssetCheckResult]:
    yield dg.AssetCheckResult(passed=False, asset_key=ORDERS, check_name="fails")
    raise ValueError("this check is broken")


def job(name: str, check: dg.AssetChecksDefinition) -> Any:
    selection = dg.AssetSelection.assets(tables).without_checks() | dg.AssetSelection.checks(check)
    return dg.define_asset_job(name, selection=selection, executor_def=dg.in_process_executor, tags=shop.run_tags)


defs = dg.Definitions(
    assets=[tables],
    asset_checks=[no_orders, no_orders_twice],
    jobs=[job("asset_check", no_orders), job("multi_asset_check", no_orders_twice)],
    resources={"dbmazz": shop},
)
