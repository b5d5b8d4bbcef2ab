"""Servers that are not what they were: restored, promoted; and engines that are not alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbmazz_core.config import SinkConfig
from dbmazz_core.connectors.sinks import create_sink
from dbmazz_core.connectors.sources import create_source
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.errors import DbmazzError, DestinationConflict, DestinationError, ServerBehindCheckpoint
from tests.engine.lab import Lab
from tests.engine.worker_process import Worker
from tests.postgres_fixtures import UNSAFE_BUT_FAST, create_database


@pytest.fixture
def own(duckdb_path: Path) -> Iterator[Lab]:
    """A lab on a server of its own, with a captured table."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        lab = Lab(create_database(server), duckdb_path)
        lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
        lab.capture_and_compare("t")
        yield lab


def backup(lab: Lab, path: Path) -> None:
    """A copy of the data directory, as a snapshot of the disk makes it."""
    server = lab.database.server
    server.kill()
    subprocess.run(["cp", "-a", server.data_dir, path], check=True)
    server.start()


def restore(lab: Lab, path: Path, *, new_timeline: bool) -> None:
    """Put it back; to recover an archive the server begins a new timeline, as a promoted standby does."""
    server = lab.database.server
    server.kill()
    shutil.rmtree(server.data_dir)
    subprocess.run(["cp", "-a", path, server.data_dir], check=True)
    promote(lab) if new_timeline else server.start()


def promote(lab: Lab) -> None:
    """Recover what WAL there is and go on in a new timeline."""
    server = lab.database.server
    if server.running:
        server.kill()
    with (server.data_dir / "postgresql.conf").open("a") as file:
        file.write("restore_command = 'false'\n")
    (server.data_dir / "recovery.signal").touch()
    owner = server.data_dir.stat()
    shutil.chown(server.data_dir / "recovery.signal", owner.st_uid, owner.st_gid)
    server.start()
    while lab.database.fetch("SELECT pg_is_in_recovery()") == [(True,)]:
        pass


def assert_repaired_by_a_new_snapshot(lab: Lab) -> None:
    lab.pipeline.snapshot()
    lab.execute("INSERT INTO t VALUES (100000, 'after')")
    lab.capture_and_compare("t")


@pytest.mark.parametrize("new_timeline", [False, True], ids=["copied back", "recovered"])
def test_a_server_restored_from_a_backup_is_behind_the_checkpoint(own: Lab, tmp_path: Path, new_timeline: bool) -> None:
    """Its slot is as old as its rows and looks healthy; the destination has rows that it never heard of."""
    backup(own, tmp_path / "backup")
    own.execute("INSERT INTO t SELECT i, 'lost by the restore' FROM generate_series(2, 5000) i")
    own.capture_and_compare("t")
    restore(own, tmp_path / "backup", new_timeline=new_timeline)
    own.execute("INSERT INTO t VALUES (3, 'of another history')")
    with own.nothing_changes("public.t"), pytest.raises(ServerBehindCheckpoint, match=str(own.checkpoint)) as info:
        own.capture()
    own.assert_found_by_check(info.value)
    assert "dbmazz snapshot" in info.value.remedy
    assert_repaired_by_a_new_snapshot(own)


def test_a_restored_server_is_found_out_when_its_wal_is_longer_than_it_was(own: Lab, tmp_path: Path) -> None:
    """Other changes at the same positions: only the timeline tells."""
    backup(own, tmp_path / "backup")
    own.execute("INSERT INTO t VALUES (2, 'lost by the restore')")
    own.capture_and_compare("t")
    restore(own, tmp_path / "backup", new_timeline=True)
    own.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(10, 5000) i")
    with own.nothing_changes("public.t"), pytest.raises(ServerBehindCheckpoint, match="left timeline 1 at"):
        own.capture()
    assert_repaired_by_a_new_snapshot(own)


