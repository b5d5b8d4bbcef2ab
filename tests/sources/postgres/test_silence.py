"""Connections that go silent without being closed: a dead one is an error within a minute, a busy server is not."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from dbmazz_core.connectors.sources.postgres import connection as connection_module
from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.connection import connect, session_conninfo
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection, open_stream
from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import INVALID_LSN
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.proxy_fixture import Proxy
from tests.support.silence_fixture import LIMIT_S


def config(database: SourceDatabase, url: str) -> SourceConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", database.name)
    return SourceConfig(SecretUrl(url), parse_tables("t"), slot=database.name, publication="p")


def interrupted(act: Callable[[], object]) -> tuple[str, float]:
    """The error's text, and the seconds until it came."""
    started = time.monotonic()
    with pytest.raises(ReplicationInterrupted) as info:
        act()
    return str(info.value), time.monotonic() - started


def read_on(reader: StreamReceiver) -> None:
    """As a window does, without end. A look at the server does not delay it: a window may be asked to stop."""
    while True:
        started = time.monotonic()
        block = reader.read(0.05)
        assert time.monotonic() - started < LIMIT_S / 2
        if block is None:
            reader.request_keepalive()


# The stream


@pytest.mark.parametrize("way", ["stalled", "half"])
def test_a_stream_that_goes_silent(database: SourceDatabase, proxy: Proxy, impatient: None, way: str) -> None:
    """The proxy acknowledges every packet, and passes none on: to nobody, or on this connection only."""
    with closing(open_stream(config(database, proxy.url(database)), INVALID_LSN)) as reader:
        reader.confirm(INVALID_LSN)
        database.execute("INSERT INTO t VALUES (1)")
        while (block := reader.read(5)) is None or not len(block):
            pass
        proxy.stall(new=way == "stalled")
        text, seconds = interrupted(lambda: read_on(reader))
    assert seconds < LIMIT_S + 10
    assert "run again" in text
    assert ("takes no new connection" if way == "stalled" else "waits for its client") in text
    proxy.resume()


def test_a_stream_whose_walsender_has_ended(database: SourceDatabase, proxy: Proxy, impatient: None) -> None:
    with closing(open_stream(config(database, proxy.url(database)), INVALID_LSN)) as reader:
        reader.confirm(INVALID_LSN)
        proxy.stall(new=False)
        database.fetch("SELECT pg_terminate_backend(%s)", reader.walsender_pid)
        text, _ = interrupted(lambda: read_on(reader))
    assert f"process {reader.walsender_pid} has ended" in text
    proxy.resume()


def test_a_walsender_that_is_busy_is_waited_for(database: SourceDatabase, impatient: None) -> None:
    """It answers no request while it skips the rows of a large transaction that are not published."""
    settings = config(database, database.url)
    database.execute("CREATE TABLE unpublished (id int); INSERT INTO unpublished SELECT generate_series(1, 700000)")
    database.execute("INSERT INTO t VALUES (1)")
    with closing(open_stream(settings, INVALID_LSN)) as reader:
        reader.confirm(INVALID_LSN)
        while (block := reader.read(60)) is None or not any(payload[:1] == b"I" for _, payload in block):
            reader.request_keepalive()


def test_an_idle_stream_is_not_silent(database: SourceDatabase, impatient: None) -> None:
    """Also where the program asks for nothing: the receiver does."""
    with closing(open_stream(config(database, database.url), INVALID_LSN)) as reader:
        reader.confirm(INVALID_LSN)
        end = time.monotonic() + 3 * LIMIT_S
        while time.monotonic() < end:
            reader.read(1)
        database.execute("INSERT INTO t VALUES (1)")
        while (block := reader.read(5)) is None or not len(block):
            pass


# Ordinary connections


