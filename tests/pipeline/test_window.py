"""Where a window ends and what it commits: limits, flushes, the bound, stop requests, acknowledgements."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import duckdb
import pytest

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import FlushConfig, WindowLimits
from tests.support.lab import Lab

#: Small pieces: a transaction of a few MB is "too large for memory".
PIECES = FlushConfig(max_bytes=1 << 20)


@pytest.fixture
def numbers(lab: Lab) -> Lab:
    """A captured table of numbers, and nothing to capture."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (0, 'first')")
    lab.capture_and_compare("t")
    return lab


def insert(first: int, last: int, filler: str = "'x'") -> str:
    return f"INSERT INTO t SELECT i, {filler} FROM generate_series({first}, {last}) i"


def count(lab: Lab) -> int:
    ((rows,),) = lab.rows("SELECT count(*) FROM public.t")
    return int(rows)


# -- limits


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (WindowLimits(max_changes=4), StopReason.MAX_CHANGES),
        (WindowLimits(max_bytes=1), StopReason.MAX_BYTES),
        (WindowLimits(max_seconds=0), StopReason.MAX_SECONDS),
    ],
)
def test_a_limit_ends_a_window_at_a_transactions_end_and_never_without_progress(
    numbers: Lab, limits: WindowLimits, reason: StopReason
) -> None:
    numbers.transactions(*(insert(n * 3 + 1, n * 3 + 3) for n in range(6)))
    seen = [1]
    for _ in range(10):
        before = numbers.checkpoint
        result = numbers.capture(limits=limits)
        seen.append(count(numbers))
        assert (result.start_lsn, result.end_lsn) == (before, numbers.checkpoint)
        if result.stop_reason is StopReason.CAUGHT_UP:
            break
        assert result.stop_reason is reason
        assert result.end_lsn > before
        assert result.changes == seen[-1] - seen[-2]
        assert result.changes % 3 == 0
    assert result.stop_reason is StopReason.CAUGHT_UP
    assert seen[-1] == 19
    if limits.max_changes:
        assert seen[:4] == [1, 7, 13, 19]
    numbers.assert_equal("t")


def test_a_limit_below_one_transaction_takes_it_whole(numbers: Lab) -> None:
    numbers.transactions(insert(1, 5000), insert(5001, 5001))
    result = numbers.configured(flush=PIECES).capture(limits=WindowLimits(max_changes=10, max_bytes=10))
    assert (result.changes, result.transactions, count(numbers)) == (5000, 1, 5001)


def test_flushes_of_one_change_commit_every_transaction_by_itself(numbers: Lab) -> None:
    numbers.transactions(*(insert(n, n) for n in range(1, 6)), insert(10, 19))
    result = numbers.configured(flush=FlushConfig(size=1)).capture()
    assert (result.flushes, result.transactions, result.changes) == (6, 6, 15)
    numbers.assert_equal("t")


