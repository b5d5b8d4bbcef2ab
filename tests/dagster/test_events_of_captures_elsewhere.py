"""Changes that came into the file without this Dagster: the next tick reports them once, whatever the cursor says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import pytest

from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from tests.dagster.conftest import Shop, key
from tests.dagster.processes import execute, running, until

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")
SHELL = ("dbmazz_core.cli", "capture", "--json")
DAEMON = ("dagster._daemon", "run", "-w", "workspace.yaml")


def change_and_capture(shop: Shop) -> None:
    """Orders change, and somebody runs `dbmazz capture` in a shell."""
    shop.database.execute("UPDATE orders SET amount = amount + 1")
    execute(shop, *SHELL)


def ticks(shop: Shop) -> int:
    """How many ticks of the sensor Dagster's daemon has finished."""
    states = [state for state in shop.instance.all_instigator_state() if state.instigator_name == "dbmazz_sensor"]
    return sum(
        tick.is_completed
        for state in states
        for tick in shop.instance.get_ticks(state.instigator_origin_id, state.selector_id)
    )


def run_daemon(shop: Shop) -> None:
    """Run Dagster's daemon for three ticks of the sensor."""
    before = ticks(shop)
    with running(shop, *DAEMON, DBMAZZ_SENSOR_INTERVAL_S="1"):
        until(lambda: ticks(shop) >= before + 3)


def test_a_capture_from_a_shell_is_reported_by_the_daemon_once(captured: Shop) -> None:
    """The daemon has seen the file before, and keeps the cursor of its ticks; the first tick reports, others do not."""
    run_daemon(captured)
    assert len(captured.versions(ORDERS)) == 1
    runs = captured.instance.get_runs_count()
    change_and_capture(captured)
    run_daemon(captured)
    assert captured.versions(ORDERS)[1:] == [captured.changed_lsn("orders")]
    reported = captured.events(ORDERS)[1]
    assert reported.description == "changed outside of this Dagster instance, or by a run that failed"
    assert len(captured.versions(CUSTOMERS)) == 1
    assert captured.instance.get_runs_count() == runs
    captured.equal()


def test_a_new_storage_learns_all_tables_from_the_daemon(captured: Shop) -> None:
    """A quiet source, a file, and a Dagster that has never heard of it."""
    with dg.instance_for_test() as instance:
        new = replace(captured, instance=instance, cursor=None)
        run_daemon(new)
        assert new.versions(ORDERS) == [captured.changed_lsn("orders")]
        assert new.versions(CUSTOMERS) == [captured.changed_lsn("customers")]
        assert instance.get_runs_count() == 0


@pytest.mark.parametrize(
    "edited",
    [
        "",
        "garbage",
        "[1, 2]",
        '"text"',
        '{"destination": 7, "confirmed_lsn": [], "tables": null, "slot": {}, "health": 1}',
        '{"confirmed_lsn": "FFFFFFFF/FFFFFFFF", "server_lsn": "FFFFFFFF/FFFFFFFF"}',
        '{"confirmed_lsn": "0/1", "server_lsn": "not an LSN"}',
        '{"caught_up_at": 1e18, "health_at": NaN}',
    ],
)
def test_an_edited_cursor_loses_and_invents_nothing(captured: Shop, edited: str) -> None:
    captured.tick()
    for cursor in (edited, json.dumps({**json.loads(captured.cursor or ""), **_entries(edited)})):
        captured.cursor = cursor
        for _ in range(2):
            captured.tick()
        assert len(captured.versions(ORDERS)) == 1
    change_and_capture(captured)
    captured.cursor = edited
    for _ in range(2):
        captured.tick()
    assert captured.versions(ORDERS)[1:] == [captured.changed_lsn("orders")]
    assert len(captured.versions(CUSTOMERS)) == 1


def _entries(cursor: str) -> dict[str, object]:
    try:
        value = json.loads(cursor or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


@pytest.fixture
def other(captured: Shop) -> Iterator[Shop]:
    """Another slot, of another table, that captures into the same file."""
    captured.database.execute("ALTER TABLE unrelated ADD PRIMARY KEY (id)")
    slot = f"{captured.slot}_2"
    shop = captured.with_env(TABLES="public.unrelated", SOURCE_SLOT_NAME=slot, SOURCE_PUBLICATION_NAME=slot)
    try:
        execute(shop, *SHELL)
        yield shop
    finally:
        Pipeline(Settings.from_env(shop.env)).teardown()


def test_the_cursor_of_another_slot_of_the_file_loses_nothing(captured: Shop, other: Shop) -> None:
    """The other sensor has seen the file as it is now; this one has not."""
    captured.tick()
    change_and_capture(captured)
    other.cursor = None
    other.tick()
    captured.cursor = other.cursor
    for _ in range(2):
        assert not captured.tick().requests
    assert captured.versions(ORDERS)[1:] == [captured.changed_lsn("orders")]
    assert len(captured.versions(CUSTOMERS)) == 1


@pytest.mark.parametrize("at", [1e12, float("nan"), float("inf"), "yesterday"])
def test_times_in_an_edited_cursor_do_not_silence_the_sensor(captured: Shop, at: object) -> None:
    """The checkpoint of a quiet slot is materialized again, and its health told."""
    captured.tick()
    captured.cursor = json.dumps({**json.loads(captured.cursor or ""), "caught_up_at": at, "health_at": at})
    assert {type(event) for event in captured.tick().events} == {dg.AssetCheckEvaluation, dg.AssetMaterialization}
    assert not captured.tick().events
