"""Downstream assets: captured tables as arguments, marts beside them, and turns with the windows."""

# No postponed annotations here: Dagster reads the annotations as objects.

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pyarrow as pa
import pytest

from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef
from dbmazz_dagster import DbmazzIOManager, DbmazzReader, DbmazzResource, dbmazz_assets
from tests.dagster.conftest import Shop, key

ORDERS = dg.AssetIn(key("public", "orders"))


@dataclass
class Marts:
    """A shop with downstream assets."""

    shop: Shop
    copy: Path | None = None

    @property
    def resource(self) -> DbmazzResource:
        return DbmazzResource.from_settings(Settings.from_env(self.shop.env))

    def materialize(
        self, *assets: Any, others: Sequence[dg.AssetSpec] = (), **resources: Any
    ) -> dg.ExecuteInProcessResult:
        """Run downstream assets, beside the definition of the captured ones."""
        resource = self.resource

        @dbmazz_assets(resource)
        def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
            yield from dbmazz.capture(context)

        options = {"path": str(self.shop.destination), "read_copy": str(self.copy) if self.copy else None}
        return dg.materialize(
            [tables, *others, *assets],
            selection=list(assets),
            instance=self.shop.instance,
            raise_on_error=False,
            resources={
                "dbmazz": resource,
                "io_manager": DbmazzIOManager(timeout_s=2, **options),
                "reader": DbmazzReader.of(resource, timeout_s=2),
                **resources,
            },
        )

    def capture(self) -> None:
        Pipeline(Settings.from_env(self.shop.env)).capture()

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        assert not result.success
        return self.shop.log(result.run_id)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.shop.destination), read_only=True) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def marts(captured: Shop) -> Marts:
    return Marts(captured)


@pytest.fixture
def with_copy(captured: Shop, tmp_path: Path) -> Marts:
    (tmp_path / "copies").mkdir()
    copy = tmp_path / "copies" / "shop.read.duckdb"
    found = Marts(captured.with_env(SINK_READ_COPY=str(copy)), copy)
    found.capture()
    return found


@dg.asset(key_prefix="marts", ins={"orders": ORDERS})
def frame(orders: pl.DataFrame) -> pl.DataFrame:
    return orders.group_by("customer_id").agg(pl.col("amount").sum()).sort("customer_id")


@dg.asset(key_prefix="marts", ins={"orders": ORDERS})
def lazy(orders: pl.LazyFrame) -> pl.LazyFrame:
    return orders.select(pl.len())


@dg.asset(key_prefix="marts", ins={"orders": ORDERS})
def arrow(orders: pa.Table) -> pa.Table:
    return orders.select(["id"])


