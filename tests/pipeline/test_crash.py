"""Killed, cut off, restarted: the next capture goes on, and nothing is lost or doubled."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.model.policies import Mode
from tests.support.lab import Lab, toast
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database
from tests.support.proxy_fixture import Proxy
from tests.support.worker_process import Worker

TABLES = ("t", "bag")
SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, big text); CREATE TABLE bag (x int, v text);"
    f"INSERT INTO t SELECT i, 0, CASE WHEN i % 50 = 0 THEN v END FROM generate_series(1, 3000) i, {toast('t')} v(v);"
    "INSERT INTO bag SELECT i % 10, repeat('x', 200) FROM generate_series(1, 3000) i"
)


def work(lab: Lab, transactions: int = 40, size: int = 300) -> None:
    """Transactions of every kind of change."""
    statements = []
    for n in range(transactions):
        statements.append(
            f"INSERT INTO t SELECT last + i, {n}, repeat(md5(i::text), 10) FROM generate_series(1, {size}) i,"
            " (SELECT greatest(max(id), 10000) FROM t) AS t (last);"
            f"UPDATE t SET n = n + 1 WHERE id % 40 = {n % 40}; UPDATE t SET id = -id WHERE id = {50 * n + 50};"
            f"DELETE FROM t WHERE id % 97 = {n % 97}; INSERT INTO bag SELECT {n % 10}, 'y' FROM generate_series(1, 50);"
            f"DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE x = {n % 10} LIMIT 20)"
        )
    lab.transactions(*statements)


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def in_time(crash: Callable[[], bool]) -> None:
    """Crash something until it was in time: what had finished before proves nothing.

    Args:
        crash: Does its work anew each time; whether the crash met it.
    """
    for _ in range(8):
        if crash():
            return
    pytest.fail("it had finished each time before the crash")


def killed(worker: Worker) -> bool:
    """Kill it; whether it was still running."""
    worker.process.kill()
    return worker.end()[0] == -signal.SIGKILL


def broke(worker: Worker) -> bool:
    """Whether it ended with an error that says what to do; False if it had finished before."""
    code, said = worker.end()
    assert code == 0 or (code == 3 and "what to do" in said), said
    assert "Traceback" not in said
    return code == 3


def streaming(lab: Lab) -> bool:
    return bool(
        lab.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s AND active", lab.slot)
        and lab.database.fetch(
            "SELECT FROM pg_stat_replication WHERE application_name = 'dbmazz' AND state <> 'startup'"
        )
    )


@pytest.mark.parametrize("moment", ["stream:1", "stream:3", "snapshot:2", "snapshot:4"])
def test_killed_right_after_a_commit_and_before_it_is_confirmed(lab: Lab, moment: str) -> None:
    lab.execute(SETUP)
    if moment.startswith("stream"):
        lab.capture()
    work(lab)
    code, _ = Worker(lab, DBMAZZ_TEST_DIE_AT=moment).end()
    assert code == -signal.SIGKILL
    if moment.startswith("stream"):
        assert lab.confirmed <= lab.checkpoint
    work(lab, transactions=2)
    lab.capture_and_compare(*TABLES)


@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, pytest.param(Mode.CHANGELOG, marks=pytest.mark.slow)])
def test_killed_while_what_went_is_kept(lab: Lab, mode: Mode) -> None:
    lab.execute(SETUP)
    work(lab, transactions=3)
    kept = lab.kept(mode)
    code, _ = Worker(lab, MODE=mode.value, DBMAZZ_TEST_DIE_AT="snapshot:2").end()
    assert code == -signal.SIGKILL
    kept.capture()
    work(lab, transactions=15)
    code, _ = Worker(lab, MODE=mode.value, DBMAZZ_TEST_DIE_AT="stream:2").end()
    assert code == -signal.SIGKILL

    def crash() -> bool:
        work(lab, transactions=1, size=40_000)
        worker = Worker(lab, MODE=mode.value, FLUSH_MAX_BYTES="1MB")
        wait_for(lambda: streaming(lab) or worker.process.poll() is not None)
        time.sleep(0.3)
        return killed(worker)

    in_time(crash)
    kept.capture_and_compare(*TABLES)
    once = {
        Mode.SOFT_DELETE: "SELECT id FROM public.t GROUP BY id HAVING count(*) > 1",
        Mode.CHANGELOG: "SELECT 1 FROM public.t WHERE _dbmazz_op <> 'snapshot' "
        "GROUP BY _dbmazz_commit_lsn, _dbmazz_ordinal HAVING count(*) > 1",
    }
    assert kept.rows(once[mode]) == []


def test_killed_again_and_again_at_any_moment(lab: Lab) -> None:
    lab.execute(SETUP)
    moments = random.Random(7)

    def crash() -> bool:
        work(lab, transactions=15)
        worker = Worker(lab)
        time.sleep(moments.uniform(0.5, 1.6))
        return killed(worker)

    for _ in range(4):
        in_time(crash)
    lab.capture_and_compare(*TABLES)


def test_killed_in_the_middle_of_a_large_transaction(lab: Lab) -> None:
    lab.execute(SETUP)
    lab.capture()
    large = "SELECT count(*) FROM public.t WHERE id > 10000"

    def crash() -> bool:
        """In the middle: the rows are not there."""
        before = lab.rows(large)
        work(lab, transactions=1, size=60_000)
        worker = Worker(lab, FLUSH_MAX_BYTES="1MB")
        wait_for(lambda: streaming(lab) or worker.process.poll() is not None)
        time.sleep(0.3)
        met = killed(worker)
        assert lab.rows(large) in (before, lab.database.fetch(large))
        return met and lab.rows(large) == before

    in_time(crash)
    lab.capture_and_compare(*TABLES)


@pytest.mark.parametrize("after", [20_000, 400_000, 1_500_000])
def test_the_connection_breaks_in_the_stream(lab: Lab, proxy: Proxy, after: int) -> None:
    lab.execute(SETUP)
    lab.capture()
    sent = "SELECT sum(coalesce(pg_wal_lsn_diff(sent_lsn, %s), 0)) FROM pg_stat_replication WHERE state = 'streaming'"

    def crash() -> bool:
        work(lab)
        start = str(lab.confirmed)
        worker = Worker(lab, url=proxy.url(lab.database))
        with lab.database.connect() as connection:

            def is_far() -> bool:
                ((bytes_sent,),) = connection.execute(sent, [start]).fetchall()
                return worker.process.poll() is not None or (bytes_sent or 0) > after

            wait_for(is_far)
        proxy.cut()
        return broke(worker)

    in_time(crash)
    lab.capture_and_compare(*TABLES)


def copying(lab: Lab, **settings: str) -> Worker:
    """A worker that copies the tables anew, waited for until it does."""
    lab.path.unlink(missing_ok=True)
    slots = "FROM pg_replication_slots WHERE slot_name = %s"
    wait_for(lambda: not lab.database.fetch(f"SELECT {slots} AND active", lab.slot))
    lab.database.fetch(f"SELECT pg_drop_replication_slot(slot_name) {slots}", lab.slot)
    worker = Worker(lab, **settings)  # type: ignore[arg-type]
    with lab.database.connect() as connection:
        copies = "SELECT 1 FROM pg_stat_progress_copy"
        wait_for(lambda: worker.process.poll() is not None or connection.execute(copies).fetchall())
    return worker


def test_the_connections_break_in_the_snapshot(lab: Lab, proxy: Proxy) -> None:
    lab.execute(SETUP + "; INSERT INTO bag SELECT 5, repeat('x', 1000) FROM generate_series(1, 50000)")

    def crash() -> bool:
        worker = copying(lab, url=proxy.url(lab.database))
        proxy.cut()
        return broke(worker)

    in_time(crash)
    work(lab, transactions=3)
    lab.capture_and_compare(*TABLES)


def test_the_network_stalls_and_comes_back(lab: Lab, proxy: Proxy) -> None:
    lab.execute(SETUP)
    lab.capture()
    work(lab)
    worker = Worker(lab, url=proxy.url(lab.database))
    wait_for(lambda: streaming(lab) or worker.process.poll() is not None)
    proxy.stall()
    time.sleep(1)
    proxy.resume()
    code, said = worker.end()
    assert code == 0, said
    lab.capture_and_compare(*TABLES)


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that tests crash."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        yield server


@pytest.fixture
def crashing(own_server: EmbeddedPostgres, duckdb_path: Path) -> Lab:
    return Lab(create_database(own_server), duckdb_path)


def test_the_server_crashes_in_the_stream(crashing: Lab) -> None:
    lab, server = crashing, crashing.database.server
    lab.execute(SETUP)
    lab.capture()
    for seconds in (0.0, 0.1):

        def crash(seconds: float = seconds) -> bool:
            work(lab)
            worker = Worker(lab)
            wait_for(lambda: streaming(lab) or worker.process.poll() is not None)
            time.sleep(seconds)
            server.restart("immediate")
            return broke(worker)

        in_time(crash)
    work(lab, transactions=2)
    lab.capture_and_compare(*TABLES)


def test_the_server_crashes_in_the_snapshot(crashing: Lab) -> None:
    lab, server = crashing, crashing.database.server
    lab.execute(SETUP + "; INSERT INTO bag SELECT 5, repeat('x', 1000) FROM generate_series(1, 50000)")

    def crash() -> bool:
        worker = copying(lab)
        server.kill()
        server.start()
        return broke(worker)

    in_time(crash)
    work(lab, transactions=3)
    lab.capture_and_compare(*TABLES)


def test_the_server_is_shut_down_while_a_window_runs(crashing: Lab) -> None:
    """A fast shutdown waits for the walsender's client to take everything: it must not hang on us (pgjdbc#1490)."""
    lab, server = crashing, crashing.database.server
    lab.execute(SETUP)
    lab.capture()

    def crash() -> bool:
        work(lab)
        worker = Worker(lab)
        wait_for(lambda: streaming(lab) or worker.process.poll() is not None)
        running = worker.process.poll() is None
        server.restart("fast")
        broke(worker)  # or it was given the time to end
        return running

    in_time(crash)
    lab.capture_and_compare(*TABLES)
