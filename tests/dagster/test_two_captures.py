"""Two captures, each with a slot of its own, of one code location into one DuckDB file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import dagster as dg
import pytest

from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import build_definitions
from tests.dagster.conftest import Shop, key
from tests.dagster.processes import backlog, execute, running

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")
JOB = ("dagster", "job", "execute", "-m", "tests.dagster.locations.two_captures", "-j")


@pytest.fixture
def first(shop: Shop) -> Shop:
    """Captures orders."""
    return shop.with_env(TABLES="public.orders")


@pytest.fixture
def second(first: Shop) -> Iterator[Shop]:
    """Captures customers, into the same file."""
    slot = f"{first.slot}_2"
    shop = first.with_env(TABLES="public.customers", SOURCE_SLOT_NAME=slot, SOURCE_PUBLICATION_NAME=slot)
    try:
        yield shop
    finally:
        Pipeline(Settings.from_env(shop.env)).teardown()


def run_together(first: Shop, second: Shop, **env: str) -> None:
    """One window of each, at the same time, in two processes."""
    with ExitStack() as stack:
        env["TEST_SECOND_TABLES"] = second.env["TABLES"]
        processes = [
            stack.enter_context(running(first, *JOB, f"{name}_capture", **env)) for name in ("first", "second")
        ]
        assert [process.wait(timeout=90) for process in processes] == [0, 0]


def assert_events_fit(first: Shop, second: Shop, count: int) -> None:
    for shop, asset, table in ((first, ORDERS, "orders"), (second, CUSTOMERS, "customers")):
        versions = shop.versions(asset)
        assert len(versions) == len(set(versions)) == count
        assert versions[-1] == shop.changed_lsn(table)


def test_windows_at_the_same_time_take_turns(first: Shop, second: Shop) -> None:
    """The first copies, and many flushes: both runs succeed, and each reports its own tables only."""
    run_together(first, second)
    assert_events_fit(first, second, 1)
    backlog(first)
    first.database.execute("UPDATE customers SET name = 'new'")
    run_together(first, second, FLUSH_SIZE="2000")
    assert_events_fit(first, second, 2)
    for shop in (first, second, first, second):
        assert not [event for event in shop.tick().events if event.asset_key in (ORDERS, CUSTOMERS)]
    assert_events_fit(first, second, 2)
    first.equal()


def test_what_one_capture_owes_is_no_business_of_the_other_sensor(first: Shop, second: Shop) -> None:
    run_together(first, second)
    first.database.execute("UPDATE customers SET name = 'new'; UPDATE orders SET amount = 5")
    for shop in (first, second):
        execute(shop, "dbmazz_core.cli", "capture")
    first.tick()
    assert [len(first.versions(asset)) for asset in (ORDERS, CUSTOMERS)] == [2, 1]
    second.tick()
    first.tick()
    assert_events_fit(first, second, 2)


def test_a_table_of_both_is_refused(first: Shop, second: Shop) -> None:
    """Under one asset key by Dagster; under two keys by the window of the capture that came second."""
    run_together(first, second)
    both = second.with_env(TABLES="public.customers, public.orders")
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="orders"):
        dg.Definitions.merge(
            build_definitions(Settings.from_env(first.env), name="first"),
            build_definitions(Settings.from_env(both.env), name="second"),
        ).resolve_asset_graph()
    env = {"TEST_SECOND_TABLES": both.env["TABLES"], "TEST_SECOND_PREFIX": "second"}
    first.database.execute("UPDATE customers SET name = 'new'; UPDATE orders SET amount = 5")
    execute(first, *JOB, "second_capture", **env)
    (run,) = first.instance.get_runs(limit=1)
    assert f"replication slot {first.slot} feeds the table public.orders" in first.log(run.run_id)
    check = dg.AssetCheckKey(key("second", "public", "orders"), "is_streaming")
    latest = first.instance.event_log_storage.get_latest_asset_check_execution_by_key([check])[check]
    evaluation = latest.event.dagster_event.asset_check_evaluation_data
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "DestinationConflict" in str(evaluation.metadata["error"].value)
    assert not first.events(key("second", "public", "orders"))
    assert len(first.events(key("second", "public", "customers"))) == 1
    assert len(first.versions(ORDERS)) == 1
    execute(first, *JOB, "first_capture", **env)
    assert first.versions(ORDERS)[1:] == [first.changed_lsn("orders")]
    first.equal()
