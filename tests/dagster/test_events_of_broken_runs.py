"""Runs that end in the middle: each table that has changed is materialized once, by the run or by the next tick."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from dbmazz_core.pipeline import Pipeline
from dbmazz_core.table_ref import TableRef
from tests.dagster.conftest import Shop, key
from tests.dagster.processes import (
    JOB,
    backlog,
    confirmed,
    execute,
    is_streaming,
    running,
    runs_locked,
    until,
    wait_until_flushed,
)

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")
#: A window that stands still behind its commit.
STOPPING = ("dagster", "job", "execute", "-m", "tests.dagster.locations.stops_between_events", "-j", "stopping")
#: Seconds of silence after which a tick takes a run for dead; nobody tells Dagster of a killed worker.
SILENCE = 0.5


def tick(shop: Shop) -> None:
    """One tick that takes silent runs for dead."""
    until(lambda: "has not finished" not in (shop.tick(abandoned_after_seconds=SILENCE).skipped or ""))


def rows(shop: Shop) -> int:
    ((count,),) = shop.in_file("SELECT count(*) FROM public.orders")
    return int(count)


def last_run(shop: Shop) -> dg.DagsterRun:
    (run,) = shop.instance.get_runs(limit=1)
    return run


def assert_events_fit(shop: Shop, orders: int, customers: int) -> None:
    """The tables have so many materializations, each of another version, and the last one is what the file has."""
    for asset, table, count in ((ORDERS, "orders", orders), (CUSTOMERS, "customers", customers)):
        versions = shop.versions(asset)
        assert len(versions) == len(set(versions)) == count, (table, versions)
        assert versions[-1] == shop.changed_lsn(table), table


def test_walsender_killed_behind_a_flush(captured: Shop) -> None:
    """The run that fails reports; the next tick and the next window have nothing to add."""
    backlog(captured)
    before = confirmed(captured)
    with running(captured, *JOB, FLUSH_SIZE="400") as process:
        wait_until_flushed(captured, before)
        captured.database.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", captured.slot
        )
        assert process.wait(timeout=60) != 0
    run = last_run(captured)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert "ReplicationInterrupted" in captured.log(run.run_id)
    assert 10 < rows(captured) < 80_000
    assert_events_fit(captured, orders=2, customers=1)
    assert captured.events(ORDERS)[-1].description == "changed by a window that failed later"
    captured.tick()
    assert_events_fit(captured, orders=2, customers=1)
    assert captured.run().success
    assert_events_fit(captured, orders=3, customers=1)
    captured.tick()
    assert_events_fit(captured, orders=3, customers=1)
    captured.equal()


@pytest.mark.parametrize("reporter", ["tick", "window"])
def test_worker_killed_behind_a_flush(captured: Shop, reporter: str) -> None:
    backlog(captured)
    before = confirmed(captured)
    with running(captured, *JOB, FLUSH_SIZE="400") as process:
        wait_until_flushed(captured, before)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert 10 < rows(captured) < 80_000
    assert len(captured.versions(ORDERS)) == 1
    if reporter == "tick":
        tick(captured)
        assert_events_fit(captured, orders=2, customers=1)
    assert captured.run().success
    found = 3 if reporter == "tick" else 2
    assert_events_fit(captured, orders=found, customers=1)
    captured.tick()
    assert_events_fit(captured, orders=found, customers=1)
    captured.equal()


def test_worker_killed_between_its_last_commit_and_its_first_event(captured: Shop) -> None:
    """Everything is in the file, and the run has no word of it: neither an event nor the mark of its window's end."""
    captured.database.execute("UPDATE customers SET name = 'new'")
    backlog(captured)
    with running(captured, *JOB) as process:
        until(lambda: is_streaming(captured))
        with runs_locked(captured):
            until(lambda: not is_streaming(captured), timeout=25)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    captured.equal()
    run = last_run(captured)
    assert run.status is dg.DagsterRunStatus.STARTED
    assert not run.tags["dbmazz/end_lsn"]
    assert [len(captured.versions(asset)) for asset in (ORDERS, CUSTOMERS)] == [1, 1]
    tick(captured)
    assert_events_fit(captured, orders=2, customers=2)
    assert captured.run().success
    tick(captured)
    assert_events_fit(captured, orders=2, customers=2)


@pytest.mark.parametrize("events", [0, 1])
def test_worker_killed_between_its_events(captured: Shop, events: int, tmp_path: Path) -> None:
    """What the run has reported is not reported again; what it still had in its hands is."""
    captured.database.execute("UPDATE customers SET name = 'new'; UPDATE orders SET amount = 5")
    stopped = tmp_path / "stopped"
    with running(captured, *STOPPING, TEST_EVENTS=str(events), TEST_STOPPED=str(stopped)) as process:
        until(stopped.exists)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    captured.equal()
    assert [len(captured.versions(asset)) for asset in (CUSTOMERS, ORDERS)] == [1 + events, 1]
    tick(captured)
    assert_events_fit(captured, orders=2, customers=2)
    tick(captured)
    assert captured.run().success
    assert_events_fit(captured, orders=2, customers=2)


def test_a_run_that_starts_while_a_tick_looks_into_the_slot_reports_its_changes_itself(
    captured: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tick, which has seen no run, takes none of the changes that the run has committed meanwhile for owed."""
    stopped = tmp_path / "stopped"
    waiting_tables = Pipeline.waiting_tables
    with ExitStack() as stack:

        def slowly(self: Pipeline) -> frozenset[TableRef] | None:
            env = {"TEST_EVENTS": "0", "TEST_STOPPED": str(stopped)}
            process = stack.enter_context(running(captured, *STOPPING, **env))
            until(stopped.exists)
            stack.callback(process.wait, timeout=60)
            stack.callback(stopped.unlink)
            return waiting_tables(self)

        captured.database.execute("UPDATE orders SET amount = 5")
        with monkeypatch.context() as patch:
            patch.setattr(Pipeline, "waiting_tables", slowly)
            captured.tick()
        assert stopped.exists()
    assert last_run(captured).status is dg.DagsterRunStatus.SUCCESS
    captured.tick()
    assert_events_fit(captured, orders=2, customers=1)


def test_a_deleted_run_leaves_what_it_has_reported(captured: Shop) -> None:
    """Dagster deletes the run and its events, and keeps the last materialization of each asset beside the asset."""
    captured.database.execute("UPDATE orders SET amount = 5")
    execute(captured, *JOB)
    run, version = last_run(captured), captured.versions(ORDERS)[-1]
    captured.instance.delete_run(run.run_id)
    assert len(captured.versions(ORDERS)) == 1
    (record,) = captured.instance.get_asset_records([ORDERS])
    last = record.asset_entry.last_materialization
    assert last is not None
    assert last.run_id == run.run_id
    captured.cursor = None
    for _ in range(2):
        captured.tick()
    assert captured.run().success
    assert len(captured.versions(ORDERS)) == 1
    assert version == captured.changed_lsn("orders")
