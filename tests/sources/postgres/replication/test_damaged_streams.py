"""Streams that no PostgreSQL sends, from a damaged line or a hostile server: an error, and the next run is exact.

Both ways of reading, and messages that are damaged on their way through a proxy in front of a real server.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.positions import StreamPositions
from dbmazz_core.connectors.sources.postgres.replication.transport import PlainTransport
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import DataError, DbmazzError, ParseError, ReplicationInterrupted, SourceError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import Heartbeat
from tests.support import pgoutput_encoder as encode
from tests.support.lab import Lab, variant
from tests.support.postgres_fixtures import TLS, SourceDatabase
from tests.support.rewriting_proxy import RewritingProxy, message

#: Lengths of messages as unsigned numbers: negative, too short for themselves, too long.
LENGTHS = [0xFFFFFFFF, 0x80000000, 0, 3, 4, 0x40000000, 0x7FFFFFFF]


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def damaging(request: pytest.FixtureRequest, database: SourceDatabase) -> Iterator[RewritingProxy]:
    """A proxy that forwards everything until told otherwise, to connections with and without TLS."""
    with RewritingProxy(database.server, tls=TLS if request.param else None) as proxy:
        yield proxy


@pytest.fixture
def lab(damaging: RewritingProxy, database: SourceDatabase, tmp_path: Path) -> Lab:
    """A pipeline behind the proxy, with a table that was copied."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    lab = Lab(database, tmp_path / "d.duckdb", settings={"url": damaging.url(database)})
    lab.capture()
    database.execute("INSERT INTO t SELECT i, repeat('x', i % 50) FROM generate_series(1, 50) i")
    return lab


def is_row(kind: bytes, payload: bytes) -> bool:
    return kind == b"d" and payload[:1] == b"w" and payload[25:26] == b"I"


def refused(lab: Lab, damaging: RewritingProxy) -> tuple[DbmazzError, float]:
    """The error of a run, and its seconds; the next run without damage is exact."""
    started = time.monotonic()
    with pytest.raises(DbmazzError) as info:
        lab.capture()
    seconds = time.monotonic() - started
    damaging.rewrite = message
    lab.capture_and_compare("t")
    return info.value, seconds