@pytest.mark.parametrize("new", [True, False], ids=["stalled", "half"])
def test_a_query_whose_answer_is_lost(database: SourceDatabase, proxy: Proxy, impatient: None, new: bool) -> None:
    url = SecretUrl(proxy.url(database))
    with closing(connect(url)) as connection:

        def ask() -> None:
            with translate_errors(url):
                connection.execute("SELECT 1")

        ask()
        proxy.stall(new=new)
        text, seconds = interrupted(ask)
        assert seconds < LIMIT_S + 10
        assert "run it again" in text
        assert connection.closed
    proxy.resume()


def test_a_query_that_takes_long_is_waited_for(database: SourceDatabase, impatient: None) -> None:
    """It works, or waits for a lock."""
    database.execute("CREATE TABLE t (id int)")
    url = SecretUrl(database.url)
    with closing(connect(url)) as connection, database.connect() as other:
        assert connection.execute("SELECT 1 FROM pg_sleep(%s)", [3 * LIMIT_S]).fetchone() == (1,)
        other.execute("BEGIN; LOCK TABLE t")
        timer = threading.Timer(3 * LIMIT_S, lambda: other.execute("COMMIT"))
        timer.start()
        assert connection.execute("SELECT count(*) FROM public.t").fetchone() == (0,)
        timer.join()


def test_ctrl_c_cancels_a_query(database: SourceDatabase) -> None:
    """psycopg's own reaction stays, and the connection is usable after it."""
    with closing(connect(SecretUrl(database.url))) as connection:
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            connection.execute("SELECT pg_sleep(30)")
        assert time.monotonic() - started < 10
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_is_full_is_not_dead(database: SourceDatabase) -> None:
    server, role = database.server, f"r_{database.name}"
    with closing(connect(SecretUrl(database.url))) as connection:
        database.execute(f"ALTER DATABASE {database.name} CONNECTION LIMIT 0")
        database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'r'")
        conninfo = f"postgres://{role}:r@{server.host}:{server.port}/{database.name}"
        assert silence.connection_is_dead(conninfo, connection.info.backend_pid) is None
        assert silence.connection_is_dead(database.url, connection.info.backend_pid, asked=False) is None
        assert "waits for its client" in str(silence.connection_is_dead(database.url, connection.info.backend_pid))
        database.execute(f"DROP ROLE {role}")


def test_commands_of_the_replication_connection(database: SourceDatabase, proxy: Proxy, impatient: None) -> None:
    with ReplicationConnection(SecretUrl(proxy.url(database)), slot="s", publication="p") as connection:
        connection.identify_system()
        proxy.stall()
        text, seconds = interrupted(connection.identify_system)
        assert seconds < LIMIT_S + 1
        assert "did not answer within" in text
        proxy.resume()


# Copies


