"""`follow`: one open stream, flushes by size or time, and whatever a window does beside rows."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import duckdb
import pytest

from dbmazz_core.engine.follow_status import FollowPhase
from dbmazz_core.errors import SlotActive
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import TableErrorPolicy
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import FlushConfig
from tests.support.following import Follower
from tests.support.lab import Lab, toast

SETUP = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, v text); CREATE TABLE bag (x int); "
    "INSERT INTO t SELECT i, i, i::text FROM generate_series(1, 100) i; INSERT INTO bag VALUES (1), (1), (2)"
)


@pytest.fixture
def shop(lab: Lab) -> Lab:
    lab.execute(SETUP)
    return lab


def test_first_run_copies_and_then_every_change_comes_by_one_stream(shop: Lab) -> None:
    with Follower(shop) as follower:
        for n in range(5):
            shop.transactions(
                f"UPDATE t SET n = n + 1 WHERE id % 7 = {n}; DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag)",
                f"INSERT INTO t SELECT {1000 * n + 1000} + i, 0, {toast(n)} FROM generate_series(1, 20) i",
                f"UPDATE t SET id = -id WHERE id = {n + 1}; INSERT INTO bag VALUES ({n})",
            )
            follower.catch_up()
            follower.assert_equal("t", "bag")
        assert follower.streams == 1
        assert follower.status.states[shop.ref("t")].state is TableStatus.STREAMING
    assert follower.phases[-1] is FollowPhase.STOPPED
    assert follower.status.changes > 100
    assert shop.confirmed >= (follower.status.checkpoint or 0)
    shop.assert_equal("t", "bag")
    assert shop.capture().changes == 0


def test_backlog_comes_by_the_open_stream(shop: Lab) -> None:
    shop.capture()
    shop.execute("INSERT INTO t SELECT 1000 + i, i, 'x' FROM generate_series(1, 20000) i")
    with Follower(shop.configured(flush=FlushConfig(size=500, idle_wal_bytes=1))) as follower:
        follower.catch_up()
        assert (follower.streams, follower.status.changes) == (1, 20_000)
    shop.assert_equal("t")


def test_transaction_that_is_larger_than_memory_allows(shop: Lab) -> None:
    with Follower(shop.configured(flush=FlushConfig(max_bytes=1 << 20, idle_wal_bytes=1))) as follower:
        shop.execute("INSERT INTO t SELECT 1000 + i, i, repeat('x', 100) FROM generate_series(1, 40000) i")
        follower.catch_up()
        assert follower.streams == 1
        follower.assert_equal("t")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE t ADD c int DEFAULT 7; UPDATE t SET c = 1 WHERE id < 5", "c"),
        ("ALTER TABLE t RENAME n TO m; UPDATE t SET m = 0 WHERE id = 3", "m"),
        ("ALTER TABLE t DROP COLUMN v; INSERT INTO t VALUES (0, 0)", "v"),
        ("ALTER TABLE t ALTER n TYPE text; INSERT INTO t VALUES (0, 'a', 'b')", "n"),
    ],
)
def test_schema_change_ends_the_stream_for_a_window(shop: Lab, change: str, said: str) -> None:
    with Follower(shop) as follower:
        shop.transactions("UPDATE t SET n = n + 1", change, "DELETE FROM t WHERE id % 3 = 0")
        follower.catch_up()
        follower.assert_equal("t", "bag")
        shop.execute("DELETE FROM t WHERE id % 5 = 0")
        follower.catch_up()
        follower.assert_equal("t", "bag")
        follower.wait(lambda: any(said in message for message in follower.messages))


def test_schema_change_without_rows_is_followed_at_the_next_look(shop: Lab) -> None:
    with Follower(shop) as follower:
        shop.execute("ALTER TABLE t ADD c int DEFAULT 7")
        follower.wait(lambda: follower.streams == 2)
        follower.assert_equal("t")


def test_key_that_moves_under_identity_full(lab: Lab) -> None:
    """Under FULL the stream does not tell the key: behind this change, two rows have the same old key."""
    lab.execute("CREATE TABLE t (a int PRIMARY KEY, b int UNIQUE NOT NULL); ALTER TABLE t REPLICA IDENTITY FULL")
    with Follower(lab) as follower:
        lab.transactions(
            "INSERT INTO t SELECT i, i FROM generate_series(1, 50) i",
            "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (b)",
            "INSERT INTO t SELECT 1, i + 100 FROM generate_series(1, 50) i",
            "UPDATE t SET a = a + 1 WHERE b > 120",
            "DELETE FROM t WHERE b = 110",
        )
        follower.catch_up()
        follower.assert_equal("t")


def test_truncate_and_what_follows_it(shop: Lab) -> None:
    with Follower(shop) as follower:
        shop.transactions("INSERT INTO t VALUES (500, 1, 'a')", "TRUNCATE t, bag", "INSERT INTO t VALUES (500, 2, 'b')")
        follower.catch_up()
        follower.assert_equal("t", "bag")
        assert not any("re-snapshotted" in message for message in follower.messages)


def test_new_table_is_copied_and_followed(shop: Lab) -> None:
    with Follower(shop) as follower:
        shop.execute("CREATE TABLE new (id int PRIMARY KEY); INSERT INTO new SELECT generate_series(1, 10)")
        follower.wait(lambda: follower.status.tables.get(shop.ref("new")))
        follower.wait(lambda: follower.streams == 2)
        shop.execute("DELETE FROM new WHERE id > 5")
        follower.catch_up()
        follower.assert_equal("t", "new")


def test_new_partitions(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
        "CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (100); INSERT INTO p SELECT generate_series(0, 99)"
    )
    with Follower(lab) as follower:
        lab.transactions(
            "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (100) TO (200);"
            "INSERT INTO p SELECT generate_series(100, 199)",
            "CREATE TABLE p2 (id int NOT NULL, v text, PRIMARY KEY (id));"
            "INSERT INTO p2 SELECT generate_series(200, 250)",
            "ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (200) TO (300); UPDATE p SET v = 'x' WHERE id > 240",
        )
        follower.catch_up()
        follower.assert_equal("p")
        lab.transactions("ALTER TABLE p DETACH PARTITION p0", "UPDATE p SET v = 'y'")
        follower.catch_up()
        follower.wait(lambda: len(follower.rows("FROM public.p")) == 151)
        follower.assert_equal("p")


def test_table_in_trouble_leaves_and_comes_back(shop: Lab) -> None:
    lab = shop.configured(on_error=ByTable(TableErrorPolicy.ISOLATE))
    lab.execute("CREATE TABLE day (id int PRIMARY KEY, d timestamp)")
    with Follower(lab) as follower:
        lab.execute("INSERT INTO day VALUES (1, '294276-12-31'); INSERT INTO t VALUES (700, 7, 'x')")
        follower.wait(lambda: lab.ref("day") in follower.status.in_trouble)
        follower.catch_up()
        follower.assert_equal("t")
        lab.execute("DELETE FROM day; ALTER TABLE day ADD v text; INSERT INTO day VALUES (2, '2020-01-01')")
        follower.wait(lambda: not follower.status.in_trouble)
        follower.wait(lambda: follower.status.phase is FollowPhase.STREAMING)
        follower.assert_equal("t", "day")


def test_pause_and_resume_from_another_pipeline(shop: Lab) -> None:
    with Follower(shop) as follower:
        for _ in range(7):
            shop.pipeline.pause([shop.ref("bag")])
            shop.execute("INSERT INTO bag VALUES (9); UPDATE t SET n = n + 1")
            follower.catch_up()
            follower.wait(lambda: follower.status.states[shop.ref("bag")].state is TableStatus.PAUSED)
            follower.assert_equal("t")
            shop.pipeline.resume([shop.ref("bag")])
            follower.wait(lambda: follower.status.states[shop.ref("bag")].state is TableStatus.STREAMING)
        follower.wait(lambda: follower.status.phase is FollowPhase.STREAMING)
        follower.catch_up()
        follower.assert_equal("t", "bag")


def test_second_follow_or_capture_gets_slot_active(shop: Lab) -> None:
    with Follower(shop):
        other = shop.configured(sink=replace(shop.pipeline.settings.sink, lock_timeout_s=0.2))
        with pytest.raises(SlotActive):
            other.capture()
        with pytest.raises(SlotActive):
            other.pipeline.follow()


def test_file_is_free_between_flushes(shop: Lab) -> None:
    with Follower(shop) as follower:
        for n in range(20):
            shop.execute(f"INSERT INTO bag VALUES ({n})")
            deadline = time.monotonic() + 10
            while True:
                try:
                    duckdb.connect(str(shop.path), read_only=True, config={"threads": 1}).close()
                    break
                except duckdb.Error:
                    assert time.monotonic() < deadline
        follower.catch_up()
        assert follower.streams == 1
    shop.assert_equal("bag")


def test_new_settings_count_from_the_next_stream_on(shop: Lab) -> None:
    shop.tables = "public.t"
    with Follower(shop) as follower:
        all_tables = replace(follower.lab, tables="public.*")
        follower.reload(all_tables)
        follower.wait(lambda: shop.ref("bag") in follower.status.states)
        shop.execute("INSERT INTO bag VALUES (7)")
        follower.catch_up()
        follower.assert_equal("t", "bag")


def has_read_copy(follower: Follower, checkpoint: Lsn) -> bool:
    copy = follower.status.read_copy
    return copy is not None and (copy.lsn or 0) >= checkpoint


def test_read_copy_is_published_beside_the_stream(shop: Lab) -> None:
    copy = shop.path.with_name("read.duckdb")
    lab = shop.configured(sink=replace(shop.pipeline.settings.sink, read_copy=str(copy)))
    with Follower(lab) as follower:
        for n in (1, 2):
            lab.execute(f"INSERT INTO t VALUES ({1000 + n}, 1, 'new')")
            follower.catch_up()
            follower.wait(partial(has_read_copy, follower, follower.status.checkpoint))
            with duckdb.connect(str(copy), read_only=True) as connection:
                assert connection.execute("SELECT count(*) FROM public.t WHERE id > 1000").fetchall() == [(n,)]
        assert follower.streams == 1


def test_checkpoint_moves_past_wal_without_changes(shop: Lab) -> None:
    with Follower(shop.configured(flush=FlushConfig(idle_wal_bytes=1 << 20))) as follower:
        before = follower.status.flushes, shop.confirmed
        shop.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 100000)) FROM generate_series(1, 40)")
        shop.execute("SELECT pg_logical_emit_message(true, 'end', '')")
        follower.wait(lambda: shop.confirmed - before[1] > 1 << 20)
        assert follower.status.flushes - before[0] <= 4
    shop.assert_equal("t")
