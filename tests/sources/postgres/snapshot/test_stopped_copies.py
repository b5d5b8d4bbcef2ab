"""A window that is asked to stop while it copies tables: at once, and the next one goes on."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.errors import TableNotFound
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.table_ref import TableRef
from tests.support.before import before
from tests.support.lab import Lab


@pytest.fixture
def shop(lab: Lab) -> Lab:
    """Two tables that have never been copied."""
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v text);"
        "INSERT INTO a VALUES (1); INSERT INTO b SELECT i, 'x' FROM generate_series(1, 1000) i"
    )
    return lab


def stopped_when(
    lab: Lab, phase: str, table: TableRef | None = None, *, resnapshot: tuple[TableRef, ...] = ()
) -> WindowResult:
    """A window that is asked to stop as soon as it tells of that."""
    stop = threading.Event()

    def look(report: Progress) -> None:
        if (report.phase, report.table) == (phase, table):
            stop.set()

    result = lab.capture(stop=stop, progress=look, resnapshot=resnapshot)
    assert result.stop_reason is StopReason.STOP_REQUESTED
    return result


def test_tables_that_were_complete_stay_and_the_others_are_copied_next_time(shop: Lab) -> None:
    a, b = shop.ref("a"), shop.ref("b")
    result = stopped_when(shop, "snapshot", b)
    assert {ref: counts.snapshot_rows for ref, counts in result.tables.items()} == {a: 1}
    assert result.end_lsn == shop.checkpoint
    shop.assert_equal("a")
    shop.execute("INSERT INTO a VALUES (2); DELETE FROM b WHERE id > 500")
    later = shop.capture_and_compare("a", "b")
    assert (later.tables[a].snapshot_rows, later.tables[b].snapshot_rows) == (None, 500)


def test_before_anything_is_complete_there_is_no_checkpoint(shop: Lab) -> None:
    result = stopped_when(shop, "snapshot", shop.ref("a"))
    assert (result.tables, result.end_lsn, result.lag_bytes) == ({}, INVALID_LSN, 0)
    assert shop.pipeline.status().checkpoint is None
    shop.capture_and_compare("a", "b")


def test_while_it_waits_for_a_slot(shop: Lab) -> None:
    with shop.database.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO a VALUES (2)")
        result = stopped_when(shop, "wait")
        assert result.tables == {}
        assert shop.database.fetch("SELECT FROM pg_replication_slots WHERE slot_name = %s", shop.slot) == []
        writer.execute("COMMIT")
    shop.capture_and_compare("a", "b")


def test_a_table_that_was_to_be_copied_anew_keeps_its_rows(shop: Lab) -> None:
    shop.capture_and_compare("a", "b")
    b = shop.ref("b")
    shop.execute("INSERT INTO b VALUES (0)")
    rows = shop.rows("FROM public.b ORDER BY ALL")
    result = stopped_when(shop, "snapshot", b, resnapshot=(b,))
    assert result.end_lsn == shop.checkpoint  # of the other table, whose changes come first
    assert b not in result.tables
    assert shop.rows("FROM public.b ORDER BY ALL") == rows
    shop.assert_equal("a")
    shop.capture_and_compare("a", "b")


def test_what_another_table_has_replaced_is_found_again(shop: Lab) -> None:
    shop.capture_and_compare("a", "b")
    shop.execute("DROP TABLE b; CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (7)")
    rows = shop.rows("FROM public.b ORDER BY ALL")
    result = stopped_when(shop, "snapshot", shop.ref("b"))
    assert shop.rows("FROM public.b ORDER BY ALL") == rows
    assert result.copy_anew == {}
    later = shop.capture_and_compare("a", "b")
    assert [*later.copy_anew] == [shop.ref("b")]


def test_a_table_that_is_dropped_before_it_is_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked for by its name: the run does not end as if there were nothing to copy."""
    lab = replace(lab, tables="public.t, public.u")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    before(monkeypatch, ExportedSnapshot, "fingerprints", lambda: lab.execute("DROP TABLE t"))
    with pytest.raises(TableNotFound, match=r"public\.t"):
        lab.capture()
