"""Who else reads the slot, and which server it is: between the first look and the first acknowledgement."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres import resuming, stream_start
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import DbmazzError, ReplicationInterrupted, SlotAheadOfCheckpoint, SlotNotFound
from tests.support.before import before
from tests.support.lab import Lab
from tests.support.worker_process import Worker


@pytest.fixture
def shop(lab: Lab) -> Lab:
    """A captured table with rows to come."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    lab.capture_and_compare("t")
    return lab


def copy_of(lab: Lab) -> Lab:
    """The same with a copy of the destination."""
    path = lab.path.with_name("copy.duckdb")
    shutil.copy(lab.path, path)
    return replace(lab, path=path)


def rows_come(lab: Lab) -> None:
    lab.execute("INSERT INTO t SELECT coalesce(max(id), 0) + g FROM t, generate_series(1, 1000) g GROUP BY g")


#: Where somebody comes in between: a method, of which the first call is waited for.
POINTS: dict[str, tuple[object, str]] = {
    "before the slot is looked at": (resuming, "verify_timeline"),
    "before the bound": (Session, "reachable_lsn"),
    "before the stream": (stream_start, "open_stream"),
}


def captured_by_another(lab: Lab) -> None:
    """By a dbmazz of an earlier version, which does not take the lock that keeps windows of a slot apart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresSource, "lock_feed", lambda *_, **__: None)
        copy_of(lab).capture_and_compare("t")


def advanced_by_hand(lab: Lab) -> None:
    lab.database.fetch("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", lab.slot)


def made_anew(lab: Lab) -> None:
    lab.database.fetch("SELECT pg_drop_replication_slot(%s)", lab.slot)
    lab.database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", lab.slot)


def dropped(lab: Lab) -> None:
    lab.database.fetch("SELECT pg_drop_replication_slot(%s)", lab.slot)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("intruder", [captured_by_another, advanced_by_hand, made_anew, dropped])
def test_a_slot_that_moves_on_after_it_was_looked_at(
    shop: Lab, monkeypatch: pytest.MonkeyPatch, point: str, intruder: Callable[[Lab], None]
) -> None:
    rows_come(shop)
    before(monkeypatch, *POINTS[point], lambda: intruder(shop))
    rows, checkpoint = shop.rows("FROM public.t"), shop.checkpoint
    expected = SlotNotFound if intruder is dropped else SlotAheadOfCheckpoint
    with pytest.raises(expected, match=shop.slot) as info:
        shop.capture()
    assert (shop.rows("FROM public.t"), shop.checkpoint) == (rows, checkpoint)
    assert "dbmazz snapshot" in info.value.remedy
    shop.pipeline.snapshot()
    rows_come(shop)
    shop.capture_and_compare("t")


def test_a_stream_that_ends_at_once_says_why(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server said counts, not that the slot is found free."""
    rows_come(shop)

    def end_it() -> None:
        held = "FROM pg_replication_slots WHERE slot_name = %s AND active_pid IS NOT NULL"
        shop.database.fetch(f"SELECT pg_terminate_backend(active_pid) {held}", shop.slot)
        while shop.database.fetch(f"SELECT 1 {held}", shop.slot):
            pass

    with monkeypatch.context() as patch, shop.nothing_changes("public.t"):
        before(patch, stream_start, "verify_held_slot", end_it)
        with pytest.raises(ReplicationInterrupted, match="administrator command"):
            shop.capture()
    shop.capture_and_compare("t")


@pytest.mark.parametrize("intruder", [captured_by_another, advanced_by_hand, made_anew])
def test_a_slot_cannot_move_once_the_stream_has_it(
    shop: Lab, monkeypatch: pytest.MonkeyPatch, intruder: Callable[[Lab], None]
) -> None:
    rows_come(shop)
    refused = []

    def intrude() -> None:
        with pytest.raises((DbmazzError, psycopg.errors.ObjectInUse)) as info:
            intruder(shop)
        refused.append(info)

    before(monkeypatch, stream_start, "verify_held_slot", intrude)
    shop.capture_and_compare("t")
    assert refused


def test_nothing_is_acknowledged_before_the_slot_was_looked_at(shop: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old server would move the slot back to the checkpoint, and nobody could tell that it had been ahead."""
    rows_come(shop)
    other = copy_of(shop)
    other.capture_and_compare("t")
    ahead = shop.confirmed
    rows_come(shop)  # a window that has nothing to read opens no stream
    # Neither look finds anything, as if the slot had moved in between.
    monkeypatch.setattr(Session, "verify_slot", lambda session, lsn: session.slot())
    said = "SELECT reply_time FROM pg_stat_replication WHERE application_name = 'dbmazz'"
    replies = []
    verify = stream_start.verify_held_slot

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.5)
        replies.extend(shop.database.fetch(said))
        return verify(*arguments)

    monkeypatch.setattr(stream_start, "verify_held_slot", slowly)
    with pytest.raises(SlotAheadOfCheckpoint):
        shop.capture()
    assert replies == [(None,)]
    assert shop.confirmed == ahead


def test_two_consumers_with_a_file_and_its_copy(shop: Lab, tmp_path: Path) -> None:
    """Started together: whoever says that it has caught up has everything; the other says that it is too late."""
    for _ in range(3):
        labs = [shop, copy_of(shop)]
        rows_come(shop)
        workers = [Worker(lab) for lab in labs]
        ended = [worker.end() for worker in workers]
        good = [lab for lab, (code, _) in zip(labs, ended, strict=True) if code == 0]
        assert good, ended
        for lab in good:
            lab.assert_equal("t")
        assert all(code in (0, 5) for code, _ in ended), ended
        if good[0] is not shop:
            shutil.copy(good[0].path, shop.path)
