"""The process that receives the stream: it ends with its reader, and its reader with it."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres.replication import launcher, transport
from dbmazz_core.connectors.sources.postgres.replication.buffers import BufferPool
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import ParseError, ReplicationInterrupted, SlotNotFound, SourceError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from tests.support.lab import Lab
from tests.support.postgres_fixtures import MATRIX_VARIABLE, TLS, UNSAFE_BUT_FAST, SourceDatabase, create_database
from tests.support.proxy_fixture import Proxy


def config(database: SourceDatabase) -> SourceConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", database.name)
    return SourceConfig(SecretUrl(database.url), parse_tables("t"), slot=database.name, publication="p")


def holders(database: SourceDatabase) -> list[tuple[object, ...]]:
    return database.fetch("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active", database.name)


def wait_for_release(database: SourceDatabase) -> None:
    deadline = time.monotonic() + 10
    while holders(database):
        assert time.monotonic() < deadline, "the slot is still held"
        time.sleep(0.05)


def test_messages_arrive_in_order_and_acknowledgements_reach_the_server(database: SourceDatabase) -> None:
    reader = StreamReader(config(database), INVALID_LSN)
    for first in range(0, 5000, 1000):
        database.execute(f"INSERT INTO t SELECT generate_series({first}, {first + 999})")
    inserts, end = 0, Lsn.parse(str(database.fetch("SELECT pg_current_wal_flush_lsn()::text")[0][0]))
    while True:
        block = reader.read(5)
        assert block is not None
        positions = [lsn for (lsn, payload) in block if payload[:1] == b"I"]
        assert positions == sorted(positions)
        inserts += len(positions)
        if block.server_end >= end:
            break
    assert inserts == 5000
    reader.confirm(end)
    reader.close()
    wait_for_release(database)
    query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
    assert Lsn.parse(str(database.fetch(query, database.name)[0][0])) == end


def test_a_receiver_that_is_killed_is_an_error_with_a_way_out(database: SourceDatabase) -> None:
    reader = StreamReader(config(database), INVALID_LSN)
    os.kill(reader.pid, signal.SIGKILL)
    with pytest.raises(ReplicationInterrupted, match="ended"):
        while True:
            reader.read(5)
    reader.close()
    wait_for_release(database)


def test_an_error_that_leaves_the_connection_open_ends_the_stream(database: SourceDatabase) -> None:
    """A walsender goes on waiting for commands after one, so that the socket says nothing more."""
    reader = StreamReader(config(database), INVALID_LSN)
    database.execute("INSERT INTO t VALUES (1)")
    while (block := reader.read(5)) is None or b"I" not in bytes(block.types):
        pass
    database.execute(f"SELECT pg_cancel_backend({holders(database)[0][0]})")
    deadline = time.monotonic() + 10
    with pytest.raises(SourceError, match="canceling statement due to user request"):
        while time.monotonic() < deadline:
            reader.read(1)
    reader.close()
    wait_for_release(database)


def test_a_reader_that_is_killed_leaves_no_receiver_and_no_held_slot(database: SourceDatabase) -> None:
    settings = config(database)
    code = (
        "import pickle, sys, time; "
        "from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader; "
        "from dbmazz_core.lsn import INVALID_LSN; reader = StreamReader(pickle.load(sys.stdin.buffer), INVALID_LSN); "
        "print('reading', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pickle.dumps(settings))
    process.stdin.close()
    assert process.stdout.readline() == b"reading\n"
    assert holders(database)
    process.kill()
    process.wait()
    wait_for_release(database)


def test_what_the_server_refuses_is_raised_where_the_stream_is_wanted(database: SourceDatabase) -> None:
    settings = config(database)
    database.fetch("SELECT pg_drop_replication_slot(%s)", database.name)
    with pytest.raises(SlotNotFound) as caught:
        StreamReader(settings, INVALID_LSN)
    assert caught.value.remedy
    assert database.name in caught.value.object


def test_errors_cross_processes_whole() -> None:
    error = ParseError("torn", message_type="I", offset=7, lsn=Lsn(16))
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.offset, copy.lsn) == (ParseError, str(error), 7, Lsn(16))
    assert copy.to_dict() == error.to_dict()


def _fork_server_pid() -> int:
    """The process that forks receivers."""
    launcher.prestart()
    children = [c for task in Path("/proc/self/task").iterdir() for c in (task / "children").read_text().split()]
    (pid,) = [c for c in children if b"receiver_process" in Path(f"/proc/{c}/cmdline").read_bytes()]
    return int(pid)


def test_streams_of_one_program_are_forked_from_one_process(database: SourceDatabase) -> None:
    settings, pids, waiting = config(database), set(), _fork_server_pid()
    for _ in range(2):
        reader = StreamReader(settings, INVALID_LSN)
        pids.add(reader.pid)
        assert f"PPid:\t{waiting}\n" in Path(f"/proc/{reader.pid}/status").read_text()
        reader.close()
        wait_for_release(database)
    assert len(pids) == 2
    assert _fork_server_pid() == waiting


def test_the_process_that_forks_is_replaced_if_it_is_killed(database: SourceDatabase) -> None:
    settings, waiting = config(database), _fork_server_pid()
    with contextlib.closing(StreamReader(settings, INVALID_LSN)) as reader:
        os.kill(waiting, signal.SIGKILL)
        database.execute("INSERT INTO t VALUES (1)")
        while not (block := reader.read(5)) or not len(block):  # the stream that runs goes on without it
            pass
    wait_for_release(database)
    StreamReader(settings, INVALID_LSN).close()
    assert _fork_server_pid() != waiting


def test_a_receiver_sees_the_surroundings_of_now(
    database: SourceDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """libpq reads variables and files of its own, such as a service file or PGPASSFILE, wherever it connects."""
    settings = config(database)
    launcher.prestart()
    (tmp_path / "services").write_text("[mine]\napplication_name=told_by_a_service\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSERVICEFILE", "services")
    monkeypatch.setenv("PGSERVICE", "mine")
    with contextlib.closing(StreamReader(settings, INVALID_LSN)):
        ((name,),) = database.fetch(
            "SELECT application_name FROM pg_stat_activity WHERE pid = (SELECT active_pid FROM pg_replication_slots "
            "WHERE slot_name = %s)",
            database.name,
        )
    assert name == "told_by_a_service"


def test_an_encrypted_connection_goes_through_libpq(tmp_path: Path) -> None:
    """Bytes of a TLS stream mean nothing to us; libpq reads them, a little slower, with the same result."""
    binaries = os.environ.get(MATRIX_VARIABLE)
    if not binaries:  # the default server is built without TLS
        pytest.skip(f"{MATRIX_VARIABLE} is not set; see `make test`")
    directory = Path(tempfile.mkdtemp(prefix="dbmazz-tls-"))
    directory.chmod(0o755)
    for name in ("server.crt", "server.key"):
        shutil.copy(TLS / name, directory / name)
    (directory / "server.key").chmod(0o640 if os.geteuid() == 0 else 0o600)
    if os.geteuid() == 0:  # PostgreSQL takes a key of root's that its own group may read
        shutil.chown(directory / "server.key", 0, pwd.getpwnam("postgres" if _has_account("postgres") else "nobody")[3])
    settings = UNSAFE_BUT_FAST | {
        "ssl": "on",
        "ssl_cert_file": str(directory / "server.crt"),
        "ssl_key_file": str(directory / "server.key"),
    }
    try:
        with EmbeddedPostgres(binaries=Path(binaries) / "16", settings=settings) as server:
            database = create_database(server)
            encrypted = database.url + ("&" if "?" in database.url else "?") + "sslmode=require"
            lab = Lab(database, tmp_path / "tls.duckdb", settings={"url": encrypted})
            database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
            lab.capture()
            database.execute("INSERT INTO t SELECT i, repeat('x', i % 500) FROM generate_series(1, 20000) i")
            database.execute("UPDATE t SET note = 'changed' WHERE id % 3 = 0")
            assert lab.capture_and_compare("t").changes == 26666
            with psycopg.connect(encrypted) as connection:
                assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (
                    True,
                )
            database.execute(f"SELECT pg_drop_replication_slot('{lab.slot}')")
            with pytest.raises(SlotNotFound):
                StreamReader(lab.config, INVALID_LSN)
    finally:
        shutil.rmtree(directory)


def test_files_called_like_modules_are_not_imported(database: SourceDatabase, tmp_path: Path) -> None:
    """From the current directory: they may be a stranger's."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    for module in ("select", "socket", "struct", "types", "numpy", "json"):
        (tmp_path / f"{module}.py").write_text(f"open('imported {module}', 'w'); raise ImportError('mine')")
    settings = {"SOURCE_URL": database.url, "TABLES": "t", "SOURCE_SLOT_NAME": database.name}
    command = [str(Path(sys.executable).with_name("dbmazz")), "capture", "--json"]
    ended = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert not list(tmp_path.glob("imported*"))


