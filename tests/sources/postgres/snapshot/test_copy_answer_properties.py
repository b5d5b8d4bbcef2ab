"""The answer to a COPY comes in pieces of any size, with other messages in between, and may be damaged."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.snapshot import copy_answer
from dbmazz_core.connectors.sources.postgres.snapshot.copy_answer import CopyAnswer
from dbmazz_core.connectors.sources.postgres.snapshot.copy_connection import CopyConnection, CopyStopped
from dbmazz_core.connectors.sources.postgres.snapshot.copy_format import MalformedRows
from dbmazz_core.connectors.sources.postgres.types.binary import read_texts
from dbmazz_core.connectors.sources.postgres.types.binary_fields import MalformedValue

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NOTICE = b"SNOTICE\0C00000\0Mnothing\0\0"

Row = list[bytes | None]


def message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack(">I", len(payload) + 4) + payload


def tuple_of(row: Row) -> bytes:
    fields = (struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in row)
    return struct.pack(">h", len(row)) + b"".join(fields)


def answer_to(rows: list[Row], *, header_alone: bool = False, notices: frozenset[int] = frozenset()) -> bytes:
    """The server's messages; behind the rows with the numbers `notices` comes one of another kind."""
    data = [tuple_of(row) for row in rows] + [TRAILER]
    payloads = [HEADER, *data] if header_alone else [HEADER + data[0], *data[1:]]
    width = len(rows[0]) if rows else 1
    messages = [message(b"H", b"\1" + struct.pack(">h", width) + struct.pack(">h", 1) * width)]
    for number, payload in enumerate(payloads):
        messages.append(message(b"d", payload))
        if number in notices:
            messages.append(message(b"N", NOTICE))
    messages += [message(b"c", b""), message(b"C", b"COPY 1\0"), message(b"Z", b"T")]
    return b"".join(messages)


def rows_of(data: bytes, width: int, sizes: list[int]) -> list[Row]:
    """What comes out when the bytes come in pieces of these sizes, over and over; an error if they end too soon."""
    answer, found, at, piece = CopyAnswer(width), [], 0, 0
    while not answer.is_complete:
        size = min(sizes[piece % len(sizes)], len(data) - at, len(answer.room))
        if not size:
            raise MalformedRows("the bytes end")
        answer.room[:size] = data[at : at + size]
        answer.received(size)
        at, piece = at + size, piece + 1
        block = answer.take()
        if block is not None:
            columns = [read_texts(fields).to_list() for fields in block.columns(width)]
            found += [list(row) for row in zip(*columns, strict=True)] if width else [[] for _ in range(len(block))]
    return found


fields = st.one_of(
    st.none(),
    st.binary(max_size=30),
    # What looks like the beginning of a row, or like the end of the answer.
    st.sampled_from(
        [b"d\0\0\0\6\0\2", b"d\0\0\0\x0a\0\1\0\0", b"Z\0\0\0\5I", TRAILER, bytes(12), b"x" * 13, b"y" * 3000]
    ),
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, list[Row]]:
    width = draw(st.integers(0, 4))
    row = st.lists(fields, min_size=width, max_size=width)
    return width, draw(st.lists(row, max_size=40))


@settings(deadline=None)
@given(
    tables(), st.lists(st.integers(1, 4000), min_size=1, max_size=5), st.booleans(), st.frozensets(st.integers(0, 9))
)
def test_rows_come_out_as_they_went_in(
    table: tuple[int, list[Row]], sizes: list[int], header_alone: bool, notices: frozenset[int]
) -> None:
    width, rows = table
    data = answer_to(rows, header_alone=header_alone, notices=notices)
    assert rows_of(data, width, sizes) == rows


@settings(deadline=None)
@given(tables(), st.integers(1, 2000))
def test_rows_longer_than_a_block(table: tuple[int, list[Row]], size: int) -> None:
    width, rows = table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy_answer, "BLOCK_BYTES", 64)
        assert rows_of(answer_to(rows), width, [size]) == rows


