"""A table that somebody else has locked: after a while the error says who, and nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres import connection
from dbmazz_core.connectors.sources.postgres.setup import setup_lock
from dbmazz_core.connectors.sources.postgres.snapshot import exported as snapshot
from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import TableLocked
from tests.support.lab import Lab


@pytest.fixture
def shop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    for module in (connection, setup_lock, snapshot):
        monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 1)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture_and_compare("t")
    lab.execute("INSERT INTO t VALUES (2)")
    return lab


@pytest.fixture
def nightly(shop: Lab) -> Iterator[psycopg.Connection[Any]]:
    """A session in an open transaction."""
    with closing(shop.database.connect()) as session:
        session.execute("SET application_name = 'nightly'")
        session.execute("BEGIN")
        yield session


def end_as_told(lab: Lab, error: TableLocked, locked: str = "t") -> None:
    assert error.object == f"public.{locked}"
    lab.execute(error.remedy.split("end it: ")[1])
    lab.capture_and_compare("t")


def copy(lab: Lab, lock: Callable[[], object]) -> None:
    """Copy the table, which is locked once the slot of the copy exists."""
    locks = [lock]

    def at_first_rows(report: Progress) -> None:
        if report.phase == "snapshot" and locks:
            locks.pop()()

    lab.pipeline.snapshot([lab.ref("t")], progress=at_first_rows)


def test_a_copy_names_the_transaction_that_has_locked_a_table(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match=r"process \d+ \(nightly, role") as caught:
        copy(shop, lambda: nightly.execute("LOCK TABLE t"))
    end_as_told(shop, caught.value)


def test_a_lock_that_is_waited_for_locks_readers_out_too(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    nightly.execute("SELECT FROM t")
    with closing(shop.database.connect()) as other:
        with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match="open for") as caught:
            copy(shop, lambda: other.pgconn.send_query(b"TRUNCATE t"))
        assert str(other.info.backend_pid) in caught.value.remedy
    nightly.execute("COMMIT")
    shop.capture_and_compare("t")


def test_a_prepared_transaction_keeps_its_locks(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    def lock() -> None:
        nightly.execute("LOCK TABLE t")
        nightly.execute(f"PREPARE TRANSACTION 'it''s {shop.slot}'")

    try:
        with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match="prepared transaction") as caught:
            copy(shop, lock)
        assert f"ROLLBACK PREPARED 'it''s {shop.slot}'" in caught.value.remedy
    finally:  # others' slots would wait for it
        nightly.execute(f"ROLLBACK PREPARED 'it''s {shop.slot}'")
    shop.capture_and_compare("t")


def test_a_window_and_a_check_ask_for_nothing_that_a_lock_keeps_from_them(
    shop: Lab, nightly: psycopg.Connection[Any]
) -> None:
    nightly.execute("LOCK TABLE t")
    assert shop.capture().changes == 1
    assert shop.pipeline.check().ok
    nightly.execute("COMMIT")
    shop.assert_equal("t")


@pytest.mark.parametrize("locked", ["t", "t_1"])
def test_a_copy_too(shop: Lab, nightly: psycopg.Connection[Any], locked: str) -> None:
    """The table itself is asked for in the catalog first, a partition only by the copy."""
    shop.execute(
        "DROP TABLE t; CREATE TABLE t (id int) PARTITION BY LIST (id); CREATE TABLE t_1 PARTITION OF t DEFAULT"
    )
    shop.capture_and_compare("t")

    def lock(report: Progress) -> None:
        if report.phase == "snapshot":
            nightly.execute(f"LOCK TABLE ONLY {locked}")

    with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match="nightly") as caught:
        shop.pipeline.snapshot([shop.ref("t")], progress=lock)
    end_as_told(shop, caught.value, locked)
