"""Three marts, each in another way: polars frames, SQL beside the captured tables, and SQL into a file."""

# No postponed annotations here: Dagster reads the annotations as objects.

from typing import Any

import dagster as dg
import polars as pl

from dbmazz_dagster import DbmazzReader, follow_changes

RETURN_RATES = "return_rates.parquet"


def captured(*tables: str) -> list[dg.AssetKey]:
    """Return the asset keys of captured tables."""
    return [dg.AssetKey(["public", table]) for table in tables]


@dg.asset(
    key_prefix="marts",
    ins={table: dg.AssetIn(["public", table]) for table in ("stock", "products", "warehouses")},
    automation_condition=follow_changes(),
    group_name="marts",
    kinds={"polars", "duckdb"},
)
def stock_value(stock: pl.DataFrame, products: pl.DataFrame, warehouses: pl.DataFrame) -> pl.DataFrame:
    """Pieces and value of the stock, by warehouse.

    The I/O manager reads the arguments, all as of one LSN, and writes the result as table `marts.stock_value`.
    """
    return (
        stock.join(products, left_on="product_id", right_on="id")
        .join(warehouses, left_on="warehouse_id", right_on="id")
        .group_by(warehouse="code")
        .agg(pieces=pl.col("quantity").sum(), value=(pl.col("price") * pl.col("quantity")).sum())
        .sort("warehouse")
    )


@dg.asset(
    key_prefix="marts",
    deps=captured("orders", "order_items"),
    automation_condition=follow_changes(),
    group_name="marts",
    kinds={"sql", "duckdb"},
)
def daily_revenue(reader: DbmazzReader) -> dg.MaterializeResult[Any]:
    """Revenue by day, without cancelled orders: a table in the file itself, which is written in turn with windows."""
    with reader.writer() as connection:
        connection.execute(
            """
            CREATE SCHEMA IF NOT EXISTS marts;
            CREATE OR REPLACE TABLE marts.daily_revenue AS
            SELECT CAST(orders.placed_at AS DATE) AS day,  -- in UTC
                   count(DISTINCT orders.id) AS orders,
                   sum(items.quantity) AS items,
                   sum(items.quantity * items.unit_price) AS revenue
            FROM public.orders AS orders
            JOIN public.order_items AS items ON items.order_id = orders.id
            WHERE orders.status <> 'cancelled'
            GROUP BY day
            """
        )
        ((days, revenue),) = connection.execute("SELECT count(*), sum(revenue) FROM marts.daily_revenue").fetchall()
    return dg.MaterializeResult(metadata={"dagster/row_count": days, "revenue": float(revenue or 0)})


@dg.asset(
    key_prefix="marts",
    deps=captured("returns", "order_items", "products", "categories"),
    automation_condition=follow_changes(),
    group_name="marts",
    kinds={"sql", "parquet"},
)
def return_rates(reader: DbmazzReader) -> dg.MaterializeResult[Any]:
    """Sold and returned pieces by category, from the read copy into a Parquet file: windows go on meanwhile."""
    with reader.open() as tables:
        rates = tables.connection.sql(
            """
            WITH returned AS (SELECT order_id, line, sum(quantity) AS pieces FROM public.returns GROUP BY ALL)
            SELECT categories.name AS category,
                   sum(items.quantity) AS sold,
                   coalesce(sum(returned.pieces), 0) AS returned
            FROM public.order_items AS items
            JOIN public.products AS products ON products.id = items.product_id
            JOIN public.categories AS categories ON categories.id = products.category_id
            LEFT JOIN returned ON returned.order_id = items.order_id AND returned.line = items.line
            GROUP BY category
            ORDER BY category
            """
        ).pl()
        lsn = tables.lsn
    rates.write_parquet(RETURN_RATES)
    return dg.MaterializeResult(
        metadata={"dagster/row_count": rates.height, "lsn": str(lsn), "path": dg.MetadataValue.path(RETURN_RATES)}
    )


@dg.asset_check(asset=daily_revenue, automation_condition=follow_changes())
def one_row_for_each_day(daily_revenue: pl.DataFrame) -> dg.AssetCheckResult:
    """No day is twice in the mart. The I/O manager gives marts to checks, as it gives tables to assets."""
    twice = daily_revenue.height - daily_revenue["day"].n_unique()
    return dg.AssetCheckResult(passed=twice == 0, metadata={"days": daily_revenue.height, "twice": twice})


@dg.asset_check(asset=stock_value, automation_condition=follow_changes())
def stock_is_worth_something(stock_value: pl.DataFrame) -> dg.AssetCheckResult:
    """No warehouse is empty."""
    empty = stock_value.filter(pl.col("pieces") <= 0)["warehouse"].to_list()
    return dg.AssetCheckResult(passed=not empty, metadata={"empty warehouses": ", ".join(empty) or "none"})
