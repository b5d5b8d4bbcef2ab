"""Dagster's commands in processes of their own, and the moments at which they are met."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from tests.dagster.conftest import Shop

ROOT = Path(__file__).parents[2]
#: One window of the definitions that the environment describes.
JOB = ("dagster", "job", "execute", "-m", "dbmazz_dagster.definitions", "-j", "dbmazz_capture")


def dagster_home(shop: Shop) -> Path:
    return Path(shop.instance.root_directory)


@contextmanager
def running(shop: Shop, *arguments: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module in a session of its own; whatever is left of it is killed at the end."""
    log = dagster_home(shop).parent / "process.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **shop.env, "DAGSTER_HOME": str(dagster_home(shop)), **env},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text(errors="replace")[-5000:])  # noqa: T201 - what the process said about it
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the session that was started here, by its id
        process.wait()


def execute(shop: Shop, *arguments: str, fails: bool = False, **env: str) -> None:
    """Run a Python module to its end; it succeeds, or fails if that is expected."""
    with running(shop, *arguments, **env) as process:
        assert (process.wait(timeout=90) != 0) == fails


def until(happened: Callable[[], object], timeout: float = 90) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def backlog(shop: Shop) -> None:
    """Enough for hundreds of flushes, some seconds: inserts, updates and deletes in transactions of 560 changes."""
    with shop.database.connect() as connection:
        for first in range(1000, 101_000, 400):
            connection.execute(
                f"""
                INSERT INTO orders SELECT i, 1, 1, repeat('x', 200)
                    FROM generate_series({first}, {first + 399}) i;
                UPDATE orders SET amount = 2 WHERE id BETWEEN {first} AND {first + 119};
                DELETE FROM orders WHERE id BETWEEN {first + 360} AND {first + 399};
                """.encode()
            )


def confirmed(shop: Shop) -> object:
    query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    return shop.database.fetch(query, shop.slot)


def wait_until_flushed(shop: Shop, before: object) -> None:
    """A window has committed and confirmed something, and is not through."""
    until(lambda: confirmed(shop) != before)


def is_streaming(shop: Shop) -> bool:
    """Whether a walsender sends the slot's changes."""
    return bool(shop.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active", shop.slot))


@contextmanager
def runs_locked(shop: Shop) -> Iterator[None]:
    """Nobody can write to Dagster's run storage, for at most the 30 s that Dagster waits for SQLite.

    A worker then stands still where it records the end of its window, after the commit and before any event.
    """
    with closing(sqlite3.connect(dagster_home(shop) / "history" / "runs.db", isolation_level=None)) as storage:
        storage.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            storage.execute("ROLLBACK")


def worker_pid(shop: Shop, run_id: str) -> int:
    """The process of a run, as Dagster's own event names it."""
    for record in shop.instance.get_records_for_run(run_id).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.is_engine_event and "pid" in event.engine_event_data.metadata:
            return int(str(event.engine_event_data.metadata["pid"].value))
    raise AssertionError("no event names the process")
