"""A window evaluates the checks of the tables that it changed, whether the run selects them or not; they may block."""

import dagster as dg
import duckdb
import pytest

from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DbmazzResource, dbmazz_assets, window_report
from tests.dagster.conftest import Shop, key

CUSTOMERS, ORDERS = key("public", "customers"), key("public", "orders")


def evaluations(
    shop: Shop, result: dg.ExecuteInProcessResult
) -> dict[tuple[dg.AssetKey, str], dg.AssetCheckEvaluation]:
    """All checks that a run recorded, of selected assets or others."""
    found = {}
    for record in shop.instance.get_records_for_run(result.run_id).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            data = event.asset_check_evaluation_data
            assert (data.asset_key, data.check_name) not in found
            found[data.asset_key, data.check_name] = data
    return found


def change_orders(shop: Shop) -> None:
    shop.database.execute("UPDATE orders SET amount = amount + 1 WHERE id IN (3, 4)")


def run_checks_alone(shop: Shop, *checks: dg.AssetCheckKey) -> dg.ExecuteInProcessResult:
    """Run checks without their assets, as the UI does on request."""
    job = shop.definitions().resolve_implicit_global_asset_job_def()
    return job.get_subset(asset_selection=set(), asset_check_selection=set(checks)).execute_in_process(
        instance=shop.instance, raise_on_error=False
    )


@pytest.mark.parametrize("selected", [(), ("orders",), ("customers",)], ids=["all", "the changed", "another"])
def test_a_changed_table_is_checked(captured: Shop, selected: tuple[str, ...]) -> None:
    change_orders(captured)
    found = evaluations(captured, captured.run(*selected))
    assert found.keys() == {(ORDERS, "is_streaming"), (ORDERS, "key_is_unique")}
    assert all(check.passed for check in found.values())
    assert found[ORDERS, "key_is_unique"].metadata["duplicated_keys"].value == 0


def test_what_has_not_changed_is_not_checked(captured: Shop) -> None:
    assert not evaluations(captured, captured.run())


def duplicate_a_row(shop: Shop) -> None:
    """By hand, of a row that no change touches."""
    with duckdb.connect(str(shop.destination)) as connection:
        connection.execute("INSERT INTO public.orders FROM public.orders WHERE id = 7")


def test_duplicated_keys_are_found(captured: Shop) -> None:
    duplicate_a_row(captured)
    change_orders(captured)
    result = captured.run()
    assert result.success  # the window was committed, and nothing depends on the check
    check = evaluations(captured, result)[ORDERS, "key_is_unique"]
    assert not check.passed
    assert check.metadata["duplicated_keys"].value == 1


def test_keys_of_large_tables_are_compared_by_a_run_of_the_check_alone(
    captured: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    duplicate_a_row(captured)
    monkeypatch.setattr(window_report, "_COMPARED_ROWS", 9)
    change_orders(captured)
    check = evaluations(captured, captured.run())[ORDERS, "key_is_unique"]
    assert check.passed
    assert "duplicated_keys" not in check.metadata
    assert "each row that was updated or deleted was found once" in str(check.description)

    result = run_checks_alone(captured, dg.AssetCheckKey(ORDERS, "key_is_unique"))
    check = evaluations(captured, result)[ORDERS, "key_is_unique"]
    assert not check.passed
    assert check.metadata["duplicated_keys"].value == 1


def test_a_check_alone_needs_no_change(captured: Shop) -> None:
    result = run_checks_alone(captured, dg.AssetCheckKey(CUSTOMERS, "key_is_unique"))
    assert result.success
    found = evaluations(captured, result)
    assert found[CUSTOMERS, "key_is_unique"].passed
    assert {asset for asset, _ in found} == {CUSTOMERS}


@pytest.mark.parametrize("blocking", [False, True])
def test_a_failed_check_may_block_what_is_downstream(captured: Shop, blocking: bool) -> None:
    duplicate_a_row(captured)
    change_orders(captured)
    resource = DbmazzResource.from_settings(Settings.from_env(captured.env))

    @dbmazz_assets(resource, blocking_checks=blocking)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource):
        yield from dbmazz.capture(context)

    @dg.asset(deps=[ORDERS])
    def report() -> None: ...

    job = dg.Definitions(
        assets=[tables, report], resources={"dbmazz": resource}
    ).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=captured.instance, raise_on_error=False)
    done = captured.materializations(result)
    assert ORDERS in done
    assert (key("report") in done) is not blocking
    assert result.success is not blocking
    # The capture succeeded, whatever became of the check.
    assert not captured.tick().requests