def test_an_answer_whose_end_is_lost(lab: Lab, damaging: RewritingProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for the end of CREATE_REPLICATION_SLOT had no limit, and let no other thread run."""
    monkeypatch.setattr(silence, "ANSWER_TIMEOUT_S", 1)
    answered = threading.Event()

    def lose(kind: bytes, payload: bytes) -> bytes:
        if kind == b"T" and b"consistent_point" in payload:
            answered.set()
        return b"" if kind == b"Z" and answered.is_set() else message(kind, payload)

    damaging.rewrite = lose
    with pytest.raises(DbmazzError, match="did not answer within 1 s"):
        lab.pipeline.snapshot([lab.ref("t")])
    assert answered.is_set()
    damaging.rewrite = message
    monkeypatch.undo()
    lab.capture_and_compare("t")


# Lengths


@pytest.mark.parametrize("kind", [b"d", b"E", b"N", b"S", b"Z", b"C"])
@pytest.mark.parametrize("length", LENGTHS)
def test_impossible_lengths_are_refused_without_the_rest(kind: bytes, length: int) -> None:
    if kind != b"d" and length == 4:
        return  # CopyDone has this length, and others end in another error
    server, client = socket.socketpair()
    with server, client:
        plain = PlainTransport(client)
        server.sendall(message(b"d", encode.xlogdata(1, 1, b"x")) + kind + length.to_bytes(4, "big") + b"w" + bytes(9))
        while not plain.gather():
            pass
        with pytest.raises(ParseError):
            plain.read(plain.take())


@pytest.mark.parametrize("length", [variant(0xFFFFFFFF), variant(3), 0x40000000, variant(0x7FFFFFFF)])
def test_a_damaged_length_in_the_stream(lab: Lab, damaging: RewritingProxy, impatient: None, length: int) -> None:
    def damage(kind: bytes, payload: bytes) -> bytes:
        return kind + length.to_bytes(4, "big") + payload if is_row(kind, payload) else message(kind, payload)

    damaging.rewrite = damage
    error, seconds = refused(lab, damaging)
    assert type(error) is ParseError or "cannot allocate memory for input buffer" in error.what  # libpq's words
    assert seconds < 15


@pytest.mark.parametrize("length", [0x3FFFFFFF])
def test_a_length_below_a_gigabyte_is_no_endless_wait(
    lab: Lab, damaging: RewritingProxy, impatient: None, length: int
) -> None:
    """A message may have it; only the server tells that nothing more comes."""

    def damage(kind: bytes, payload: bytes) -> bytes:
        return kind + length.to_bytes(4, "big") + payload if is_row(kind, payload) else message(kind, payload)

    damaging.rewrite = damage
    error, seconds = refused(lab, damaging)
    assert type(error) is ParseError
    assert "complete no message" in error.what
    assert seconds < 30


@pytest.mark.parametrize("length", [variant(0xFFFFFFFF), variant(8), 10_000])
def test_a_damaged_answer_to_start_replication(
    lab: Lab, damaging: RewritingProxy, impatient: None, length: int
) -> None:
    damaging.rewrite = lambda kind, payload: (
        kind + length.to_bytes(4, "big") + payload if kind == b"W" else message(kind, payload)
    )
    error, seconds = refused(lab, damaging)
    assert isinstance(error, SourceError | DataError)
    assert seconds < 20


# Types


@pytest.mark.each_value
@pytest.mark.parametrize("kind", list("NSAcCEZTx"))
@pytest.mark.parametrize("at", ["row", "keepalive"])
def test_copy_data_with_a_damaged_type(lab: Lab, damaging: RewritingProxy, kind: str, at: str) -> None:
    """Skipped, its row would be missing for good."""
    left = [True]

    def damage(real: bytes, payload: bytes) -> bytes:
        chosen = is_row(real, payload) if at == "row" else real == b"d" and payload[:1] == b"k"
        return message(kind.encode() if chosen and left and left.pop() else real, payload)

    damaging.rewrite = damage
    error, _ = refused(lab, damaging)
    assert isinstance(error, ParseError | ReplicationInterrupted)


def test_messages_that_may_come_in_between(lab: Lab, damaging: RewritingProxy) -> None:
    """Of a reload of the configuration (ParameterStatus), and of a warning."""
    notice = message(b"N", b"SWARNING\0VWARNING\0C01000\0Mmind the gap\0\0")
    damaging.rewrite = lambda kind, payload: (
        (notice + message(b"S", b"application_name\0x\0") if is_row(kind, payload) else b"") + message(kind, payload)
    )
    lab.capture_and_compare("t")


# Positions


def part(payload: bytes, kind: bytes) -> bytes | None:
    """What is behind the type byte of a message of pgoutput, if it is of that kind."""
    return payload[26:] if payload[:1] == b"w" and payload[25:26] == kind else None


def moved(payload: bytes, offset: int, distance: int) -> bytes:
    """A message with another LSN at an offset."""
    lsn = (int.from_bytes(payload[offset : offset + 8], "big") + distance) % (1 << 64)
    return payload[:offset] + lsn.to_bytes(8, "big") + payload[offset + 8 :]


@pytest.mark.parametrize(
    ("kind", "offset", "distance"),
    [
        ("k", 1, 1 << 63),
        variant("k", 1, 1 << 30),
        ("B", 26, 1 << 40),
        variant("B", 26, -1),
        variant("B", 26, 1),
        variant("B", 26 + 8, 1),  # its time
        ("C", 27, 8),
        ("C", 27 + 8, 1 << 40),
        variant("C", 27 + 8, -(1 << 20)),
    ],
)
def test_a_damaged_position(lab: Lab, damaging: RewritingProxy, kind: str, offset: int, distance: int) -> None:
    """Believed, it would move the checkpoint past rows that never came."""
    checkpoint = lab.checkpoint

    def damage(real: bytes, payload: bytes) -> bytes:
        found = payload[:1] == b"k" if kind == "k" else part(payload, kind.encode()) is not None
        return message(real, moved(payload, offset, distance) if real == b"d" and found else payload)

    damaging.rewrite = damage
    with pytest.raises(ParseError):
        lab.capture()
    assert lab.checkpoint == checkpoint
    damaging.rewrite = message
    lab.capture_and_compare("t")


@pytest.mark.parametrize("distance", [1 << 62, 1 << 30])
def test_a_damaged_position_in_a_stream_of_records(lab: Lab, damaging: RewritingProxy, distance: int) -> None:
    damaging.rewrite = lambda kind, payload: message(
        kind, moved(payload, 1, distance) if kind == b"d" and payload[:1] == b"k" else payload
    )
    with PostgresSource(lab.config) as source, pytest.raises(ParseError, match="the server's WAL ends at"):
        source.start()
        for record in source.records():
            assert not isinstance(record, Heartbeat)


def test_transactions_out_of_order() -> None:
    """Each by itself is right."""
    blocks = StreamPositions(lambda: Lsn(1 << 20))
    first, second = ([encode.begin(at, 5, 1), encode.commit(at, at + 8, 5)] for at in (100, 108))
    blocks.verify(MessageBlock.join([encode.xlogdata(1, 1, payload) for payload in first + second]))
    blocks = StreamPositions(lambda: Lsn(1 << 20))
    blocks.verify(MessageBlock.join([encode.xlogdata(1, 1, payload) for payload in second]))
    with pytest.raises(ParseError, match="comes behind"):
        blocks.verify(MessageBlock.join([encode.xlogdata(1, 1, payload) for payload in first]))