@settings(deadline=None)
@given(tables(), st.integers(min_value=0), st.integers(0, 255))
def test_a_damaged_byte_gives_an_error_or_other_values_of_as_many_rows(
    table: tuple[int, list[Row]], place: int, byte: int
) -> None:
    """It never hangs, and never gives fewer rows in silence."""
    width, rows = table
    data = bytearray(answer_to(rows))
    data[place % len(data)] = byte
    try:
        found = rows_of(bytes(data), width, [4096])
    except (MalformedRows, MalformedValue):
        return
    assert len(found) == len(rows)


@settings(deadline=None)
@given(tables(), st.integers(min_value=0))
def test_an_answer_that_is_cut_is_no_answer(table: tuple[int, list[Row]], place: int) -> None:
    width, rows = table
    data = answer_to(rows)
    with pytest.raises(MalformedRows, match="the bytes end"):
        rows_of(data[: place % len(data)], width, [1000])


def test_an_error_in_the_middle() -> None:
    data = answer_to([[b"a"], [b"b"]])
    error = message(b"E", b"SERROR\0C22012\0Mdivision by zero\0\0") + message(b"Z", b"E")
    at = data.index(message(b"d", tuple_of([b"b"])))
    answer = CopyAnswer(1)
    sent = data[:at] + error
    answer.room[: len(sent)] = sent
    answer.received(len(sent))
    block = answer.take()
    assert block is not None
    assert len(block) == 1
    assert answer.is_complete
    assert answer.error is not None
    assert (answer.error["C"], answer.error["M"]) == ("22012", "division by zero")


def test_a_pause_behind_bytes_that_look_like_the_end_of_an_answer() -> None:
    """The connection waits for the rest of the row."""
    ours, servers = socket.socketpair()
    ours.setblocking(False)
    connection = object.__new__(CopyConnection)
    connection._socket, connection._is_plain, connection._pid = ours, True, 0
    rows: list[Row] = [[b"1"], [b"Z\0\0\0\5I and more"], [b"3"]]
    data = answer_to(rows)
    pause = data.index(b" and more")

    def serve() -> None:
        servers.recv(1000)
        servers.sendall(data[:pause])
        time.sleep(0.2)
        servers.sendall(data[pause:])

    thread = threading.Thread(target=serve)
    thread.start()
    blocks = list(connection.rows("SELECT", 1, lambda: False))
    thread.join()
    assert [read_texts(fields).to_list() for block in blocks for fields in block.columns(1)] == [
        [b"1"],
        [b"Z\0\0\0\5I and more", b"3"],
    ]


@pytest.mark.timeout(60)
def test_a_connection_that_pauses_in_a_row_can_be_stopped() -> None:
    """It waits, and does not look at the same bytes again and again."""
    ours, servers = socket.socketpair()
    ours.setblocking(False)
    connection = object.__new__(CopyConnection)
    connection._socket, connection._is_plain, connection._pid = ours, True, 0
    servers.sendall(answer_to([[b"1"], [b"2"]])[:-30])
    asked = 0

    def stopping() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with pytest.raises(CopyStopped):
        list(connection.rows("SELECT", 1, stopping))


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (message(b"d", b"PGCOPY2"), "signature"),
        (message(b"d", HEADER[:-5] + b"\1" + HEADER[-4:]), "unknown flags"),
        (message(b"d", HEADER) + message(b"d", tuple_of([b"a", b"b"])), "another number of fields"),
        (message(b"d", HEADER) + b"d\0\0\0\2", "impossible length"),
        (message(b"d", HEADER) + b"d\x7f\xff\xff\xff", "gigabyte"),
        (message(b"d", HEADER) + message(b"D", b"\0\0"), "type 'D'"),
        (message(b"d", HEADER) + message(b"Z", b"I"), "no end"),
        (message(b"d", HEADER + tuple_of([b"a"])[:-1]), "behind its row"),
        (message(b"d", HEADER + tuple_of([b"a"]) + b"b"), "behind its last field"),
        (message(b"d", HEADER + struct.pack(">hi", 1, -2)), "negative length"),
    ],
)
def test_damaged_answers(data: bytes, detail: str) -> None:
    with pytest.raises(MalformedRows, match=detail):
        rows_of(data + message(b"d", TRAILER) + message(b"Z", b"I"), 1, [10_000])
