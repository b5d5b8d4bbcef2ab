"""Assets of one slot and a resource of another: an error says so before anything is captured or materialized."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

from typing import Any

import dagster as dg
import pytest

from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DbmazzResource, build_dbmazz_sensor, dbmazz_assets
from tests.dagster.conftest import Shop
from tests.dagster.processes import confirmed, execute

MIXED = ("dagster", "job", "execute", "-m", "tests.dagster.locations.mixed_slots", "-j", "mixed")


def run_mixed(shop: Shop) -> None:
    """A run of the mixed-up definitions fails, and says why and what to do."""
    execute(shop, *MIXED, fails=True, TEST_OTHER_SLOT="another")
    (run,) = shop.instance.get_runs(limit=1)
    assert run.status is dg.DagsterRunStatus.FAILURE
    log = shop.log(run.run_id)
    assert f"the assets are those of slot another, and the resource captures slot {shop.slot}" in log
    assert "give both the same slot" in log


def materialized(shop: Shop) -> dict[dg.AssetKey, int]:
    return {key: count for key in shop.instance.all_asset_keys() if (count := len(shop.events(key)))}


def test_a_run_changes_neither_source_nor_file_nor_assets(shop: Shop) -> None:
    run_mixed(shop)
    assert not shop.destination.exists()
    assert not shop.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name IN (%s, 'another')", shop.slot)
    assert not shop.database.fetch("SELECT FROM pg_publication")
    assert not materialized(shop)

    assert shop.run().success
    shop.database.execute("UPDATE orders SET amount = 5")
    before = confirmed(shop), shop.changed_lsn("orders"), materialized(shop)
    run_mixed(shop)
    assert (confirmed(shop), shop.changed_lsn("orders"), materialized(shop)) == before
    assert shop.tick().requests
    assert shop.run().success
    shop.equal()


def test_a_sensor_on_the_assets_of_another_slot_does_not_load(shop: Shop) -> None:
    """It would never find the runs that it requests: they have the tag of the other slot."""
    mine = DbmazzResource.from_settings(Settings.from_env(shop.env))
    other = DbmazzResource.from_settings(Settings.from_env({**shop.env, "SOURCE_SLOT_NAME": "another"}))

    @dbmazz_assets(other)
    def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
        yield from dbmazz.capture(context)

    with pytest.raises(ConfigError, match=f"of slot another, and the resource captures slot {shop.slot}") as error:
        build_dbmazz_sensor(mine, target=tables)
    assert "build_dbmazz_sensor(resource, target=assets)" in error.value.remedy
    assert build_dbmazz_sensor(other, target=tables).name == "another_sensor"
