"""Servers that are not what they were: restored, promoted; and engines that are not alone."""

from __future__ import annotations

import itertools
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources import create_source
from dbmazz_core.connectors.sources.postgres import stream_start
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.result import StopReason, WindowResult
from dbmazz_core.errors import (
    DbmazzError,
    DestinationConflict,
    HistoryDiverged,
    ServerBehindCheckpoint,
    ServerChanged,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import WindowLimits
from tests.support.before import before
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database
from tests.support.proxy_fixture import Proxy
from tests.support.worker_process import Worker


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
        checkpoint = own.pipeline.status().checkpoint
        assert checkpoint is not None
        source.verify_position(checkpoint, and_feed=False)


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


# -- another history at the same positions


def written_on_past(lab: Lab, checkpoint: Lsn) -> None:
    """Write until the server's WAL is beyond the checkpoint again."""
    for first in itertools.count(1_000_000, 1000):
        lab.execute(f"INSERT INTO t SELECT i, repeat('other', 50) FROM generate_series({first}, {first + 999}) i")
        ((position,),) = lab.database.fetch("SELECT pg_current_wal_flush_lsn()::text")
        if Lsn.parse(position) > checkpoint:
            return


@pytest.mark.parametrize("limits", [WindowLimits(), WindowLimits(max_changes=1)], ids=["whole windows", "short ones"])
def test_a_copy_of_the_server_that_is_written_beyond_the_checkpoint(
    own: Lab, tmp_path: Path, limits: WindowLimits
) -> None:
    """Positions and timeline fit; the last transaction that was applied is not there."""
    backup(own, tmp_path / "backup")
    own.execute("INSERT INTO t SELECT i, 'lost by the restore' FROM generate_series(2, 20) i")
    own.capture_and_compare("t")
    restore(own, tmp_path / "backup", new_timeline=False)
    written_on_past(own, own.checkpoint)
    for _ in range(2):
        with own.nothing_changes("public.t"), pytest.raises(HistoryDiverged, match="last transaction") as info:
            own.capture(limits=limits)
    assert "dbmazz snapshot" in info.value.remedy
    assert_repaired_by_a_new_snapshot(own)


def test_a_copy_of_the_server_from_before_the_first_rows_were_copied(own: Lab, tmp_path: Path) -> None:
    """No transaction with changes was applied since: the one behind the copies tells."""
    own.pipeline.teardown()
    own.path.unlink()
    own.pipeline.setup()
    backup(own, tmp_path / "backup")
    own.execute("INSERT INTO t VALUES (2, 'lost by the restore')")
    assert own.capture_and_compare("t").changes == 0
    restore(own, tmp_path / "backup", new_timeline=False)
    written_on_past(own, own.checkpoint)
    with own.nothing_changes("public.t"), pytest.raises(HistoryDiverged, match="last transaction"):
        own.capture()
    assert_repaired_by_a_new_snapshot(own)


def test_a_copy_of_the_server_with_nothing_captured_since_goes_on(own: Lab, tmp_path: Path) -> None:
    """What the destination holds is in the copy as well; only what it never had is another's."""
    own.execute("INSERT INTO t VALUES (2, 'in the copy')")
    own.capture_and_compare("t")
    backup(own, tmp_path / "backup")
    own.execute("INSERT INTO t VALUES (3, 'lost by the restore, and never captured')")
    restore(own, tmp_path / "backup", new_timeline=False)
    own.execute("INSERT INTO t VALUES (4, 'after')")
    own.capture_and_compare("t")


@pytest.mark.parametrize("more", [True, False], ids=["rows come", "nothing comes"])
def test_a_commit_that_was_not_acknowledged_comes_again(lab: Lab, more: bool) -> None:
    """What a crash between the destination's commit and the acknowledgement leaves."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)")
    lab.capture_and_compare("t", "u")
    before = lab.confirmed
    lab.transactions(*(f"INSERT INTO t VALUES ({n}, 'a'); INSERT INTO u VALUES ({n})" for n in range(5)))
    worker = Worker(lab, DBMAZZ_TEST_DIE_AT="stream:1", FLUSH_SIZE="1")
    assert worker.end()[0] == -signal.SIGKILL
    ((commit_lsn,),) = lab.rows("SELECT commit_lsn FROM _dbmazz.checkpoints")
    assert before <= lab.confirmed
    if more:
        lab.transactions("UPDATE t SET v = 'b'", "ALTER TABLE u ADD n int; INSERT INTO u VALUES (100, 1)")
    result = lab.capture_and_compare("t", "u")
    assert result.transactions == (6 if more else 4)
    assert lab.confirmed == lab.checkpoint > Lsn(commit_lsn)


# -- several servers


@pytest.fixture
def clone(own: Lab) -> Iterator[EmbeddedPostgres]:
    """Another server with the same data, slot and all, which has written on by itself."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as other:
        other.kill()
        other.password = own.database.server.password
        settings = (other.data_dir / "postgresql.conf").read_text()  # where its socket is
        shutil.rmtree(other.data_dir)
        backup(own, other.data_dir)
        (other.data_dir / "postgresql.conf").write_text(settings)
        (other.data_dir / "postmaster.pid").unlink()
        other.start()
        written_on_past(replace(own, database=replace(own.database, server=other)), own.checkpoint)
        own.execute("INSERT INTO t VALUES (2, 'not in the clone')")
        yield other


def test_a_url_with_two_hosts_of_which_the_first_goes_away(
    own: Lab, clone: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run speaks with one server: it does not go on with the second one."""
    with Proxy(own.database.server) as proxy:
        hosts = f"{proxy.host}:{proxy.port},{clone.host}:{clone.port}"
        both = own.configured(url=re.sub("@[^/]+/", f"@{hosts}/", own.database.url))
        with monkeypatch.context() as patch, own.nothing_changes("public.t"):
            before(patch, stream_start, "open_stream", proxy.close)
            with pytest.raises(DbmazzError, match=str(proxy.port)):
                both.capture()
    own.capture_and_compare("t")


def test_connections_that_are_led_to_another_server(
    own: Lab, clone: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a proxy, a pooler, a name with another address."""
    with Proxy(own.database.server) as proxy:
        balanced = own.configured(url=proxy.url(own.database))
        with monkeypatch.context() as patch, own.nothing_changes("public.t"):
            before(patch, stream_start, "open_stream", lambda: proxy.lead_to(clone))
            with pytest.raises(ServerChanged, match="another server") as info:
                balanced.capture()
        assert "pooler" in info.value.remedy
    own.capture_and_compare("t")


def test_a_server_that_is_restarted_before_the_stream(own: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    own.execute("INSERT INTO t VALUES (2, 'two')")
    rows, checkpoint = own.rows("FROM public.t"), own.checkpoint
    with monkeypatch.context() as patch:
        before(patch, stream_start, "open_stream", own.database.server.restart)
        with pytest.raises(ServerChanged, match="restarted"):
            own.capture()
    assert (own.rows("FROM public.t"), own.checkpoint) == (rows, checkpoint)
    assert own.confirmed <= checkpoint  # before PostgreSQL 17, a restart may forget what was confirmed last
    own.capture_and_compare("t")


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


def test_two_captures_of_one_file_take_turns_or_say_why(lab: Lab) -> None:
    """As threads, which DuckDB lets both have the file: PostgreSQL lets one have the slot."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (0)")
    lab.capture()
    for n in range(1, 4):
        lab.execute(f"INSERT INTO t VALUES ({n})")
        results = at_once(lab, lab)
        good = [result for result in results if isinstance(result, WindowResult)]
        assert good, results
        assert all(result.stop_reason is StopReason.CAUGHT_UP for result in good)
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
