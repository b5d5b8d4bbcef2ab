"""What the destination has, and no run has reported, is materialized once: by the next window or tick."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import pytest

from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DbmazzResource, build_dbmazz_checks, build_dbmazz_sensor, dbmazz_assets
from dbmazz_dagster.owed import DATA_VERSION_TAG
from tests.dagster.conftest import Shop, key

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")


def materializations(shop: Shop, asset: dg.AssetKey) -> list[dg.AssetMaterialization]:
    """All of an asset, the oldest first."""
    records = shop.instance.fetch_materializations(asset, limit=100).records
    return [record.asset_materialization for record in reversed(records) if record.asset_materialization]


def version(event: dg.AssetMaterialization) -> str:
    return (event.tags or {})[DATA_VERSION_TAG]


def order(shop: Shop, number: int) -> None:
    shop.database.execute(f"INSERT INTO orders VALUES ({number}, 1, 1, NULL)")


def shell(shop: Shop) -> None:
    """What `dbmazz capture` in a shell does."""
    Pipeline(Settings.from_env(shop.env)).capture()


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The walsender goes away after the first flush that was confirmed."""
    confirm = PostgresStream.confirm

    def and_break(self: PostgresStream, lsn: Any) -> None:
        confirm(self, lsn)
        raise ReplicationInterrupted("the walsender was killed", object="stream", remedy="run again")

    with monkeypatch.context() as patch:
        patch.setattr(PostgresStream, "confirm", and_break)
        yield patch


def test_the_data_version_is_the_lsn_of_the_last_change(captured: Shop) -> None:
    order(captured, 100)
    assert captured.run().success
    first, second = materializations(captured, ORDERS)
    assert version(first) != version(second)
    assert len(materializations(captured, CUSTOMERS)) == 1
    (state,) = [s for s in Pipeline(Settings.from_env(captured.env)).table_states() if s.table.name == "orders"]
    assert version(second) == str(state.last_change_lsn)
    observed = captured.instance.fetch_observations(key("postgres", "public", "orders"), limit=1).records
    assert observed[0].asset_observation is not None
    assert observed[0].asset_observation.tags == {DATA_VERSION_TAG: version(second)}


def test_a_window_that_failed_behind_a_flush_has_reported_it(captured: Shop, breaking: pytest.MonkeyPatch) -> None:
    order(captured, 100)
    assert not captured.run().success
    breaking.undo()
    assert [version(event) for event in materializations(captured, ORDERS)].count(
        version(materializations(captured, ORDERS)[-1])
    ) == 1
    assert len(materializations(captured, ORDERS)) == 2
    assert captured.run().success
    assert len(materializations(captured, ORDERS)) == 2  # nothing is invented
    captured.equal()


def test_a_capture_from_a_shell_is_reported_by_the_next_tick_once(captured: Shop) -> None:
    captured.tick()
    order(captured, 100)
    shell(captured)
    for _ in range(3):
        captured.tick()
    first, second = materializations(captured, ORDERS)
    assert second.description == "changed outside of this Dagster instance, or by a run that failed"
    assert version(second) > version(first)
    assert len(materializations(captured, CUSTOMERS)) == 1


def test_a_capture_from_a_shell_is_reported_by_the_next_window_too(captured: Shop) -> None:
    order(captured, 100)
    shell(captured)
    assert captured.run().success
    assert len(materializations(captured, ORDERS)) == 2
    captured.tick()
    assert len(materializations(captured, ORDERS)) == 2


def test_a_deleted_run_is_reported_again(captured: Shop) -> None:
    order(captured, 100)
    result = captured.run()
    captured.instance.wipe_assets([ORDERS])
    captured.instance.delete_run(result.run_id)
    captured.tick()
    assert len(materializations(captured, ORDERS)) == 1


def test_a_new_storage_learns_its_tables_in_the_first_tick(captured: Shop) -> None:
    with dg.instance_for_test() as instance:
        new = replace(captured, instance=instance, cursor=None)
        new.tick()
        assert [len(materializations(new, asset)) for asset in (ORDERS, CUSTOMERS)] == [1, 1]
        new.tick()
        assert [len(materializations(new, asset)) for asset in (ORDERS, CUSTOMERS)] == [1, 1]


def test_a_cursor_that_somebody_edited_invents_nothing(captured: Shop) -> None:
    captured.tick()
    captured.cursor = '{"destination": 7, "confirmed_lsn": []}'
    captured.tick()
    assert len(materializations(captured, ORDERS)) == 1


def test_a_materialization_of_an_older_version_counts(captured: Shop) -> None:
    """It has no data version, but says up to where its window had applied everything."""
    captured.instance.wipe_assets([ORDERS])
    lsn = Pipeline(Settings.from_env(captured.env)).source_status().server_lsn
    event = dg.AssetMaterialization(ORDERS, metadata={"confirmed_lsn": str(lsn)})
    captured.instance.report_runless_asset_event(event)
    captured.tick()
    assert len(materializations(captured, ORDERS)) == 1


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
    assert len(materializations(captured, ORDERS)) == 1
    captured.tick()
    assert len(materializations(captured, ORDERS)) == 2


# -- the capture, not the run


def test_a_run_whose_window_succeeded_is_no_failure_of_the_capture(captured: Shop) -> None:
    shop = DbmazzResource.from_settings(Settings.from_env(captured.env))

    @dbmazz_assets(shop)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
        yield from dbmazz.capture(context)

    @dg.asset_check(asset=ORDERS, blocking=True)
    def never() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    job = dg.define_asset_job("all", tags=shop.run_tags, executor_def=dg.in_process_executor)
    definitions = dg.Definitions(assets=[tables], asset_checks=[never], jobs=[job], resources={"dbmazz": shop})
    for number in range(100, 104):
        order(captured, number)
        result = definitions.resolve_job_def("all").execute_in_process(instance=captured.instance, raise_on_error=False)
        assert not result.success
    ticked = captured.tick()
    assert not ticked.requests
    assert ticked.skipped is not None
    assert "made no progress" not in ticked.skipped
    order(captured, 200)
    (request,) = captured.tick().requests
    assert request.tags["dbmazz/reason"].startswith("changes of the captured tables")


def test_a_resource_with_the_slot_of_another_capture_is_refused(captured: Shop) -> None:
    shop = DbmazzResource.from_settings(Settings.from_env(captured.env))
    other = DbmazzResource.from_settings(Settings.from_env({**captured.env, "SOURCE_SLOT_NAME": "another"}))

    @dbmazz_assets(other)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
        yield from dbmazz.capture(context)

    order(captured, 100)
    result = dg.materialize([tables], resources={"dbmazz": shop}, instance=captured.instance, raise_on_error=False)
    assert not result.success
    assert f"the assets are those of slot another, and the resource captures slot {captured.slot}" in captured.log(
        result.run_id
    )
    assert len(materializations(captured, ORDERS)) == 1


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
    assert {check.check_name for check in result.get_asset_check_evaluations()} <= {"is_streaming"}
    captured.equal()
