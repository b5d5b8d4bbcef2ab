"""Definitions of the demo: the capture that the environment configures, and an asset computed from its tables."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from typing import Any, Final

import dagster as dg

from dbmazz_dagster.automation import follow_changes
from dbmazz_dagster.build import build_definitions
from dbmazz_dagster.failures import dbmazz_failures
from dbmazz_dagster.reader import DbmazzReader
from dbmazz_dagster.resource import DbmazzResource

_REVENUE_SQL: Final = """
CREATE SCHEMA IF NOT EXISTS analytics;
CREATE OR REPLACE TABLE analytics.daily_revenue AS
SELECT CAST(orders.ordered_at AS DATE) AS day,
       count(DISTINCT orders.id) AS orders,
       count(DISTINCT orders.customer_id) AS customers,
       sum(items.quantity) AS items,
       sum(items.quantity * items.unit_price) AS revenue
FROM public.orders AS orders
JOIN public.order_items AS items ON items.order_id = orders.id
WHERE orders.status <> 'cancelled'
GROUP BY day
ORDER BY day
"""

_DAYS_SHOWN: Final = 7


@dg.asset(
    key_prefix="analytics",
    deps=[dg.AssetKey(["public", table]) for table in ("customers", "orders", "order_items")],
    automation_condition=follow_changes(),
    group_name="analytics",
    kinds={"duckdb", "sql"},
    metadata={"dagster/table_name": "shop.analytics.daily_revenue"},
)
def daily_revenue(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> dg.MaterializeResult[Any]:
    """Revenue by day of all orders that are not cancelled, computed from the captured tables."""
    with dbmazz_failures(context), DbmazzReader.of(dbmazz).writer() as connection:
        connection.execute(_REVENUE_SQL)
        found = connection.execute("FROM analytics.daily_revenue ORDER BY day DESC").fetchall()
    days = found[:_DAYS_SHOWN]
    table = ["| day | orders | customers | items | revenue |", "|---|---:|---:|---:|---:|"]
    table += [
        f"| {day} | {orders} | {customers} | {items} | {revenue:,} |" for day, orders, customers, items, revenue in days
    ]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found),
            "revenue": float(sum(row[4] for row in found)),
            "orders": sum(row[1] for row in found),
            "preview": dg.MetadataValue.md("\n".join(table)),
        }
    )


defs = dg.Definitions.merge(
    build_definitions(),
    dg.Definitions(
        assets=[daily_revenue],
        executor=dg.in_process_executor,
        sensors=[
            dg.AutomationConditionSensorDefinition(
                "automation",
                target=dg.AssetSelection.assets(daily_revenue),
                default_status=dg.DefaultSensorStatus.RUNNING,
                minimum_interval_seconds=5,
            )
        ],
    ),
)
