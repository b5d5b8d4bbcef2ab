"""The process that receives the stream: it ends with its reader, and its reader with it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from dbmazz_core.config import SourceConfig
from dbmazz_core.connectors.sources.postgres.reader import StreamReader
from dbmazz_core.errors import ParseError, ReplicationInterrupted, SlotNotFound
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.secret_url import SecretUrl
from dbmazz_core.tables import parse_tables
from tests.postgres_fixtures import SourceDatabase


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
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    pid = next(p for p in map(int, children.stdout.split()) if b"receiver_process" in _command_line(p))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ReplicationInterrupted, match="ended"):
        while True:
            reader.read(5)
    reader.close()
    wait_for_release(database)


def test_a_reader_that_is_killed_leaves_no_receiver_and_no_held_slot(database: SourceDatabase) -> None:
    settings = config(database)
    code = (
        "import pickle, sys, time; from dbmazz_core.connectors.sources.postgres.reader import StreamReader; "
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


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
