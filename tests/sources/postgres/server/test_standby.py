"""Capturing from a standby, and its promotion at any moment of a run.

Logical decoding on standbys came with PostgreSQL 16 (release notes, E.1.3.1).
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres import stream_start
from dbmazz_core.connectors.sources.postgres.server.blockers import LOG_STANDBY_SNAPSHOT
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import (
    PublicationNotFound,
    ServerChanged,
    SlotCreationBlocked,
    SlotLost,
    SlotMismatch,
    SourceNotReady,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import FlushConfig
from tests.sources.postgres.setup.kit import apply
from tests.support.before import before
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database

pytestmark = pytest.mark.since(16)

TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY FULL;"
    "CREATE PUBLICATION dbmazz_pub FOR TABLE t; INSERT INTO t VALUES (1, 'one')"
)


@dataclass(slots=True)
class Pair:
    """A primary, and a standby from which the lab captures."""

    primary: Lab
    standby: Lab

    def write(self, statement: str) -> None:
        """Run SQL on the primary, and wait until the standby has replayed it."""
        self.primary.execute(statement)
        ((lsn,),) = self.primary.database.fetch("SELECT pg_current_wal_flush_lsn()::text")
        self.await_replayed(Lsn.parse(lsn))

    def await_replayed(self, lsn: Lsn) -> None:
        deadline = time.monotonic() + 60
        while True:
            ((replayed,),) = self.standby.database.fetch("SELECT pg_last_wal_replay_lsn()::text")
            if replayed is not None and Lsn.parse(replayed) >= lsn:
                return
            assert time.monotonic() < deadline, f"the standby is at {replayed}, not at {lsn}"
            time.sleep(0.02)

    def promote(self) -> None:
        assert self.standby.database.fetch("SELECT pg_promote()") == [(True,)]

    @contextmanager
    def snapshots_logged(self) -> Iterator[None]:
        """Without them, the creation of a slot on the standby waits."""
        done = threading.Event()

        def work() -> None:
            while not done.wait(0.2):
                self.primary.database.fetch(LOG_STANDBY_SNAPSHOT + "::text")

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.fixture
def pair(server: EmbeddedPostgres, duckdb_path: Path) -> Iterator[Pair]:
    if server.major < 16:
        pytest.skip("standbys decode from PostgreSQL 16 on")
    with (
        EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as primary,
        EmbeddedPostgres(settings=UNSAFE_BUT_FAST | {"hot_standby_feedback": "on"}) as standby,
    ):
        lab = Lab(create_database(primary), duckdb_path)
        lab.execute(TABLE)
        primary.kill()
        standby.kill()
        settings = (standby.data_dir / "postgresql.conf").read_text()  # where its socket is
        owner = standby.data_dir.stat()
        shutil.rmtree(standby.data_dir)
        subprocess.run(["cp", "-a", primary.data_dir, standby.data_dir], check=True)
        (standby.data_dir / "postmaster.pid").unlink()
        signal = standby.data_dir / "standby.signal"
        signal.touch()
        shutil.chown(signal, owner.st_uid, owner.st_gid)
        (standby.data_dir / "postgresql.conf").write_text(f"{settings}\nprimary_conninfo = '{lab.database.url}'\n")
        standby.password = primary.password
        primary.start()
        standby.start()
        yield Pair(lab, replace(lab, database=replace(lab.database, server=standby)))


@pytest.fixture
def captured(pair: Pair) -> Pair:
    """With a slot on the standby, and a destination."""
    with pair.snapshots_logged():
        pair.standby.capture_and_compare("t")
    return pair


def assert_goes_on(pair: Pair) -> None:
    """The promoted server is captured from where the run ended."""
    pair.standby.execute("INSERT INTO t VALUES (1000, 'of the new timeline')")
    pair.standby.capture_and_compare("t")
    assert pair.standby.rows("SELECT timeline FROM _dbmazz.checkpoints") == [(2,)]


def test_a_standby_is_captured(captured: Pair) -> None:
    captured.write("INSERT INTO t VALUES (2, 'two'); UPDATE t SET v = 'uno' WHERE id = 1")
    assert captured.standby.capture_and_compare("t").changes == 2
    captured.promote()
    assert_goes_on(captured)


def test_a_database_with_serializable_transactions_as_default(pair: Pair) -> None:
    """A standby runs no query in such a transaction."""
    elsewhere = replace(pair.standby.database, name="postgres")  # a database with the server's default

    def write(statement: str) -> None:
        pair.primary.execute(statement)
        ((lsn,),) = pair.primary.database.fetch("SELECT pg_current_wal_flush_lsn()::text")
        deadline = time.monotonic() + 60
        while elsewhere.fetch("SELECT pg_last_wal_replay_lsn() < %s::pg_lsn", lsn) != [(False,)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    write(f"ALTER DATABASE {pair.primary.database.name} SET default_transaction_isolation = serializable")
    with pair.snapshots_logged():
        pair.standby.capture()
    assert pair.standby.rows("FROM public.t") == [(1, "one")]
    write("INSERT INTO t VALUES (2, 'two')")
    pair.standby.capture()
    assert pair.standby.rows("FROM public.t ORDER BY id") == [(1, "one"), (2, "two")]


def test_a_teardown_on_a_standby(captured: Pair) -> None:
    """It drops the slot, and says who can drop the publication."""
    captured.primary.execute("COMMENT ON PUBLICATION dbmazz_pub IS 'created by dbmazz'")
    standby = captured.standby
    dropped, left = standby.pipeline.teardown()
    assert dropped == f"dropped replication slot {standby.slot}"
    assert "standby; to drop it, on the primary: DROP PUBLICATION" in left
    with pytest.raises(SourceNotReady, match="because the server is a standby") as info:
        standby.pipeline.teardown(drop_publication=True)
    assert info.value.remedy == 'on the primary: DROP PUBLICATION IF EXISTS "dbmazz_pub";'
    captured.write(info.value.remedy.partition(": ")[2])
    assert standby.pipeline.teardown(drop_publication=True) == []


def test_the_default_publication_on_a_standby(captured: Pair, tmp_path: Path) -> None:
    """A slot that has begun with `dbmazz_pub` keeps it; the publication of a new slot is created on the primary."""
    older = captured.standby.configured(source={"publication": None})
    captured.write("INSERT INTO t VALUES (2, 'two')")
    assert older.pipeline.status().source.publication == "dbmazz_pub"
    assert older.pipeline.check().ok
    assert older.capture_and_compare("t").changes == 1

    new = replace(older.configured(slot=f"{older.slot}_2"), path=tmp_path / "new.duckdb")
    with pytest.raises(PublicationNotFound, match=f'"{new.slot}_pub" does not exist, and cannot be created') as info:
        new.capture()
    captured.write(info.value.remedy.removeprefix("on the primary: "))
    with captured.snapshots_logged():
        new.capture_and_compare("t")
    assert older.pipeline.status().source.publication == "dbmazz_pub"


def test_a_slot_on_a_standby_waits_for_the_primary(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A primary at rest does not log its open transactions by itself."""
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.snapshot.exported.REPORT_WAIT_AFTER_S", 0.1)
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.snapshot.exported.MAX_WAIT_S", 1.0)
    said: list[Progress] = []
    with pytest.raises(SlotCreationBlocked, match="on a standby waited") as info:
        pair.standby.capture(progress=said.append)
    assert LOG_STANDBY_SNAPSHOT in info.value.remedy
    assert [LOG_STANDBY_SNAPSHOT in report.message for report in said if report.phase == "wait"][:1] == [True]


