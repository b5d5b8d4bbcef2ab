"""The sensor beside `dbmazz follow`: it asks for no run, and reports what has changed, and that it is fresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dbmazz_dagster import sensor
from tests.dagster.conftest import Shop, key

ORDERS, CUSTOMERS = key("public", "orders"), key("public", "customers")


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def active(shop: Shop) -> bool:
    return bool(shop.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active", shop.slot))


@contextmanager
def following(shop: Shop) -> Iterator[subprocess.Popen[bytes]]:
    """`dbmazz follow` in a process of its own, from when its stream is open."""
    environment = {**os.environ, **shop.env}
    process = subprocess.Popen([sys.executable, "-m", "dbmazz_core.cli", "follow"], env=environment)
    try:
        wait(lambda: active(shop))
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def tick_until(shop: Shop, condition: Callable[[], object]) -> None:
    """Evaluate the sensor until something is true; it never asks for a run."""

    def ticked() -> object:
        tick = shop.tick()
        assert not tick.requests
        assert "is in use by server process" in (tick.skipped or "")
        return condition()

    wait(ticked)


def test_reports_tables_and_freshness_without_runs(captured: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor, "_MOVED_AFTER_S", 0.0)
    captured.tick()
    before = len(captured.events(captured.checkpoint))
    with following(captured):
        captured.database.execute("INSERT INTO orders VALUES (500, 1, 1, NULL)")
        tick_until(captured, lambda: len(captured.events(ORDERS)) == 2)
        assert len(captured.events(CUSTOMERS)) == 1
        tick_until(captured, lambda: len(captured.events(captured.checkpoint)) > before)
        assert "outside of this Dagster instance" in (captured.events(captured.checkpoint)[-1].description or "")
        captured.database.execute("INSERT INTO orders VALUES (501, 1, 1, NULL)")
        tick_until(captured, lambda: len(captured.events(ORDERS)) == 3)
        for _ in range(3):
            captured.tick()
        assert len(captured.events(ORDERS)) == 3
    assert captured.versions(ORDERS)[-1] == captured.changed_lsn("orders")
    captured.equal()
    assert captured.run().success
    assert len(captured.events(ORDERS)) == 3


def test_slot_that_stands_still_is_not_fresh(captured: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensor, "_REPEAT_AFTER_S", 0.0)
    captured.env |= {"FLUSH_IDLE_WAL_BYTES": "1MB"}
    with following(captured) as process:
        tick_until(captured, lambda: True)
        process.send_signal(signal.SIGSTOP)
        try:
            captured.database.execute(
                "SET LOCAL synchronous_commit = on;"  # the server's WAL position is that of flushed WAL
                "SELECT pg_logical_emit_message(true, 'filler', repeat('x', 100000)) FROM generate_series(1, 40)"
            )
            captured.tick()
            before = len(captured.events(captured.checkpoint))
            for _ in range(3):
                captured.tick()
            assert len(captured.events(captured.checkpoint)) == before
        finally:
            process.send_signal(signal.SIGCONT)


def test_no_run_while_it_is_between_two_streams(captured: Shop) -> None:
    """The slot is free while `follow` copies a table, but the lock on its windows is held."""
    with captured.database.connect() as connection:
        connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"dbmazz window {captured.slot}"])
        captured.database.execute("INSERT INTO orders VALUES (500, 1, 1, NULL)")
        tick = captured.tick()
        assert not tick.requests
        assert f"server process {connection.info.backend_pid}" in (tick.skipped or "")
    assert captured.tick().requests
