"""A table that somebody else has locked: after a while the error says who, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres import connection
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.snapshot import adbc as snapshot
from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import TableLocked
from tests.support.lab import Lab

#: Since then the server opens a publication's tables to describe them (pg_get_publication_tables). A window of those
#: before asks for nothing that a lock keeps from it.
_OPENS_TABLES = 16
NEEDS_TABLES = pytest.mark.since(_OPENS_TABLES)


@pytest.fixture
def shop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    for module in (connection, setup, snapshot):
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


@NEEDS_TABLES
def test_a_window_names_the_transaction_that_has_locked_a_table(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    nightly.execute("LOCK TABLE t")
    with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match=r"process \d+ \(nightly, role") as caught:
        shop.capture()
    with pytest.raises(TableLocked):
        shop.pipeline.check()
    end_as_told(shop, caught.value)


@NEEDS_TABLES
def test_a_lock_that_is_waited_for_locks_readers_out_too(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    nightly.execute("SELECT FROM t")
    with closing(shop.database.connect()) as other:
        other.pgconn.send_query(b"TRUNCATE t")
        with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match="open for") as caught:
            shop.capture()
        assert str(other.info.backend_pid) in caught.value.remedy
    nightly.execute("COMMIT")
    shop.capture_and_compare("t")


@NEEDS_TABLES
def test_a_prepared_transaction_keeps_its_locks(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    nightly.execute("LOCK TABLE t")
    nightly.execute(f"PREPARE TRANSACTION 'it''s {shop.slot}'")
    try:
        with shop.nothing_changes("public.t"), pytest.raises(TableLocked, match="prepared transaction") as caught:
            shop.capture()
        assert f"ROLLBACK PREPARED 'it''s {shop.slot}'" in caught.value.remedy
    finally:  # others' slots would wait for it
        nightly.execute(f"ROLLBACK PREPARED 'it''s {shop.slot}'")
    shop.capture_and_compare("t")


def test_a_window_of_earlier_versions_goes_on(shop: Lab, nightly: psycopg.Connection[Any]) -> None:
    if shop.database.server.major >= _OPENS_TABLES:
        pytest.skip("it needs the table")
    nightly.execute("LOCK TABLE t")
    assert shop.capture().changes == 1
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