def lose_slot(pair: Pair, make: Callable[[], object]) -> SlotLost:
    """Do something until the standby has invalidated the slot; return the capture's error."""
    deadline = time.monotonic() + 60
    while pair.standby.database.fetch("SELECT DISTINCT wal_status FROM pg_replication_slots") != [("lost",)]:
        assert time.monotonic() < deadline
        make()
        time.sleep(0.2)
    with pytest.raises(SlotLost) as info:
        pair.standby.capture()
    pair.standby.assert_found_by_check(info.value)
    return info.value


def snapshot_again(pair: Pair) -> None:
    with pair.snapshots_logged():
        pair.standby.pipeline.snapshot()
    pair.write("INSERT INTO t VALUES (2, 'two')")
    pair.standby.capture_and_compare("t")


def test_a_slot_whose_catalog_rows_the_primary_vacuums(captured: Pair) -> None:
    standby = captured.standby
    standby.database.execute("ALTER SYSTEM SET hot_standby_feedback = off")
    standby.database.fetch("SELECT pg_reload_conf()")

    def vacuum() -> None:
        for statement in ("CREATE TABLE gone (); DROP TABLE gone", "VACUUM pg_class", "VACUUM pg_attribute"):
            captured.primary.execute(statement)

    assert [f.object for f in standby.pipeline.check().warnings if "catalog" in f.what] == ["hot_standby_feedback"]
    error = lose_slot(captured, vacuum)
    assert "the primary removed rows of its catalog" in error.what
    apply(standby.database, error.remedy.partition("; if wal_level")[0])
    assert not [f for f in standby.pipeline.check().warnings if "catalog" in f.what]
    snapshot_again(captured)
    vacuum()
    vacuum()
    captured.write("INSERT INTO t VALUES (3, 'three')")
    standby.capture_and_compare("t")


