"""What the destination has, and no run has reported, is materialized once: by the next window or tick."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleCause
from dagster._core.loader import LoadingContextForTest

from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DbmazzResource, build_dbmazz_checks, build_dbmazz_sensor, dbmazz_assets
from tests.dagster.conftest import Shop, key

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")


def order(shop: Shop, number: int) -> None:
    shop.database.execute(f"INSERT INTO orders VALUES ({number}, 1, 1, NULL)")


def shell(shop: Shop) -> None:
    """What `dbmazz capture` in a shell does."""
    Pipeline(Settings.from_env(shop.env)).capture()


def test_the_data_version_is_the_lsn_of_the_last_change(captured: Shop) -> None:
    order(captured, 100)
    assert captured.run().success
    first, second = captured.versions(ORDERS)
    assert first != second
    assert len(captured.events(CUSTOMERS)) == 1
    (state,) = [s for s in Pipeline(Settings.from_env(captured.env)).table_states() if s.table.name == "orders"]
    assert second == str(state.last_change_lsn)
    observed = captured.instance.fetch_observations(key("postgres", "public", "orders"), limit=1).records
    assert observed[0].asset_observation is not None
    assert observed[0].asset_observation.metadata["last_change_lsn"].value == second


def stale(shop: Shop, *tables: str) -> dict[str, list[StaleCause]]:
    """Why Dagster's UI shows the tables as unsynced."""
    graph, context = shop.definitions().resolve_asset_graph(), LoadingContextForTest(shop.instance)
    resolver = CachingStaleStatusResolver(shop.instance, graph, context)
    return {table: [*resolver.get_stale_causes(key("public", table))] for table in tables}


def test_captured_tables_are_in_sync_with_the_source(captured: Shop) -> None:
    """The observations of the source's tables are no news to Dagster: windows report what they have captured."""
    assert stale(captured, "orders", "customers") == {"orders": [], "customers": []}
    for number in (100, 101):
        order(captured, number)
        assert captured.run().success
        assert stale(captured, "orders", "customers") == {"orders": [], "customers": []}


def test_a_capture_from_a_shell_is_reported_by_the_next_window_too(captured: Shop) -> None:
    order(captured, 100)
    shell(captured)
    assert captured.run().success
    assert len(captured.events(ORDERS)) == 2
    captured.tick()
    assert len(captured.events(ORDERS)) == 2


def test_a_wiped_asset_is_reported_again_when_the_file_is_read_next(captured: Shop) -> None:
    """The sensor reads the file when it has changed, or when the cursor does not know it."""
    captured.tick()
    captured.instance.wipe_assets([ORDERS, CUSTOMERS])
    captured.tick()
    assert not captured.events(ORDERS)
    captured.cursor = None
    for _ in range(2):
        captured.tick()
    assert [len(captured.events(asset)) for asset in (ORDERS, CUSTOMERS)] == [1, 1]
    captured.instance.wipe_assets([ORDERS])
    assert captured.run().success
    assert captured.versions(ORDERS) == [captured.changed_lsn("orders")]


def test_a_materialization_of_an_older_version_counts(captured: Shop) -> None:
    """It has no data version, but says up to where its window had applied everything."""
    captured.instance.wipe_assets([ORDERS])
    lsn = Pipeline(Settings.from_env(captured.env)).source_status().server_lsn
    event = dg.AssetMaterialization(ORDERS, metadata={"confirmed_lsn": str(lsn)})
    captured.instance.report_runless_asset_event(event)
    captured.tick()
    assert len(captured.events(ORDERS)) == 1


def test_a_file_that_is_in_use_is_read_at_a_later_tick(captured: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    captured.tick()
    order(captured, 100)
    shell(captured)
    with monkeypatch.context() as patch:
        from dbmazz_core.errors import DestinationLocked

        def locked(*_: object, **__: object) -> None:
            raise DestinationLocked("locked", object="file", remedy="wait")

        patch.setattr(Pipeline, "table_states", locked)
        captured.tick()
    assert len(captured.events(ORDERS)) == 1
    captured.tick()
    assert len(captured.events(ORDERS)) == 2


def test_a_sensor_on_assets_makes_a_good_job_by_itself(captured: Shop) -> None:
    """One process, the tag of the slot, no checks that read whole tables: a window is a matter of seconds."""
    shop = DbmazzResource.from_settings(Settings.from_env(captured.env))

    @dbmazz_assets(shop)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
        yield from dbmazz.capture(context)

    sensor = build_dbmazz_sensor(shop, target=tables)
    definitions = dg.Definitions(
        assets=[tables], asset_checks=build_dbmazz_checks(shop), sensors=[sensor], resources={"dbmazz": shop}
    )
    order(captured, 100)
    data = sensor.evaluate_tick(dg.build_sensor_context(instance=captured.instance, definitions=definitions))
    (request,) = data.run_requests or []
    job = definitions.resolve_job_def(f"{captured.slot}_capture")
    assert job.executor_def is dg.in_process_executor
    assert job.tags["dbmazz/slot"] == captured.slot
    result = job.execute_in_process(instance=captured.instance, tags=dict(request.tags))
    assert result.success
    assert {check.check_name for check in result.get_asset_check_evaluations()} == {"is_streaming", "key_is_unique"}
    captured.equal()
