"""Slot and checkpoint that do not fit each other: found before anything is changed, and the way out works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.connectors.sources import create_source
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import SlotActive, SlotAheadOfCheckpoint, SlotMismatch, SlotNotFound, WrongServer
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database, drop_database


@pytest.fixture
def shop(lab: Lab) -> Lab:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bag (x int); INSERT INTO t VALUES (1)")
    lab.capture_and_compare("t", "bag")
    lab.execute("INSERT INTO t VALUES (2); INSERT INTO bag VALUES (1), (1)")
    return lab


def drop_slot(lab: Lab) -> None:
    lab.database.execute("SELECT pg_drop_replication_slot(%s)", lab.slot)


def assert_repaired_by_a_new_snapshot(lab: Lab) -> None:
    lab.pipeline.snapshot()
    lab.execute("INSERT INTO t VALUES (100); DELETE FROM bag")
    lab.capture_and_compare("t", "bag")


def test_a_slot_that_was_advanced_behind_our_back(shop: Lab) -> None:
    shop.database.fetch("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", shop.slot)
    with shop.nothing_changes("public.t"), pytest.raises(SlotAheadOfCheckpoint, match=str(shop.checkpoint)) as info:
        shop.capture()
    shop.assert_found_by_check(info.value)
    assert_repaired_by_a_new_snapshot(shop)


def test_a_slot_that_was_dropped(shop: Lab) -> None:
    drop_slot(shop)
    before = shop.checkpoint
    with pytest.raises(SlotNotFound, match=str(before)) as info:
        shop.capture()
    shop.assert_found_by_check(info.value)
    assert shop.checkpoint == before
    assert shop.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s", shop.slot) == []
    assert_repaired_by_a_new_snapshot(shop)


def test_a_slot_that_was_dropped_and_made_anew(shop: Lab) -> None:
    """etl#935: the changes between are in neither."""
    drop_slot(shop)
    shop.database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", shop.slot)
    shop.execute("INSERT INTO t VALUES (3)")
    with shop.nothing_changes("public.t"), pytest.raises(SlotAheadOfCheckpoint):
        shop.capture()
    assert_repaired_by_a_new_snapshot(shop)


def test_a_destination_that_was_restored_from_a_copy(shop: Lab) -> None:
    backup = shop.path.read_bytes()
    shop.capture_and_compare("t", "bag")
    shop.path.write_bytes(backup)
    with shop.nothing_changes("public.t"), pytest.raises(SlotAheadOfCheckpoint):
        shop.capture()
    assert_repaired_by_a_new_snapshot(shop)


def test_a_checkpoint_ahead_of_the_slot_is_where_it_goes_on(shop: Lab) -> None:
    """What a crash between commit and confirmation leaves; airbyte#55846."""
    before = shop.confirmed
    shop.capture()
    ahead = shop.checkpoint
    drop_slot(shop)
    shop.database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", shop.slot)
    with duckdb.connect(str(shop.path)) as destination:
        destination.execute("UPDATE _dbmazz.checkpoints SET lsn = ?", [int(shop.confirmed) + 8])
    shop.transactions("INSERT INTO t VALUES (3)", "INSERT INTO bag VALUES (1)")
    shop.capture_and_compare("t", "bag")
    assert before < ahead < shop.confirmed == shop.checkpoint


def test_a_slot_in_use_is_named_with_its_holder(shop: Lab) -> None:
    with create_source(shop.config) as source:
        source.start()
        with shop.nothing_changes("public.t"), pytest.raises(SlotActive, match=r"process \d+"):
            shop.capture()
    shop.capture_and_compare("t", "bag")


def test_a_destination_of_another_database(shop: Lab) -> None:
    other = create_database(shop.database.server)
    try:
        other.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bag (x int)")
        moved = replace(shop.configured(slot=shop.slot), database=other)
        with pytest.raises(WrongServer, match=shop.database.name) as info:
            moved.capture()
        moved.assert_found_by_check(info.value)
    finally:
        drop_database(other)
    shop.capture_and_compare("t", "bag")


@pytest.fixture
def server_with_prepared_transactions() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST | {"max_prepared_transactions": "5"}) as server:
        yield server


@pytest.mark.parametrize("captured", [False, True], ids=["before the first capture", "in place of the slot"])
def test_a_slot_that_was_made_with_two_phase(
    server_with_prepared_transactions: EmbeddedPostgres, duckdb_path: Path, captured: bool
) -> None:
    """Its first PREPARE TRANSACTION would stop the capture for good: it is refused before anything is streamed."""
    lab = Lab(create_database(server_with_prepared_transactions), duckdb_path)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE bag (x int); INSERT INTO t VALUES (1)")
    if captured:
        lab.capture()
        drop_slot(lab)
    lab.database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', false, true)", lab.slot)
    for act in (lab.capture, lab.pipeline.setup, lab.pipeline.snapshot):
        with pytest.raises(SlotMismatch, match="was made with two_phase") as info:
            act()
        lab.assert_found_by_check(info.value)
    drop, _, run = info.value.remedy.partition("; ")
    assert "`dbmazz snapshot`" in run
    lab.database.fetch(drop)
    lab.pipeline.snapshot()
    lab.transactions("BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'x'")
    lab.capture()
    lab.transactions("COMMIT PREPARED 'x'")
    lab.capture_and_compare("t", "bag")