def test_a_primary_whose_wal_level_is_lowered(captured: Pair) -> None:
    primary = captured.primary
    primary.execute("ALTER SYSTEM SET wal_level = replica")
    primary.database.server.restart()
    error = lose_slot(captured, lambda: None)
    assert "no longer logical" in error.what
    apply(primary.database, error.remedy[error.remedy.index("on the primary: ") :])
    primary.database.server.restart()
    captured.write("INSERT INTO t VALUES (5, 'five')")
    snapshot_again(captured)


def test_a_slot_that_the_standby_copies_from_the_primary(pair: Pair, server: EmbeddedPostgres) -> None:
    """For a failover: it can be used after the promotion."""
    if server.major < 17:
        pytest.skip("slots are copied from PostgreSQL 17 on")
    standby = pair.standby
    pair.primary.database.fetch("SELECT pg_create_physical_replication_slot('of_standby')")
    standby.database.execute("ALTER SYSTEM SET primary_slot_name = 'of_standby'")
    standby.database.execute("ALTER SYSTEM SET sync_replication_slots = on")
    standby.database.fetch("SELECT pg_reload_conf()")
    pair.primary.database.fetch(
        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)", standby.slot
    )
    deadline = time.monotonic() + 60
    while standby.database.fetch("SELECT synced AND NOT temporary FROM pg_replication_slots") != [(True,)]:
        assert time.monotonic() < deadline
        pair.write("SELECT pg_log_standby_snapshot(); INSERT INTO t SELECT max(id) + 1 FROM t")
        # A copy is kept only once the primary's slot is past what the standby still has.
        pair.primary.database.fetch("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", standby.slot)
    with pytest.raises(SlotMismatch, match="cannot be used before a promotion") as info:
        standby.capture()
    standby.assert_found_by_check(info.value)
    pair.promote()
    standby.capture_and_compare("t")


BEFORE_THE_STREAM = (stream_start, "open_stream")
BEFORE_THE_LOOK_AT_THE_SLOT = (stream_start, "verify_held_slot")
BEFORE_THE_FIRST_CHANGES = (PostgresStream, "next")


@pytest.mark.parametrize("moment", [BEFORE_THE_STREAM, BEFORE_THE_LOOK_AT_THE_SLOT, BEFORE_THE_FIRST_CHANGES], ids=str)
def test_a_standby_promoted_before_anything_is_applied(
    captured: Pair, moment: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    captured.write("INSERT INTO t VALUES (2, 'two')")
    with monkeypatch.context() as patch, captured.standby.nothing_changes("public.t"):
        before(patch, *moment, captured.promote)
        with pytest.raises(ServerChanged, match="promoted"):
            captured.standby.capture()
    assert_goes_on(captured)


def test_a_standby_promoted_between_flushes(captured: Pair) -> None:
    """What was flushed before stays, under the old timeline, and the next run is not refused for it."""
    for number in range(2, 200):
        captured.primary.execute(f"INSERT INTO t VALUES ({number}, repeat('x', 2000))")
    captured.write("INSERT INTO t VALUES (500, 'the last one')")
    flushes = 0

    def progress(report: Progress) -> None:
        nonlocal flushes
        if report.phase == "stream":
            if not flushes:
                captured.promote()
            flushes += 1
            captured.standby.execute(f"INSERT INTO t VALUES ({2000 + flushes}, 'after')")

    lab = captured.standby.configured(flush=FlushConfig(size=1))
    with contextlib.suppress(ServerChanged):  # unless all had been received before
        lab.capture(progress=progress)
    assert flushes
    assert lab.rows("SELECT timeline FROM _dbmazz.checkpoints") == [(1,)]
    assert_goes_on(captured)
