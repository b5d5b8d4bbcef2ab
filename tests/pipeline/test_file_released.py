"""The destination's file is held for a commit, not for a window; what others do to it in between is noticed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb.sink import DuckDBSink
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.errors import (
    DestinationChanged,
    DestinationLocked,
    SlotActive,
    SlotAheadOfCheckpoint,
)
from dbmazz_core.model.policies import LockedPolicy, TableErrorPolicy
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import FlushConfig, SinkConfig
from tests.support.lab import Lab


@pytest.fixture
def two(lab: Lab) -> Lab:
    """Two captured tables; after each source transaction of a window, the file is released."""
    lab = lab.configured(flush=FlushConfig(interval_ms=1), on_error=ByTable(TableErrorPolicy.ISOLATE))
    lab.tables = "public.t, public.u"
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY, v text); "
        "CREATE TABLE other (id int, v text); INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1, 'a')"
    )
    lab.capture()
    return lab


def with_a_pause(lab: Lab) -> None:
    """Two transactions, and between them so many changes of another table that the first one is flushed before."""
    lab.transactions(
        "INSERT INTO t VALUES (2, 'b'); INSERT INTO u VALUES (2, 'b')",
        "INSERT INTO other SELECT i, repeat('x', 100) FROM generate_series(1, 400000) AS i",
        "INSERT INTO t VALUES (3, 'c'); INSERT INTO u VALUES (3, 'c')",
    )


def between_flushes(lab: Lab, act: Callable[[], None]) -> WindowResult:
    """Run a window of several flushes, and do something after the first one."""
    done: list[None] = []

    def progress(report: Progress) -> None:
        if report.phase == "stream" and not done:
            done.append(None)
            act()

    with_a_pause(lab)
    result = lab.capture(progress=progress)
    assert done
    return result


@contextmanager
def another_process(path: Path, *, read_only: bool) -> Iterator[None]:
    """Another process that has the file open."""
    code = (
        "import sys, duckdb\n"
        f"connection = duckdb.connect(sys.argv[1], read_only={read_only})\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    try:
        yield
    finally:
        process.communicate()


# -- a window that has nothing to apply


def test_an_idle_window_does_not_write_to_the_file(two: Lab) -> None:
    before = two.path.stat().st_mtime_ns
    two.execute("INSERT INTO other VALUES (1, 'x')")
    with another_process(two.path, read_only=True):  # a reader that never closes is no trouble
        result = two.capture()
    assert result.stop_reason is StopReason.CAUGHT_UP
    assert (result.flushes, result.file_held_s) == (0, 0.0)
    assert two.path.stat().st_mtime_ns == before


def test_the_slot_moves_once_enough_other_wal_has_gathered(two: Lab) -> None:
    checkpoint, confirmed = two.checkpoint, two.confirmed
    two.execute("INSERT INTO other SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) AS i")  # 2 MB
    two.capture()
    assert (two.checkpoint, two.confirmed) == (checkpoint, confirmed)
    result = two.configured(flush=FlushConfig(idle_wal_bytes=1_000_000)).capture()
    assert result.flushes == 1
    assert two.checkpoint == result.end_lsn >= checkpoint + 2_000_000
    assert two.confirmed == two.checkpoint


def test_changes_of_a_table_that_does_not_stream_move_the_slot(two: Lab) -> None:
    """Otherwise a sensor would find them in the slot again and again."""
    two.pipeline.pause([two.ref("u")])
    two.capture()
    before = two.checkpoint
    two.execute("INSERT INTO u VALUES (7, 'z')")
    two.capture()
    assert two.checkpoint > before
    assert not two.pipeline.has_changes()


# -- a window with changes


def test_the_file_is_free_while_a_window_waits_for_changes(two: Lab) -> None:
    def look() -> None:
        with another_process(two.path, read_only=False):
            pass

    result = between_flushes(two, look)
    assert result.flushes >= 2
    assert 0 < result.file_held_s < result.duration_s
    two.assert_equal("t", "u")


def test_a_table_of_somebody_else_that_appears_meanwhile_is_no_trouble(two: Lab) -> None:
    def add() -> None:
        with duckdb.connect(str(two.path)) as connection:
            connection.execute("CREATE SCHEMA marts; CREATE TABLE marts.daily AS SELECT 1 AS n")

    result = between_flushes(two, add)
    assert result.stop_reason is StopReason.CAUGHT_UP
    two.assert_equal("t", "u")
    assert two.rows("FROM marts.daily") == [(1,)]


def test_a_table_that_is_paused_meanwhile_is_left_out_from_the_last_commit(two: Lab) -> None:
    result = between_flushes(two, lambda: two.pipeline.pause([two.ref("u")]))
    assert result.states[two.ref("u")].state is TableStatus.PAUSED
    assert result.changes == 3  # 2 in the first flush, 1 in the second
    two.assert_equal("t")
    assert two.rows("SELECT id FROM public.u ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize(
    "statement",
    ["ALTER TABLE public.u ADD COLUMN w INTEGER", "ALTER TABLE public.u ALTER v TYPE BLOB", "DROP TABLE public.u"],
    ids=["column", "type", "drop"],
)
def test_a_table_that_somebody_alters_meanwhile_is_noticed_before_the_next_flush(two: Lab, statement: str) -> None:
    def alter() -> None:
        with duckdb.connect(str(two.path)) as connection:
            connection.execute(statement)

    result = between_flushes(two, alter)
    state = result.states[two.ref("u")]
    assert (state.state, state.problem and state.problem.error) == (TableStatus.FAILED, "DestinationConflict")
    two.assert_equal("t")


def test_a_file_that_is_deleted_meanwhile_is_not_begun_anew(two: Lab) -> None:
    confirmed = two.confirmed
    with pytest.raises(DestinationChanged, match="was deleted"):
        between_flushes(two, two.path.unlink)
    assert not two.path.exists()
    assert two.confirmed > confirmed  # the first flush was durable
    two.capture_and_compare("t", "u")  # as the error says


def test_a_file_that_is_replaced_by_an_older_one_meanwhile_is_refused(two: Lab, tmp_path: Path) -> None:
    older = tmp_path / "older.duckdb"
    shutil.copy(two.path, older)
    with pytest.raises(SlotAheadOfCheckpoint):
        between_flushes(two, lambda: os.replace(older, two.path))


def test_a_sink_notices_that_its_bookkeeping_was_changed(two: Lab) -> None:
    with DuckDBSink(SinkConfig(url=str(two.path)), feed=two.slot) as sink:
        sink.read()
        sink.release()
        with duckdb.connect(str(two.path)) as connection:
            connection.execute("UPDATE _dbmazz.checkpoints SET lsn = lsn + 1")
        with pytest.raises(DestinationChanged, match=f"another process changed .* of {two.slot} in {two.path}"):
            sink.begin()
        sink.begin().rollback()  # what it has seen now is what it knows


# -- a file that others use


def test_a_window_that_finds_the_file_in_use_fails_and_names_the_process(two: Lab) -> None:
    two = two.configured(sink=SinkConfig(url=str(two.path), lock_timeout_s=0.2))
    two.execute("INSERT INTO t VALUES (5, 'e')")
    with (
        another_process(two.path, read_only=True),
        two.nothing_changes("public.t"),
        pytest.raises(DestinationLocked, match=r"locked by process \d+"),
    ):
        two.capture()
    two.capture_and_compare("t", "u")


def test_a_window_is_postponed_where_that_is_wished(two: Lab) -> None:
    two = two.configured(sink=SinkConfig(url=str(two.path), lock_timeout_s=0.2, when_locked=LockedPolicy.SKIP))
    two.execute("INSERT INTO t VALUES (5, 'e')")
    with another_process(two.path, read_only=True), two.nothing_changes("public.t"):
        result = two.capture()
    assert result.stop_reason is StopReason.POSTPONED
    assert result.postponed is not None
    assert "locked by process" in result.postponed
    assert "bytes of WAL wait in the slot" in result.postponed
    assert (result.changes, result.flushes) == (0, 0)
    with another_process(two.path, read_only=False):  # not even the bookkeeping can be read
        assert two.capture().stop_reason is StopReason.POSTPONED
    assert two.capture_and_compare("t", "u").changes == 1


def test_a_connection_of_this_process_is_named_as_such(two: Lab) -> None:
    two = two.configured(sink=SinkConfig(url=str(two.path), lock_timeout_s=0.2))
    two.execute("INSERT INTO t VALUES (5, 'e')")
    with duckdb.connect(str(two.path), read_only=True), pytest.raises(DestinationLocked, match="this process has"):
        two.capture()
    two.capture_and_compare("t", "u")


# -- two windows at once


def test_two_windows_of_a_slot_run_one_after_the_other(two: Lab) -> None:
    with_a_pause(two)
    results: list[WindowResult] = []
    threads = [threading.Thread(target=lambda: results.append(two.capture())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result.changes for result in results) == [0, 4]
    two.assert_equal("t", "u")


def test_a_window_does_not_wait_for_another_one_for_ever(two: Lab) -> None:
    impatient = two.configured(sink=SinkConfig(url=str(two.path), lock_timeout_s=0.1))

    def second() -> None:
        with pytest.raises(SlotActive, match=r"is in use by process \d+ \(dbmazz\)"):
            impatient.capture()

    between_flushes(two, second)
    two.assert_equal("t", "u")


def test_windows_of_two_slots_into_one_file_take_turns(two: Lab) -> None:
    other = two.configured(slot=f"{two.slot}_2", source={"publication": "second"})
    other.tables = "public.other"

    def second() -> None:
        other.capture()

    between_flushes(two, second)
    two.assert_equal("t", "u", "other")


def test_a_file_that_is_called_as_a_schema_is_a_warning(lab: Lab) -> None:
    lab.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")
    shop = replace(lab, path=lab.path.with_name("shop.duckdb"), tables="shop.orders")
    (warning,) = [what for what in shop.capture().warnings if "DuckDB names the database" in what]
    assert 'readers must write "shop"."shop"."orders"' in warning
    assert warning in [finding.what for finding in shop.pipeline.check().warnings]
    with duckdb.connect(str(shop.path), read_only=True) as connection:
        assert connection.execute('FROM "shop"."shop"."orders"').fetchall() == []  # as the warning says
