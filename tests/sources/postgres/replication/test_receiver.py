"""The thread that receives the stream: on time whatever the program does, bounded in memory, gone with its program."""

from __future__ import annotations

import ctypes
import os
import pickle
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres.replication import receiver as receiver_module
from dbmazz_core.connectors.sources.postgres.replication import transport
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection, open_stream
from dbmazz_core.connectors.sources.postgres.replication.receiver import BLOCK_BYTES
from dbmazz_core.errors import ParseError, SlotNotFound, SourceError
from dbmazz_core.loading import load_polars
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase, create_database
from tests.support.proxy_fixture import Proxy
from tests.support.tls_server import tls_server


def config(database: SourceDatabase) -> SourceConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", database.name)
    return SourceConfig(SecretUrl(database.url), parse_tables("t"), slot=database.name, publication="p")


def holders(database: SourceDatabase) -> list[tuple[object, ...]]:
    return database.fetch("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active", database.name)


def confirmed(database: SourceDatabase) -> Lsn:
    query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
    return Lsn.parse(str(database.fetch(query, database.name)[0][0]))


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def wait_for_release(database: SourceDatabase) -> None:
    wait_until(lambda: not holders(database), "the slot is still held")


def test_messages_arrive_in_order_and_acknowledgements_reach_the_server(database: SourceDatabase) -> None:
    reader = open_stream(config(database), INVALID_LSN)
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
    assert confirmed(database) == end


def test_what_was_gathered_is_handed_over_on_request(database: SourceDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open stream takes what there is when a flush is due; other readers wait for a whole block, or a pause."""
    monkeypatch.setattr(receiver_module, "LINGER_S", 30.0)
    reader = open_stream(config(database), INVALID_LSN)
    reader.read(0.01, take_gathered=True)  # a keepalive
    for number in range(3):
        database.execute(f"INSERT INTO t VALUES ({number})")
        assert reader.read(0.3) is None
        block = reader.read(0.01, take_gathered=True)
        assert block is not None
        assert bytes(block.types).count(b"I") == 1
    reader.close()


def test_an_error_that_leaves_the_connection_open_ends_the_stream(database: SourceDatabase) -> None:
    """A walsender goes on waiting for commands after one, so that the socket says nothing more."""
    reader = open_stream(config(database), INVALID_LSN)
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


def test_a_program_that_is_killed_leaves_no_held_slot(database: SourceDatabase) -> None:
    settings = config(database)
    code = (
        "import pickle, sys, time; "
        "from dbmazz_core.connectors.sources.postgres.replication.connection import open_stream; "
        "from dbmazz_core.lsn import INVALID_LSN; reader = open_stream(pickle.load(sys.stdin.buffer), INVALID_LSN); "
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


def test_status_updates_are_on_time_while_the_program_holds_the_interpreter_lock(database: SourceDatabase) -> None:
    """The thread that sends them needs the lock. A hold of half of `wal_sender_timeout` leaves it a quarter."""
    timeout_s = 4
    settings = config(database)
    database.execute(f"ALTER DATABASE {database.name} SET wal_sender_timeout = '{timeout_s}s'")
    sleep = ctypes.PyDLL(None).usleep  # unlike time.sleep, keeps the lock
    with closing(open_stream(settings, INVALID_LSN)) as reader:
        reader.confirm(INVALID_LSN)
        held_by = holders(database)
        for _ in range(3):
            sleep(timeout_s * 1_000_000 // 2)
            time.sleep(0.1)  # other threads, of the test's own program too, have a turn
        database.execute("INSERT INTO t VALUES (1)")
        while (block := reader.read(5)) is None or b"I" not in bytes(block.types):
            pass
        assert holders(database) == held_by


def test_a_window_holds_the_interpreter_lock_for_moments_only(lab: Lab) -> None:
    """A long hold would delay status updates: decoding, merging and a value of 16 MB are nowhere near."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b numeric, c timestamptz)")
    lab.capture()
    lab.execute("INSERT INTO t SELECT i, repeat(md5(i::text), 10), i / 7.0, now() FROM generate_series(1, 50000) i")
    lab.execute("INSERT INTO t SELECT -1, repeat('x', 16 << 20)")
    lab.execute("UPDATE t SET b = b + 1 WHERE id > 0")
    gaps, done = [0.0], threading.Event()

    def tick() -> None:
        last = time.monotonic()
        while not done.wait(0.001):
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        lab.capture_and_compare("t")
    finally:
        done.set()
        thread.join()
    assert max(gaps) < receiver_module.STATUS_INTERVAL_S / 2