@pytest.mark.parametrize("new", [True, False], ids=["stalled", "half"])
def test_a_copy_that_goes_silent(
    database: SourceDatabase, proxy: Proxy, impatient: None, tmp_path: Path, new: bool
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    database.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 600000) i")
    lab = Lab(database, tmp_path / "d.duckdb", settings={"url": proxy.url(database)})
    stalled: list[float] = []

    def stall(progress: Progress) -> None:
        if not stalled and progress.phase == "snapshot" and progress.rows:
            proxy.stall(new=new)
            stalled.append(time.monotonic())

    with pytest.raises(ReplicationInterrupted, match="broke"):
        lab.pipeline.capture(progress=stall)
    assert time.monotonic() - stalled[0] < 3 * LIMIT_S + 10
    proxy.resume()
    lab.capture()
    assert lab.rows("SELECT count(*), sum(id) FROM public.t") == [(600_000, 600_000 * 600_001 // 2)]


# TCP


def test_options_of_tcp_are_ours_unless_the_user_has_set_them(database: SourceDatabase) -> None:
    shown = conninfo_to_dict(session_conninfo(SecretUrl(database.url), "x"))
    assert {name: shown[name] for name in silence.TCP_OPTIONS} == silence.TCP_OPTIONS
    own = SecretUrl(f"{database.url}?keepalives=0&keepalives_idle=77&tcp_user_timeout=90000")
    shown = conninfo_to_dict(session_conninfo(own, "x"))
    assert [shown[name] for name in ("keepalives", "keepalives_idle", "tcp_user_timeout")] == ["0", "77", "90000"]


#: A network namespace behind a pair of interfaces, and in it a way to the server's Unix socket, which has no network.
NAMESPACE = """
set -e
ip netns add {name}
trap 'test -z "$!" || kill $!; ip link del {near}; ip netns del {name}' EXIT
ip link add {near} type veth peer name {far} netns {name}
ip addr add 10.99.{number}.1/30 dev {near}
ip link set {near} up
ip netns exec {name} ip addr add 10.99.{number}.2/30 dev {far}
ip netns exec {name} ip link set {far} up
ip netns exec {name} {python} -c '{forwarder}' {socket} &
read line
ip netns exec {name} ip link set {far} down
read line
"""
FORWARDER = """
import socket, sys, threading
def copy(a, b):
    while data := a.recv(1 << 16):
        b.sendall(data)
server = socket.create_server(("0.0.0.0", 5432))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    upstream = socket.socket(socket.AF_UNIX)
    upstream.connect(sys.argv[1])
    for pair in ((client, upstream), (upstream, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


@dataclass
class Line:
    """A line to the server; `cut` drops every packet from then on, without a word to either end."""

    url: str
    process: subprocess.Popen[str]

    def cut(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("cut\n")
        self.process.stdin.flush()


#: Numbers of lines, for addresses and names; other processes that test begin elsewhere.
LINES = itertools.count(os.getpid() % 200)


@pytest.fixture
def line(database: SourceDatabase) -> Iterator[Line]:
    """A line that drops packets."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and the program ip, for a network namespace")
    number = next(LINES)
    script = NAMESPACE.format(
        name=f"dbmazz{number}",
        near=f"dbmazz{number}n",
        far=f"dbmazz{number}f",
        number=number,
        python=sys.executable,
        forwarder=FORWARDER,
        socket=database.server.socket_dir / f".s.PGSQL.{database.server.port}",
    )
    with subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            process.stdin.close()
            pytest.skip(f"network namespaces cannot be made here: {process.stderr.read().strip()}")
        direct = f"@{database.server.host}:{database.server.port}/"
        yield Line(database.url.replace(direct, f"@10.99.{number}.2:5432/"), process)
        process.stdin.close()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our options of TCP, with a tenth of their times."""
    tenth = {"keepalives_idle": "1", "keepalives_interval": "1", "tcp_user_timeout": "3000"}
    for option, value in tenth.items():
        monkeypatch.setitem(connection_module._DEFAULT_OPTIONS, option, value)


@pytest.mark.parametrize("sending", [False, True], ids=["waiting", "sending"])
@pytest.mark.parametrize("kind", ["query", "stream"])
def test_packets_that_are_dropped(
    database: SourceDatabase, line: Line, hurried: None, kind: str, sending: bool
) -> None:
    """TCP alone notices: by probes while we wait, and by the limit for data that nobody acknowledges."""
    url = SecretUrl(line.url)
    with contextlib.ExitStack() as stack:
        if kind == "query":
            connection = stack.enter_context(closing(connect(url)))
        else:
            reader = stack.enter_context(closing(open_stream(config(database, line.url), INVALID_LSN)))
            if sending:
                reader.confirm(INVALID_LSN)

        def act() -> None:
            if kind == "query":
                with translate_errors(url):
                    connection.execute("SELECT pg_sleep(60)")
            else:
                read_on(reader)

        timer = threading.Timer(0 if sending else 0.5, line.cut)
        timer.start()
        if sending:
            timer.join()
        text, seconds = interrupted(act)
        timer.join()
    assert seconds < 15
    assert "broke" in text
