"""The stream's bytes: messages are found whatever they hold and however they are cut."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.replication import transport as transport_module
from dbmazz_core.connectors.sources.postgres.replication.copy_data import find_messages
from dbmazz_core.connectors.sources.postgres.replication.transport import BUFFER_BYTES, PlainTransport, StreamEnd
from dbmazz_core.errors import ParseError
from tests.support import pgoutput_encoder as encode


def copy_data(message: bytes) -> bytes:
    return b"d" + (len(message) + 4).to_bytes(4, "big") + message


#: Contents that look like heads of messages, and such that do not.
misleading = st.sampled_from(
    [
        copy_data(encode.xlogdata(1, 1, b"x")),
        b"d\0\0\0\x16k",
        b"d\0\0\0\x1dw",
        b"d\0\0\0\0w",
        b"dddddw",
        b"d\x3f\0\0\0w",
    ]
)
contents = st.lists(misleading | st.binary(max_size=40), min_size=1, max_size=4).map(b"".join).filter(bool)
rows = contents.map(lambda payload: encode.xlogdata(7, 8, payload))
keepalives = st.builds(encode.keepalive, st.integers(0, 1 << 60), reply_requested=st.booleans())
long_rows = contents.map(lambda payload: encode.xlogdata(7, 8, payload + bytes(5000)))
#: A few, and as many as it takes to see that they are short, or long.
messages = (
    st.lists(rows | rows | keepalives, max_size=12)
    | st.lists(rows | rows | keepalives, min_size=15, max_size=20)
    | st.lists(long_rows | long_rows | long_rows | rows | keepalives, min_size=15, max_size=20)
)


@settings(deadline=None)
@given(messages, st.integers(0, 3), st.binary(max_size=9))
def test_every_message_is_found_and_nothing_else(sent: list[bytes], first: int, begun: bytes) -> None:
    tail = copy_data(encode.xlogdata(1, 1, b"incomplete, so it waits"))[: len(begun)]
    framed = b"".join(map(copy_data, sent))
    data = bytes(first) + framed + tail
    found = find_messages(memoryview(data + bytes(8)), first, len(data))
    assert [data[a:b] for a, b in zip(found.starts, found.ends, strict=True)] == [m for m in sent if m[:1] == b"w"]
    assert found.tail == first + len(framed)
    alive = [m for m in sent if m[:1] == b"k"]
    assert found.wal_end == max((int.from_bytes(m[1:9], "big") for m in alive), default=0)
    assert found.reply_requested == any(m[17] for m in alive)


@pytest.mark.parametrize(
    "message",
    [b"x" * 40, b"w" + bytes(24), b"k" + bytes(16)],
    ids=["kind", "row", "alive"],
)
def test_what_is_no_message_of_a_stream_is_refused(message: bytes) -> None:
    data = copy_data(message)
    with pytest.raises(ParseError):
        find_messages(memoryview(data + bytes(8)), 0, len(data))


@settings(deadline=None, max_examples=50)
@given(messages, st.lists(st.integers(1, 60), max_size=8), st.booleans(), st.booleans())
def test_however_the_bytes_are_cut(sent: list[bytes], cuts: list[int], small: bool, noticed: bool) -> None:
    """Also where each chunk has pages of its own."""
    server, client = socket.socketpair()
    words = b"SWARNING\0C01000\0Mmind the gap\0\0"
    notice = b"N" + (4 + len(words)).to_bytes(4, "big") + words
    data = b"".join((notice if noticed else b"") + copy_data(m) for m in sent)
    with server, client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport_module, "_MAPPED_BYTES", transport_module._MAPPED_BYTES if small else 0)
        transport = PlainTransport(client)
        got: list[bytes] = []
        for size in [*cuts, len(data)]:
            server.sendall(data[:size])
            data = data[size:]
            while transport.gather():
                pass
            got += [encode.xlogdata(7, 8, bytes(payload)) for _, payload in transport.read(transport.take())]
    assert got == [m for m in sent if m[:1] == b"w"]


def test_a_message_larger_than_a_buffer() -> None:
    server, client = socket.socketpair()
    large = encode.xlogdata(7, 8, os.urandom(3 * BUFFER_BYTES))
    data = b"".join(map(copy_data, [encode.xlogdata(7, 8, b"before"), large, encode.xlogdata(7, 8, b"behind")]))
    with server, client:
        server.setblocking(False)
        transport = PlainTransport(client)
        got: list[bytes] = []
        while len(got) < 3:
            with contextlib.suppress(BlockingIOError):
                data = data[server.send(data[:200_000]) :]
            if not transport.gather() or transport.gathered > 4 << 20:
                got += [bytes(payload) for _, payload in transport.read(transport.take())]
    assert [len(payload) for payload in got] == [6, 3 * BUFFER_BYTES, 6]
    assert encode.xlogdata(7, 8, got[1]) == large


def test_the_last_words_of_the_server() -> None:
    server, client = socket.socketpair()
    words = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
    with client:
        with server:
            server.sendall(
                copy_data(encode.xlogdata(7, 8, b"last")) + b"E" + (4 + len(words)).to_bytes(4, "big") + words
            )
        transport = PlainTransport(client)
        while transport.gather():
            pass
        assert transport.ended
        assert [bytes(payload) for _, payload in transport.read(transport.take())] == [b"last"]
        assert transport.stream_end == StreamEnd("57P01", "terminating connection")