def test_the_result_counts_what_came(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE quiet (id int PRIMARY KEY)")
    first = lab.capture()
    assert first.tables[lab.ref("t")].snapshot_rows == 0
    lab.transactions(insert(1, 10), "UPDATE t SET v = 'y' WHERE id < 5; DELETE FROM t WHERE id = 1", "TRUNCATE t")
    result = lab.capture()
    counts = result.tables[lab.ref("t")]
    assert (counts.inserts, counts.updates, counts.deletes, counts.truncates) == (10, 4, 1, 1)
    assert (result.changes, counts.snapshot_rows) == (15, None)
    assert result.transactions >= 3  # PostgreSQL 14 sends those without changes, too
    assert result.tables[lab.ref("quiet")].changes == 0
    assert result.commit_time is not None


# -- the bound


def test_changes_committed_after_the_start_are_left_for_the_next_window(numbers: Lab) -> None:
    numbers.transactions(insert(1, 1), insert(2, 2))
    later = iter([insert(3, 3)])

    def progress(_: Progress) -> None:
        for statement in later:
            numbers.execute(statement)

    result = numbers.configured(flush=FlushConfig(size=1)).capture(progress=progress)
    assert (result.changes, result.stop_reason, count(numbers)) == (2, StopReason.CAUGHT_UP, 3)
    assert numbers.capture().changes == 1
    numbers.assert_equal("t")


def test_a_transaction_open_at_the_bound_comes_whole_later(numbers: Lab) -> None:
    with numbers.database.connect() as connection, connection.transaction():
        connection.execute(insert(1, 10).encode())
        numbers.execute(insert(11, 11))
        assert numbers.capture().changes == 1
        assert count(numbers) == 2
    assert numbers.capture_and_compare("t").changes == 10


def test_interleaved_transactions_arrive_in_commit_order(numbers: Lab) -> None:
    with numbers.database.connect() as one, numbers.database.connect() as two:
        one.execute("BEGIN")
        two.execute("BEGIN")
        one.execute("INSERT INTO t VALUES (1, 'one')")
        two.execute("INSERT INTO t VALUES (2, 'two'); UPDATE t SET v = 'two' WHERE id = 0")
        two.execute("COMMIT")
        one.execute("UPDATE t SET v = v || ' one' WHERE id IN (0, 2); DELETE FROM t WHERE id = 2")
        two.execute("INSERT INTO t VALUES (3, 'three')")
        one.execute("COMMIT")
        two.execute("INSERT INTO t VALUES (2, 'again')")
    result = numbers.configured(flush=FlushConfig(size=1)).capture_and_compare("t")
    assert (result.transactions, result.flushes) == (4, 4)


def test_rows_of_one_copy_share_a_position(numbers: Lab) -> None:
    with numbers.database.connect() as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        for n in range(1, 3000):
            copy.write_row((n, "copied"))
    result = numbers.configured(flush=FlushConfig(size=100)).capture_and_compare("t")
    assert (result.changes, result.flushes) == (2999, 1)


def test_an_idle_table_on_a_busy_server_does_not_hold_wal(numbers: Lab) -> None:
    numbers.execute("CREATE TABLE unrelated (v text)")
    quiet = Lab(numbers.database, numbers.path, tables="public.t").configured(flush=FlushConfig(idle_wal_bytes=1 << 20))
    for _ in range(3):
        before = (quiet.checkpoint, quiet.confirmed)
        quiet.execute("INSERT INTO unrelated SELECT repeat('x', 100) FROM generate_series(1, 20000)")
        ((server,),) = quiet.database.fetch("SELECT pg_current_wal_flush_lsn()::text")
        result = quiet.capture()
        assert result.changes == 0
        assert (quiet.checkpoint, quiet.confirmed) > before
        assert quiet.checkpoint >= Lsn.parse(server)
        assert quiet.confirmed == quiet.checkpoint
        assert not quiet.pipeline.has_changes()


def test_nothing_to_do_is_done_quickly(numbers: Lab) -> None:
    numbers.capture()
    numbers.execute("SELECT pg_switch_wal()")  # the next record is far from the last one
    for _ in range(2):
        result = numbers.capture()
        assert (result.changes, result.stop_reason) == (0, StopReason.CAUGHT_UP)
        assert result.duration_s < 3


def test_a_record_of_which_half_is_flushed_does_not_hold_a_window(numbers: Lab) -> None:
    """The WAL writer flushes whole pages; a record that crosses the last one's end is sent once its rest is there."""
    positions = "SELECT pg_current_wal_flush_lsn() - '0/0' AS flushed, pg_current_wal_insert_lsn() - '0/0' AS inserted"
    numbers.execute(insert(1, 1))
    with numbers.database.connect() as connection, numbers.database.connect() as other:
        connection.execute("BEGIN")
        for n in range(1000):
            connection.execute(insert(1000 + n, 1000 + n, "repeat('x', 5000)").encode())
            time.sleep(0.25)  # the WAL writer's turn
            ((flushed, inserted),) = other.execute(positions).fetchall()
            if flushed % 8192 == 0 and inserted > flushed:
                break
        else:
            pytest.skip("the WAL writer flushed everything each time")
        result = numbers.capture()
    assert result.changes == 1
    assert result.duration_s < 5
    numbers.capture_and_compare("t")


# -- stopping


def test_a_stop_request_ends_at_the_next_flush(numbers: Lab) -> None:
    numbers.transactions(*(insert(n, n) for n in range(1, 6)))
    stop = threading.Event()
    result = numbers.configured(flush=FlushConfig(size=1)).capture(stop=stop, progress=lambda _: stop.set())
    # One more may have been read while the first was applied.
    assert (result.stop_reason, result.changes) in [(StopReason.STOP_REQUESTED, read) for read in (1, 2)]
    assert count(numbers) == 1 + result.changes
    assert result.end_lsn == numbers.checkpoint == numbers.confirmed
    assert numbers.capture_and_compare("t").changes == 5 - result.changes


def test_a_stop_request_before_the_start_changes_nothing(numbers: Lab) -> None:
    numbers.execute(insert(1, 1))
    stop = threading.Event()
    stop.set()
    with numbers.nothing_changes("public.t"):
        result = numbers.capture(stop=stop)
    assert (result.stop_reason, result.start_lsn) == (StopReason.STOP_REQUESTED, result.end_lsn)


def test_a_large_transaction_is_applied_in_pieces_and_committed_once(numbers: Lab) -> None:
    numbers.transactions(
        insert(1, 3),
        insert(101, 40_000, "repeat(md5(i::text), 20)") + "; UPDATE t SET v = '-' WHERE id % 100 = 0;"
        "UPDATE t SET id = -id WHERE id % 1000 = 1; DELETE FROM t WHERE id % 10 = 3",
        insert(4, 6),
    )
    lab = numbers.configured(flush=PIECES)
    seen: list[int] = []

    def look(_: Progress) -> None:
        with duckdb.connect(str(lab.path)) as reader:
            ((rows,),) = reader.execute("SELECT count(*) FROM public.t").fetchall()
            seen.append(rows)

    result = lab.capture(progress=look)
    lab.assert_equal("t")
    ((rows,),) = lab.database.fetch("SELECT count(*) FROM t")
    assert set(seen) <= {1, 4, rows - 3, rows}
    assert result.transactions == 3


def test_a_stop_request_in_a_large_transaction_forgets_its_pieces(numbers: Lab) -> None:
    """It is committed whole or not at all; asked to stop in the middle, nothing of it stays, and nothing is counted."""
    lab = numbers.configured(flush=PIECES)
    numbers.transactions(insert(1, 3), insert(101, 60_000, "repeat(md5(i::text), 20)"))
    stop = threading.Event()
    # The first transaction is flushed as soon as many bytes of the second have come.
    result = lab.capture(stop=stop, progress=lambda _: stop.set())
    assert result.stop_reason is StopReason.STOP_REQUESTED
    assert (result.changes, result.transactions, result.tables[lab.ref("t")].inserts) == (3, 1, 3)
    assert count(lab) == 4
    assert lab.capture_and_compare("t").changes == 59_900


def test_memory_is_bounded_whatever_the_size_of_a_transaction(numbers: Lab) -> None:
    script = """
from pathlib import Path
from dbmazz_core.settings.config import Settings
from dbmazz_core.pipeline import Pipeline
result = Pipeline(Settings.from_env()).capture()
status = Path("/proc/self/status").read_text()
print(result.changes, status.partition("VmHWM:")[2].split()[0])
"""
    # Not rusage's ru_maxrss: it counts what was pytest's when the process was made.
    numbers.execute(insert(1, 250_000, "repeat(md5(i::text), 32)"))  # 260 MB
    environment = os.environ | {
        "SOURCE_URL": numbers.database.url,
        "TABLES": "public.*",
        "SOURCE_SLOT_NAME": numbers.slot,
        "SINK_URL": str(numbers.path),
        "SINK_MEMORY_LIMIT": "64MB",
        "FLUSH_MAX_BYTES": "8MB",
    }
    answer = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    changes, peak_kb = map(int, answer.stdout.split())  # and nothing else, no progress bar, on standard output
    assert changes == 250_000
    assert peak_kb < 580_000  # half of it Python with its libraries, and the blocks in flight


# -- acknowledgements


def test_keepalives_are_answered_while_the_sink_is_busy(numbers: Lab) -> None:
    url = numbers.database.url + "?options=-c%20wal_sender_timeout%3D1s"
    numbers.transactions(insert(1, 1), insert(2, 90_000, "repeat(md5(i::text), 20)"), insert(100_000, 100_001))
    slept: list[float] = []

    def progress(_: Progress) -> None:
        if not slept:
            slept.append(4)
            time.sleep(slept[0])

    result = numbers.configured(url=url, flush=FlushConfig(size=1)).capture(progress=progress)
    assert result.flushes == 3
    numbers.assert_equal("t")


#: Prints the confirmed LSN, and after that the checkpoint, again and again.
WATCH = """
import sys, psycopg
from dbmazz_core import Lsn, open_reader
url, path, slot = sys.argv[1:]
query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
with psycopg.connect(url, autocommit=True) as connection:
    while True:
        ((confirmed,),) = connection.execute(query, [slot]).fetchall()
        with open_reader(path) as reader:
            print(int(Lsn.parse(confirmed)), int(reader.lsn), flush=True)
"""


def test_what_is_confirmed_is_never_ahead_of_the_checkpoint(numbers: Lab) -> None:
    numbers.execute("CREATE TABLE unrelated (v text)")
    busy = "INSERT INTO unrelated SELECT repeat('x', 100) FROM generate_series(1, 400000)"
    numbers.transactions(*(statement for n in range(1, 5) for statement in (insert(n, n), busy)))
    quiet = Lab(numbers.database, numbers.path, tables="public.t").configured(flush=FlushConfig(interval_ms=1))
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH, numbers.database.url, str(numbers.path), numbers.slot],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watcher.stdout is not None
    watcher.stdout.readline()
    quiet.capture()  # each change is flushed, and the file released, while the server reads what is unrelated
    watcher.terminate()
    seen = [tuple(map(int, line.split())) for line in watcher.communicate()[0].splitlines()]
    assert len({checkpoint for _, checkpoint in seen}) > 2
    assert all(confirmed <= checkpoint for confirmed, checkpoint in seen)
    assert numbers.confirmed == numbers.checkpoint