def test_a_receiver_that_cannot_start_tells_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_fork_server", None)
    monkeypatch.setattr(launcher, "_BOOT_CODE", "import sys; sys.exit('no such thing here')")
    with pytest.raises(ReplicationInterrupted, match="no such thing here"):
        launcher.start_receiver()
    monkeypatch.setattr(launcher, "_fork_server", None)


FORKING = """
import os, pickle, sys, time
from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader
from dbmazz_core.lsn import INVALID_LSN
reader = StreamReader(pickle.load(sys.stdin.buffer), INVALID_LSN)
reader.start_acknowledging(INVALID_LSN)
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
sys.stdin.close()
if {close}:
    started = time.monotonic()
    reader.close()
    print(time.monotonic() - started, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("close", [True, False], ids=["closed", "killed"])
def test_a_program_that_forks_while_it_streams(database: SourceDatabase, close: bool) -> None:
    """What a fork holds copies of neither delays the end of the stream, nor keeps the slot."""
    settings = config(database)
    code = FORKING.format(close=close)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(pickle.dumps(settings))
    process.stdin.close()
    child = int(process.stdout.readline())
    try:
        if close:
            assert float(process.stdout.readline()) < 2
        else:
            assert holders(database)
            process.kill()
            process.wait()
        wait_for_release(database)
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()


def test_a_view_that_outlives_the_stream_writes_into_no_file(database: SourceDatabase, tmp_path: Path) -> None:
    """Its end may come in any thread, when descriptors of the stream are other files' by then."""
    reader = StreamReader(config(database), INVALID_LSN)
    database.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    while (block := reader.read(5)) is None or not len(block):
        pass
    assert block.buffer_number is not None
    buffers = reader._buffers
    assert buffers is not None
    assert buffers._bytes[block.buffer_number] == 1
    number = block.buffer_number
    reader.close()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((tmp_path / str(n)).open("wb", buffering=0)) for n in range(20)]
        thread = threading.Thread(target=lambda held: held.clear(), args=([block],))
        del block
        thread.start()
        thread.join()
        gc.collect()
        assert buffers._bytes[number] == 0
        assert all(file.tell() == 0 for file in files)


