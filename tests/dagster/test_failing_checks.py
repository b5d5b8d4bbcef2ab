"""A run that failed behind its window is no failure of the capture, and one that failed in its window is."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from tests.dagster.conftest import Shop, key
from tests.dagster.processes import JOB, execute

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")
CHECKS = ("dagster", "job", "execute", "-m", "tests.dagster.locations.failing_checks", "-j")


def last_run(shop: Shop) -> dg.DagsterRun:
    (run,) = shop.instance.get_runs(limit=1)
    return run


@pytest.mark.parametrize("check", ["asset_check", "multi_asset_check"])
def test_blocking_checks_of_a_user_fail_behind_every_window(captured: Shop, check: str) -> None:
    for number in range(3):
        captured.database.execute(f"INSERT INTO orders VALUES ({100 + number}, 1, 1, NULL)")
        (request,) = captured.tick().requests
        execute(captured, *CHECKS, check, "--tags", json.dumps(request.tags), fails=True)
        assert last_run(captured).status is dg.DagsterRunStatus.FAILURE
        assert captured.versions(ORDERS)[-1] == captured.changed_lsn("orders")
    assert len(captured.versions(ORDERS)) == 4
    assert len(captured.versions(CUSTOMERS)) == 1
    captured.equal()
    # The source is idle: nothing is requested, and nothing is put off.
    for _ in range(3):
        idle = captured.tick()
        assert not idle.requests
        assert "no WAL since" in (idle.skipped or "") or "no changes" in (idle.skipped or "")
    captured.database.execute("INSERT INTO orders VALUES (200, 1, 1, NULL)")
    (request,) = captured.tick().requests
    assert request.tags["dbmazz/reason"].startswith("changes of the captured tables")


def test_a_re_execution_whose_window_fails_is_a_failure(captured: Shop) -> None:
    """Dagster gives a re-executed run the tags of its parent, also those of the window that succeeded there."""
    captured.database.execute("INSERT INTO orders VALUES (100, 1, 1, NULL)")
    execute(captured, *CHECKS, "asset_check", fails=True)
    parent = last_run(captured)
    assert parent.tags["dbmazz/end_lsn"]
    tags = {name: value for name, value in parent.tags.items() if name.startswith("dbmazz/")}
    broken = {"SINK_URL": str(captured.destination.parent)}
    execute(captured, *JOB, "--tags", json.dumps(tags), **broken, fails=True)
    (request,) = captured.tick().requests
    assert request.tags["dbmazz/reason"] == f"run {last_run(captured).run_id} did not succeed"
