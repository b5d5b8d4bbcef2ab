"""The sensor asks when there is something to capture and nobody is at it, and never stalls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import dagster as dg
import psycopg
import pytest

from dbmazz_core.errors import AuthenticationFailed, ConfigError
from dbmazz_dagster import DbmazzResource, build_dbmazz_sensor
from dbmazz_dagster.run_history import RunHistory
from tests.dagster.conftest import Shop


def order(shop: Shop, identity: int) -> None:
    shop.database.execute("INSERT INTO orders VALUES (%s, 1, 1, NULL)", identity)


def confirmed_lsn(shop: Shop) -> str:
    ((lsn,),) = shop.database.fetch(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", shop.slot
    )
    return str(lsn)


@pytest.fixture
def unfinished(captured: Shop) -> Iterator[dg.DagsterRun]:
    """A run of the slot that has started and not finished."""
    job = captured.definitions().resolve_job_def("dbmazz_capture")
    run = captured.instance.create_run_for_job(
        job, tags={"dbmazz/slot": captured.slot}, status=dg.DagsterRunStatus.STARTED
    )
    yield run
    captured.instance.delete_run(run.run_id)


def test_first_capture_is_requested(shop: Shop) -> None:
    ticked = shop.tick()
    (request,) = ticked.requests
    assert request.run_key == f"{shop.slot}:start:1"
    assert request.tags["dbmazz/slot"] == shop.slot
    assert shop.run(request=request).success
    shop.equal()


def test_nothing_is_requested_when_idle(captured: Shop) -> None:
    for _ in range(3):
        ticked = captured.tick()
        assert not ticked.requests
        assert ticked.skipped


def test_a_change_is_requested_and_captured(captured: Shop) -> None:
    captured.tick()
    order(captured, 100)
    (request,) = captured.tick().requests
    assert captured.run(request=request).success
    captured.equal()
    assert not captured.tick().requests


def test_cursor_shows_the_confirmed_lsn(captured: Shop) -> None:
    captured.tick()
    assert json.loads(captured.cursor or "")["confirmed_lsn"] == confirmed_lsn(captured)
    order(captured, 100)
    assert captured.run(request=captured.tick().requests[0]).success
    captured.tick()
    assert json.loads(captured.cursor or "")["confirmed_lsn"] == confirmed_lsn(captured)


def test_a_lost_or_strange_cursor_costs_nothing(captured: Shop) -> None:
    for cursor in (None, "", "16/B374D848", "[1]", '{"health_at": "yesterday"}'):
        captured.cursor = cursor
        assert not captured.tick().requests


def test_none_is_requested_while_a_run_is_unfinished(captured: Shop, unfinished: dg.DagsterRun) -> None:
    order(captured, 100)
    ticked = captured.tick()
    assert not ticked.requests
    assert unfinished.run_id in (ticked.skipped or "")


def test_a_run_of_another_slot_is_none_of_its_business(captured: Shop) -> None:
    job = captured.definitions().resolve_job_def("dbmazz_capture")
    captured.instance.create_run_for_job(job, tags={"dbmazz/slot": "other"}, status=dg.DagsterRunStatus.STARTED)
    order(captured, 100)
    assert captured.tick().requests


def test_a_run_whose_machine_went_away_does_not_block_forever(captured: Shop, unfinished: dg.DagsterRun) -> None:
    order(captured, 100)
    assert not captured.tick(abandoned_after_seconds=60).requests
    (request,) = captured.tick(abandoned_after_seconds=0).requests
    assert unfinished.run_id in request.tags["dbmazz/reason"]


def test_somebody_else_on_the_slot(captured: Shop) -> None:
    order(captured, 100)
    connection = psycopg.pq.PGconn.connect(
        psycopg.conninfo.make_conninfo(captured.database.url, replication="database").encode()
    )
    try:
        start = (
            f'START_REPLICATION SLOT "{captured.slot}" LOGICAL 0/0 '
            f"(proto_version '1', publication_names '{captured.slot}_pub')"
        )
        assert connection.exec_(start.encode()).status == psycopg.pq.ExecStatus.COPY_BOTH
        ticked = captured.tick()
        assert not ticked.requests
        assert str(connection.backend_pid) in (ticked.skipped or "")
    finally:
        connection.finish()


def test_again_after_a_failed_run(captured: Shop) -> None:
    order(captured, 100)
    (first,) = captured.tick().requests
    assert not captured.with_env(SINK_URL=str(captured.destination.parent)).run(request=first).success
    (second,) = captured.tick().requests
    assert second.run_key != first.run_key
    assert captured.run(request=second).success
    captured.equal()
    assert not captured.tick().requests


def test_repeated_failures_are_requested_less_and_less_often(captured: Shop) -> None:
    broken = captured.with_env(SINK_URL=str(captured.destination.parent))
    order(captured, 100)
    keys = set()
    for _ in range(2):
        (request,) = captured.tick().requests
        keys.add(request.run_key)
        broken.run(request=request)
    assert len(keys) == 2
    ticked = captured.tick()
    assert not ticked.requests
    assert "2 runs in a row" in (ticked.skipped or "")
    # A run that succeeds, by hand, ends the wait.
    assert captured.run().success
    order(captured, 101)
    assert captured.tick().requests


def test_run_keys_differ_even_where_runs_were_deleted(captured: Shop) -> None:
    order(captured, 100)
    broken = captured.with_env(SINK_URL=str(captured.destination.parent))
    requests, runs = [], []
    for _ in range(2):
        (request,) = captured.tick().requests
        requests.append(request.run_key)
        runs.append(broken.run(request=request).run_id)
    captured.instance.delete_run(runs[0])
    (third,) = captured.tick(minimum_interval_seconds=0, max_backoff_seconds=0).requests
    assert third.run_key not in requests


def test_unrelated_wal_is_not_requested_forever(captured: Shop) -> None:
    captured = captured.with_env(FLUSH_IDLE_WAL_BYTES="1MB")
    captured.database.execute("INSERT INTO unrelated SELECT i, repeat('x', 100) FROM generate_series(1, 500) i")
    assert not captured.tick(advance_after_bytes=1000).requests  # a window would not move the slot
    captured.database.execute("INSERT INTO unrelated SELECT i, repeat('x', 100) FROM generate_series(1, 9000) i")
    assert not captured.tick().requests  # not enough to be worth a window
    (request,) = captured.tick(advance_after_bytes=1000).requests
    before = confirmed_lsn(captured)
    assert captured.run(request=request).success
    assert confirmed_lsn(captured) != before
    assert not captured.tick(advance_after_bytes=100_000).requests


def test_a_failed_run_is_repeated_even_if_no_change_waits(captured: Shop) -> None:
    """A first snapshot may have been cut short, which no change in the slot tells."""
    broken = captured.with_env(SINK_URL=str(captured.destination.parent))
    assert not broken.run().success
    assert captured.tick().requests


def test_changed_tables_are_requested(captured: Shop) -> None:
    captured.tick()
    wider = captured.with_env(TABLES="public.customers, public.orders, public.unrelated")
    (request,) = wider.tick().requests
    assert wider.run(request=request).success
    assert not wider.tick().requests


def test_an_unreachable_server_is_a_skipped_tick_with_its_remedy(captured: Shop) -> None:
    gone = captured.with_env(SOURCE_URL="postgres://app:s3cret-word@127.0.0.1:1/shop")
    gone.tick()
    cursor = gone.cursor
    ticked = gone.tick()
    assert not ticked.requests
    assert "What to do" in (ticked.skipped or "")
    assert "s3cret-word" not in (ticked.skipped or "")
    assert gone.cursor == cursor


def test_a_wrong_password_fails_the_tick(captured: Shop) -> None:
    wrong = captured.database.url.replace(psycopg_password(captured.database.url), "wrong-s3cret")
    with pytest.raises(AuthenticationFailed) as error:
        captured.with_env(SOURCE_URL=wrong).tick()
    assert "wrong-s3cret" not in str(error.value)


def psycopg_password(url: str) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(url)["password"])


def test_a_setting_that_is_missing_when_the_tick_comes(captured: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOWHERE_URL", raising=False)
    resource = DbmazzResource(source_url=dg.EnvVar("NOWHERE_URL"), tables="orders")
    sensor = build_dbmazz_sensor(resource, job=captured.definitions().resolve_job_def("dbmazz_capture"))
    with pytest.raises(ConfigError) as error:
        sensor.evaluate_tick(dg.build_sensor_context(instance=captured.instance))
    assert error.value.object == "NOWHERE_URL"


def test_slot_health_is_a_check_without_a_run(captured: Shop) -> None:
    events = [e for e in captured.tick().events if isinstance(e, dg.AssetCheckEvaluation)]
    (health,) = events
    assert health.passed
    assert (health.asset_key, health.check_name) == (captured.checkpoint, "slot_health")
    assert health.metadata["wal_status"].value == "reserved"
    assert health.metadata["restart_lag_bytes"].value >= 0
    # Said once, not with every tick.
    assert not [e for e in captured.tick().events if isinstance(e, dg.AssetCheckEvaluation)]


def test_a_slot_that_vanished_fails_its_check(captured: Shop) -> None:
    captured.tick()
    captured.database.execute("SELECT pg_drop_replication_slot(%s)", captured.slot)
    (health,) = (e for e in captured.tick().events if isinstance(e, dg.AssetCheckEvaluation))
    assert not health.passed
    assert health.severity is dg.AssetCheckSeverity.ERROR


def test_a_slot_that_holds_back_much_wal_warns(captured: Shop) -> None:
    order(captured, 100)
    events = captured.tick(max_lag_bytes=1).events
    (health,) = (e for e in events if isinstance(e, dg.AssetCheckEvaluation))
    assert not health.passed
    assert health.severity is dg.AssetCheckSeverity.WARN


def test_nothing_to_capture_keeps_the_checkpoint_fresh(captured: Shop) -> None:
    materialized = [e for e in captured.tick().events if isinstance(e, dg.AssetMaterialization)]
    (event,) = materialized
    assert event.asset_key == captured.checkpoint
    assert event.metadata["changes"].value == 0


@pytest.mark.parametrize(("without_progress", "wait"), [(0, 0), (1, 0), (2, 30), (3, 60), (4, 120), (30, 900)])
def test_back_off(without_progress: int, wait: float) -> None:
    history = RunHistory(unfinished=None, last_failed="r", without_progress=without_progress, last_end=1000.0)
    assert history.seconds_to_wait(30, 900, now=1000.0) == wait
    assert history.seconds_to_wait(30, 900, now=1000.0 + wait) == 0


def test_a_run_selects_the_checkpoint_and_what_has_changed(captured: Shop) -> None:
    order(captured, 100)
    (request,) = captured.tick().requests
    orders = dg.AssetKey(["public", "orders"])
    assert request.asset_selection == [captured.checkpoint, orders]
    assert request.asset_check_keys == [
        dg.AssetCheckKey(orders, "is_streaming"),
        dg.AssetCheckKey(orders, "key_is_unique"),
    ]
    captured.database.execute("UPDATE customers SET name = 'new'")
    # Another change after the tick: it is captured and reported as well.
    captured.database.execute("INSERT INTO customers VALUES (1000, 'late')")
    result = captured.run(request=request)
    assert result.success
    assert dg.AssetKey(["public", "customers"]) in captured.materializations(result)
    captured.equal()


def test_a_run_of_the_first_capture_selects_all(shop: Shop) -> None:
    (request,) = shop.tick().requests
    assert request.asset_selection is None


def scheduled(shop: Shop) -> dg.RunRequest:
    schedule = shop.definitions().resolve_schedule_def("dbmazz_schedule")
    (request,) = schedule.evaluate_tick(dg.build_schedule_context(instance=shop.instance)).run_requests or []
    return request


def test_a_run_of_the_schedule_selects_what_has_changed_too(shop: Shop) -> None:
    request = scheduled(shop)
    assert request.asset_selection is None  # there is no slot yet
    assert shop.run(request=request).success
    request = scheduled(shop)
    assert (request.asset_selection, request.asset_check_keys) == ([shop.checkpoint], [])
    assert [*shop.materializations(shop.run(request=request))] == [shop.checkpoint]
    order(shop, 100)
    orders = dg.AssetKey(["public", "orders"])
    request = scheduled(shop)
    assert request.asset_selection == [shop.checkpoint, orders]
    assert {*shop.materializations(shop.run(request=request))} == {shop.checkpoint, orders}
    shop.equal()
    assert scheduled(replace(shop, options={"unchanged": "observe"})).asset_selection is None


def test_a_run_for_unrelated_wal_selects_the_checkpoint(captured: Shop) -> None:
    wal = captured.with_env(FLUSH_IDLE_WAL_BYTES="1MB")
    wal.database.execute("CREATE TABLE noise AS SELECT generate_series(1, 50000) AS n, repeat('x', 50)")
    (request,) = wal.tick(advance_after_bytes=1000).requests
    assert (request.asset_selection, request.asset_check_keys) == ([wal.checkpoint], [])


def test_a_run_of_one_changed_table_has_few_and_small_events(captured: Shop) -> None:
    """At most 25 events and 40 kB, whatever the number of tables."""
    order(captured, 100)
    result = captured.run(request=captured.tick().requests[0])
    events = captured.instance.all_logs(result.run_id)
    assert len(events) <= 25
    assert sum(len(dg.serialize_value(event)) for event in events) <= 40_000