def test_a_full_queue_bounds_memory_and_delays_no_acknowledgement(database: SourceDatabase) -> None:
    """A window that applies for longer than `wal_sender_timeout` reads nothing meanwhile."""
    timeout_s, queue_bytes = 2, 4 << 20
    settings = config(database)
    database.execute("ALTER TABLE t ADD filler text")
    database.execute(f"ALTER DATABASE {database.name} SET wal_sender_timeout = '{timeout_s}s'")
    database.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 60000) i")
    end = Lsn.parse(str(database.fetch("SELECT pg_current_wal_flush_lsn()::text")[0][0]))
    with ReplicationConnection(settings.url, slot=settings.slot, publication="p") as connection:
        reader = connection.start(INVALID_LSN, queue_bytes=queue_bytes)
        reader.confirm(INVALID_LSN)
        wait_until(lambda: reader.queued_bytes >= queue_bytes, "the queue does not fill")
        time.sleep(1.5 * timeout_s)
        assert reader.queued_bytes < queue_bytes + 2 * BLOCK_BYTES
        reader.confirm(end)
        wait_until(lambda: confirmed(database) == end, "the acknowledgement does not arrive")
        inserts = 0
        while inserts < 60000:
            block = reader.read(5)
            assert block is not None
            inserts += bytes(block.types).count(b"I")
        reader.close()
        reader.close()  # idempotent
    wait_for_release(database)


@pytest.mark.parametrize("handler", ["of Python", "of polars"])
def test_ctrl_c_ends_the_wait_for_a_block(database: SourceDatabase, handler: str) -> None:
    settings = config(database)
    if handler == "of polars":
        load_polars()
    with closing(open_stream(settings, INVALID_LSN)) as reader:
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            while time.monotonic() - started < 30:
                reader.read(30)
        assert time.monotonic() - started < 5
    wait_for_release(database)


def test_what_the_server_refuses_is_raised_where_the_stream_is_wanted(database: SourceDatabase) -> None:
    settings = config(database)
    database.fetch("SELECT pg_drop_replication_slot(%s)", database.name)
    with pytest.raises(SlotNotFound) as caught:
        open_stream(settings, INVALID_LSN)
    assert caught.value.remedy
    assert database.name in caught.value.object


def test_an_encrypted_connection_goes_through_libpq(tmp_path: Path) -> None:
    """Bytes of a TLS stream mean nothing to us; libpq reads them, a little slower, with the same result."""
    with tls_server() as server:
        database = create_database(server)
        encrypted = database.url + ("&" if "?" in database.url else "?") + "sslmode=require"
        lab = Lab(database, tmp_path / "tls.duckdb", settings={"url": encrypted})
        database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
        lab.capture()
        database.execute("INSERT INTO t SELECT i, repeat('x', i % 500) FROM generate_series(1, 20000) i")
        database.execute("UPDATE t SET note = 'changed' WHERE id % 3 = 0")
        assert lab.capture_and_compare("t").changes == 26666
        with psycopg.connect(encrypted) as connection:
            assert connection.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        database.execute(f"SELECT pg_drop_replication_slot('{lab.slot}')")
        with pytest.raises(SlotNotFound):
            open_stream(lab.config, INVALID_LSN)


FORKING = """
import os, pickle, sys, time
from dbmazz_core.connectors.sources.postgres.replication.connection import open_stream
from dbmazz_core.lsn import INVALID_LSN
reader = open_stream(pickle.load(sys.stdin.buffer), INVALID_LSN)
reader.confirm(INVALID_LSN)
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


def test_start_replication_without_an_answer(
    database: SourceDatabase, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(database)
    monkeypatch.setattr(transport, "ANSWER_TIMEOUT_S", 0.5)
    connection = ReplicationConnection(SecretUrl(proxy.url(database)), slot=settings.slot, publication="p")
    send = connection.pgconn.send_query

    def stalled(command: bytes) -> None:
        if command.startswith(b"START_REPLICATION"):
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
    plain = transport.PlainTransport(ours)
    with ours, theirs:
        theirs.sendall(b"d\x7f\xff\xff\xffw" + bytes(40))
        while not plain.gather():
            pass
        with pytest.raises(ParseError, match="a gigabyte or more"):
            plain.read(plain.take())


def _has_account(name: str) -> bool:
    return any(entry.pw_name == name for entry in pwd.getpwall())
