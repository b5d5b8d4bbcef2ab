"""Runs in processes of their own: killed, terminated, and driven by Dagster's daemon."""

from __future__ import annotations

import os
import signal
import time

import dagster as dg
import pytest

from tests.dagster.conftest import Shop, key
from tests.dagster.processes import JOB, backlog, confirmed, running, until, wait_until_flushed, worker_pid


def test_sigkill_in_the_middle_of_a_window(captured: Shop) -> None:
    backlog(captured)
    before = confirmed(captured)
    with running(captured, *JOB, FLUSH_SIZE="400") as process:
        wait_until_flushed(captured, before)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    # Nobody told Dagster: the run looks as if it went on. The sensor takes it for dead when it stays silent.
    until(lambda: captured.tick(abandoned_after_seconds=0.5).requests)
    result = captured.run()
    assert result.success
    resumed = captured.materializations(result)[captured.checkpoint]["changes"]
    assert 0 < resumed < 140_000
    captured.equal()


def test_sigkill_in_the_first_snapshot(shop: Shop) -> None:
    shop.database.execute("INSERT INTO orders SELECT i, 1, 1, repeat('x', 200) FROM generate_series(1000, 400000) i")
    slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s"
    with running(shop, *JOB, SNAPSHOT_CHUNK_SIZE="10000") as process:
        until(lambda: shop.database.fetch(slot, shop.slot))
        process.kill()
        process.wait()
    until(lambda: shop.run().success)
    shop.equal()


def test_sigterm_ends_the_first_snapshot(shop: Shop) -> None:
    shop.database.execute("INSERT INTO orders SELECT i, 1, 1, repeat('x', 500) FROM generate_series(1000, 1000000) i")
    slot = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s"
    with running(shop, *JOB, SNAPSHOT_CHUNK_SIZE="10000") as process:
        until(lambda: shop.database.fetch(slot, shop.slot))
        process.terminate()
        assert process.wait(timeout=60) != 0
    (run,) = shop.instance.get_runs(limit=1)
    assert run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    assert "stop_requested" in shop.log(run.run_id)
    shop.database.execute("DELETE FROM orders WHERE id > 2000")
    result = shop.run()
    assert result.success
    assert shop.materializations(result)[key("public", "orders")]["snapshot_rows"] < 2000
    shop.equal()


def test_sigterm_ends_at_a_flush(captured: Shop) -> None:
    backlog(captured)
    before = confirmed(captured)
    with running(captured, *JOB, FLUSH_SIZE="400") as process:
        wait_until_flushed(captured, before)
        process.terminate()
        assert process.wait(timeout=60) != 0
    (run,) = captured.instance.get_runs(limit=1)
    assert run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    assert "stop_requested" in captured.log(run.run_id)
    assert captured.run().success
    captured.equal()


@pytest.mark.timeout(240)
def test_daemon_captures_and_resumes_after_sigkill(captured: Shop) -> None:
    """Sensor, queue, code server and run worker as they are in production."""

    def runs() -> list[dg.DagsterRun]:
        return list(captured.instance.get_runs(dg.RunsFilter(tags={"dbmazz/slot": captured.slot})))

    def finished(status: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
        return [run for run in runs() if run.status is status]

    done = len(finished(dg.DagsterRunStatus.SUCCESS))
    daemon = ("dagster._daemon", "run", "-w", "workspace.yaml")
    with running(captured, *daemon, FLUSH_SIZE="400", DBMAZZ_SENSOR_INTERVAL_S="1"):
        backlog(captured)
        until(lambda: any(run.status is dg.DagsterRunStatus.STARTED for run in runs()))
        (run,) = (r for r in runs() if r.status is dg.DagsterRunStatus.STARTED)
        before = confirmed(captured)
        wait_until_flushed(captured, before)
        os.kill(worker_pid(captured, run.run_id), signal.SIGKILL)
        until(lambda: finished(dg.DagsterRunStatus.FAILURE))
        assert finished(dg.DagsterRunStatus.FAILURE)[0].run_id == run.run_id
        until(lambda: len(finished(dg.DagsterRunStatus.SUCCESS)) > done)
        captured.database.execute("UPDATE customers SET name = 'last'")
        until(lambda: len(finished(dg.DagsterRunStatus.SUCCESS)) > done + 1)
        # Then it is quiet.
        until(lambda: not [r for r in runs() if not r.is_finished])
        settled = len(runs())
        time.sleep(5)
        assert len(runs()) == settled
    captured.equal()
    for table in ("orders", "customers"):
        versions = captured.versions(key("public", table))
        assert len(versions) == len(set(versions))
        assert versions[-1] == captured.changed_lsn(table)
    assert len(captured.versions(key("public", "customers"))) == 2


def test_terminate_from_the_ui_ends_at_a_flush(captured: Shop) -> None:
    backlog(captured)
    before = confirmed(captured)
    daemon = ("dagster._daemon", "run", "-w", "workspace.yaml")
    with running(captured, *daemon, FLUSH_SIZE="400", DBMAZZ_SENSOR_INTERVAL_S="1"):
        started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
        until(lambda: captured.instance.get_runs(started))
        (run,) = captured.instance.get_runs(started)
        wait_until_flushed(captured, before)
        assert captured.instance.run_launcher.terminate(run.run_id)
        canceled = dg.RunsFilter(run_ids=[run.run_id], statuses=[dg.DagsterRunStatus.CANCELED])
        until(lambda: captured.instance.get_runs(canceled))
    assert "stop_requested" in captured.log(run.run_id)
    assert captured.run().success
    captured.equal()