def test_a_server_that_says_nothing_ends_the_wait(
    database: SourceDatabase, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler that accepts, a network that drops every packet."""
    settings = replace(config(database), url=SecretUrl(proxy.url(database)))
    launcher.prestart()
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.replication.reader._START_TIMEOUT_S", 1.0)
    proxy.stall()
    started = time.monotonic()
    with pytest.raises(ReplicationInterrupted, match="no answer within") as info:
        StreamReader(settings, INVALID_LSN)
    assert time.monotonic() - started < 8
    assert "run again" in info.value.remedy
    proxy.resume()


def test_start_replication_without_an_answer(
    database: SourceDatabase, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(database)
    monkeypatch.setattr(transport, "ANSWER_TIMEOUT_S", 0.5)
    connection = ReplicationConnection(SecretUrl(proxy.url(database)), slot=settings.slot, publication="p")
    send = connection.pgconn.send_query

    def stalled(command: bytes) -> None:
        proxy.stall()  # it takes the command, and passes nothing on
        send(command)

    class Stalling:
        def __getattr__(self, name: str) -> Any:
            return stalled if name == "send_query" else getattr(pgconn, name)

    pgconn, connection.pgconn = connection.pgconn, Stalling()  # type: ignore[assignment]
    with pytest.raises(SourceError, match="did not answer"):
        connection.start(INVALID_LSN)
    proxy.resume()
    connection.close()


def test_a_message_of_two_gigabytes_is_not_waited_for() -> None:
    """PostgreSQL sends none: a damaged stream."""
    ours, theirs = socket.socketpair()
    plain = transport.PlainTransport(ours, BufferPool(None))
    with ours, theirs:
        theirs.sendall(b"d\x7f\xff\xff\xffw" + bytes(40))
        while not plain.gather():
            pass
        with pytest.raises(ParseError, match="a gigabyte or more"):
            plain.read(plain.take())


def _has_account(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())