@dg.asset(key_prefix="marts", ins={"orders": ORDERS})
def relation(orders: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    return orders.aggregate("count(*) AS n")


@dg.asset(key_prefix="marts", ins={"frame": dg.AssetIn(key("marts", "frame"))})
def second(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.head(1)


def test_tables_are_arguments_of_every_type_and_results_become_tables(marts: Marts) -> None:
    result = marts.materialize(frame, lazy, arrow, relation, second)
    assert result.success
    totals = marts.shop.database.fetch("SELECT customer_id, sum(amount) FROM orders GROUP BY 1 ORDER BY 1")
    assert marts.rows("FROM marts.frame") == totals
    assert marts.rows("FROM marts.lazy") == marts.rows("FROM marts.relation") == [(10,)]
    assert len(marts.rows("FROM marts.arrow")) == 10
    assert len(marts.rows("FROM marts.second")) == 1
    assert marts.shop.materializations(result)[key("marts", "frame")]["dagster/row_count"] == 3
    marts.shop.database.execute("INSERT INTO orders VALUES (500, 1, 1, NULL)")
    assert marts.shop.run().success
    marts.shop.equal()  # marts are nothing to the capture


def test_a_reader_and_a_writer_as_a_resource(marts: Marts) -> None:
    @dg.asset
    def report(reader: DbmazzReader) -> dg.MaterializeResult[Any]:
        with reader.open() as tables:
            count = tables.frame("public.orders").height
        with reader.writer() as connection:
            connection.execute("CREATE SCHEMA marts; CREATE TABLE marts.mine AS SELECT 1 AS n")
        return dg.MaterializeResult(metadata={"orders": count})

    result = marts.materialize(report)
    assert result.success
    assert marts.shop.materializations(result)[key("report")]["orders"] == 10
    assert marts.rows("FROM marts.mine") == [(1,)]


# -- one LSN for all assets of a run


def test_all_assets_of_a_run_read_the_same_lsn_though_windows_go_on(with_copy: Marts) -> None:
    seen: list[int] = []

    @dg.asset(ins={"orders": ORDERS})
    def first(orders: pl.DataFrame) -> None:
        seen.append(orders.height)
        with_copy.shop.database.execute("INSERT INTO orders VALUES (500, 1, 1, NULL)")
        with_copy.capture()  # publishes a new copy

    @dg.asset(deps=[first], ins={"orders": ORDERS})
    def then(orders: pl.DataFrame) -> None:
        seen.append(orders.height)

    assert with_copy.materialize(first, then).success
    assert seen == [10, 10]
    assert with_copy.materialize(then).success
    assert seen == [10, 10, 11]
    pins = [path.name for path in Path(str(with_copy.copy)).parent.iterdir() if path.name.endswith(".run")]
    assert len(pins) == 1  # of the last run; that of the run before is removed


def test_without_a_copy_a_window_in_between_is_told(marts: Marts) -> None:
    @dg.asset(ins={"orders": ORDERS})
    def first(orders: pl.DataFrame) -> None:
        marts.shop.database.execute("INSERT INTO orders VALUES (500, 1, 1, NULL)")
        marts.capture()

    @dg.asset(deps=[first], ins={"orders": ORDERS})
    def then(orders: pl.DataFrame) -> None: ...

    result = marts.materialize(first, then)
    assert result.success
    assert "an earlier argument of this run as of" in marts.shop.log(result.run_id)


# -- bad input


def test_a_table_that_is_not_captured_is_named(marts: Marts) -> None:
    @dg.asset(ins={"orders": dg.AssetIn(key("public", "ordres"))})
    def report(orders: pl.DataFrame) -> None: ...

    assert "has no table public.ordres" in marts.failure(
        marts.materialize(report, others=[dg.AssetSpec(key("public", "ordres"))])
    )


def test_a_table_that_is_behind_the_others_is_refused_unless_wished(marts: Marts) -> None:
    Pipeline(Settings.from_env(marts.shop.env)).pause([TableRef("public", "orders")])
    assert "public.orders" in (said := marts.failure(marts.materialize(frame)))
    assert "is paused; its rows are as of" in said
    lenient = DbmazzIOManager(path=str(marts.shop.destination), stale=True)
    assert marts.materialize(frame, io_manager=lenient).success


def test_a_table_that_was_never_copied_is_refused(captured: Shop) -> None:
    captured.database.execute("CREATE TABLE strange (v text); INSERT INTO strange VALUES ('a')")
    shop = captured.with_env(TABLES="public.customers, public.orders, public.strange", REPLICA_IDENTITY="leave")
    marts = Marts(shop)
    Pipeline(Settings.from_env(shop.env)).capture()

    @dg.asset(ins={"strange": dg.AssetIn(key("public", "strange"))})
    def report(strange: pl.DataFrame) -> None: ...

    said = marts.failure(marts.materialize(report))
    assert "public.strange was not copied to" in said
    assert "REPLICA IDENTITY" in said


def test_an_annotation_and_a_result_of_another_type_are_refused(marts: Marts) -> None:
    @dg.asset(ins={"orders": ORDERS})
    def report(orders: dict) -> None: ...  # type: ignore[type-arg]

    assert "which DbmazzIOManager does not give" in marts.failure(marts.materialize(report))

    @dg.asset
    def number() -> int:
        return 7

    assert "number returned int, which is not written as a table" in marts.failure(marts.materialize(number))


def test_an_asset_does_not_write_over_a_captured_table(marts: Marts) -> None:
    @dg.asset(key=["other", "public", "customers"])
    def thief() -> pl.DataFrame:
        return pl.DataFrame({"id": [1]})

    assert "public.customers" in (said := marts.failure(marts.materialize(thief)))
    assert "an asset must not write it" in said
    marts.shop.equal()


def test_a_column_that_was_added_is_there_and_the_asset_sees_it(marts: Marts) -> None:
    marts.shop.database.execute("ALTER TABLE orders ADD COLUMN extra int; UPDATE orders SET extra = 7")
    marts.capture()

    @dg.asset(ins={"orders": ORDERS}, key_prefix="marts")
    def wide(orders: pl.DataFrame) -> pl.DataFrame:
        return orders.select(pl.col("extra").sum())

    assert marts.materialize(wide).success
    assert marts.rows("FROM marts.wide") == [(70,)]


def test_somebody_who_holds_the_file_is_named_in_the_failure(marts: Marts) -> None:
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", code, str(marts.shop.destination)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        said = marts.failure(marts.materialize(frame))
        writer.communicate()
    assert f"locked by process {writer.pid}" in said
    assert replace(marts).materialize(frame).success