def test_a_checkpoint_that_another_capture_has_moved_is_not_ahead_of_the_server(own: Lab) -> None:
    """While this one waited for the file: where the server was before it waited says nothing."""
    with create_source(own.config) as source:
        assert source.identity.flush_lsn <= source.server_lsn()
        own.execute("INSERT INTO t VALUES (2, 'captured by another')")
        own.capture_and_compare("t")
        assert own.checkpoint > source.identity.flush_lsn
        source.verify_history(own.checkpoint, source.identity.timeline)


def test_a_promoted_server_that_has_everything_goes_on(own: Lab) -> None:
    own.execute("INSERT INTO t VALUES (2, 'before')")
    own.capture_and_compare("t")
    own.execute("INSERT INTO t VALUES (3, 'not yet captured')")
    promote(own)
    own.execute("INSERT INTO t VALUES (4, 'after')")
    assert own.capture_and_compare("t").changes == 2
    assert own.rows("SELECT timeline FROM _dbmazz.checkpoints") == [(2,)]
    own.execute("INSERT INTO t VALUES (5, 'again')")
    assert own.capture_and_compare("t").changes == 1


# -- not alone


def at_once(*labs: Lab) -> list[WindowResult | DbmazzError]:
    """Windows at the same time."""
    results: list[WindowResult | DbmazzError] = []

    def work(lab: Lab) -> None:
        try:
            results.append(lab.capture())
        except DbmazzError as error:
            results.append(error)

    threads = [threading.Thread(target=work, args=[lab]) for lab in labs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_engines_on_one_slot_lose_nothing(lab: Lab) -> None:
    """PostgreSQL lets one in; into other files or the same one."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    lab.capture()
    for n in range(1, 4):
        lab.execute(f"INSERT INTO t VALUES ({n})")
        results = at_once(lab, lab)
        assert any(isinstance(result, WindowResult) for result in results), results
        lab.assert_equal("t")


def test_two_engines_on_one_destination_take_turns(lab: Lab) -> None:
    """Two slots, two publications, one file: DuckDB lets one process in, the other waits."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    other = {"TABLES": "public.u", "SOURCE_SLOT_NAME": lab.slot + "_2", "SOURCE_PUBLICATION_NAME": "other_pub"}
    for n in range(2, 4):
        lab.execute(f"INSERT INTO t VALUES ({n}); INSERT INTO u VALUES ({n})")
        for worker in [Worker(lab, TABLES="public.t"), Worker(lab, **other)]:
            code, said = worker.end()
            assert code == 0, said
        lab.assert_equal("t", "u")
    assert len(lab.rows("SELECT DISTINCT slot FROM _dbmazz.checkpoints")) == 2


def test_a_file_that_another_engine_is_just_making_is_waited_for(lab: Lab) -> None:
    """Between making and locking it there are moments in which DuckDB finds no database in it."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture()
    whole, checkpoint = lab.path.read_bytes(), lab.checkpoint
    for begun in (0, 100, 4096):
        lab.path.write_bytes(whole[:begun])
        made = threading.Timer(0.5, lab.path.write_bytes, [whole])
        made.start()
        with create_sink(SinkConfig(url=str(lab.path))) as sink:
            found = sink.checkpoint(lab.slot)
        assert found is not None
        assert found.lsn == checkpoint
        made.join()
    lab.path.write_bytes(b"notes")
    os.utime(lab.path, (0, 0))
    with pytest.raises(DestinationError, match="not a valid DuckDB database file"):
        lab.capture()


def test_a_table_belongs_to_one_slot(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture()
    other = lab.configured(slot=lab.slot + "_2", source={"publication": "other_pub"})
    with lab.nothing_changes("public.t"), pytest.raises(DestinationConflict, match=r"public\.t"):
        other.capture()
    lab.execute("INSERT INTO t VALUES (2)")
    lab.capture_and_compare("t")


def test_an_inactive_slot_is_used_again_and_never_made_anew(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (1)")
    known = "SELECT slot_name, restart_lsn FROM pg_replication_slots"
    before = lab.database.fetch(known)
    lab.pipeline.setup()
    lab.pipeline.check()
    assert lab.database.fetch(known) == before
    assert lab.capture_and_compare("t").changes == 1
