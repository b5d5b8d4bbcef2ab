"""Two transports for the bytes of a running replication stream.

`PlainTransport` reads the socket itself and finds the messages of a whole block at once. libpq needs a call for each
message, which costs as much as everything else together (docs/benchmarks.md). `PlainTransport` serves connections
without encryption. `LibpqTransport` reads through libpq, and so through TLS and GSSAPI encryption. The first byte of
the server's answer tells which one applies (see `open_transport`).
"""

from __future__ import annotations

import mmap
import os
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Protocol

import numpy as np
import psycopg
from psycopg import pq

from dbmazz_core.connectors.sources.postgres.parser.block import HEADER, PADDING, MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.messages import PrimaryKeepalive
from dbmazz_core.connectors.sources.postgres.parser.parser import Buffer, parse_copy_data
from dbmazz_core.connectors.sources.postgres.replication.backend_messages import (
    ENDS,
    NO_SUCH_MESSAGE,
    error_fields,
    verify_length,
    verify_payload,
)
from dbmazz_core.connectors.sources.postgres.replication.copy_data import FoundMessages, find_messages
from dbmazz_core.connectors.sources.postgres.silence import ANSWER_TIMEOUT_S, next_result
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn

_COPY_BOTH = b"W"
#: CopyBothResponse of a walsender: its length, text format, no columns (walsender.c, StartLogicalReplication).
_COPY_BOTH_RESPONSE = b"W\0\0\0\7\0\0\0"
_COPY_DATA = ord("d")
_FIELD = pq.DiagnosticField
#: Bytes of a buffer: a block, its headroom, and one more read.
BUFFER_BYTES = (4 << 20) + (1 << 20) + (1 << 17)
#: Bytes ahead of each read in a buffer, for the beginning of a message that the chunk before ended with.
HEADROOM = 1 << 16
_FRAME = 5
_LENGTH = Struct(">I")
#: Bytes of a read. A Unix socket holds less.
_READ_BYTES = 1 << 20
#: Chunks of so many bytes get pages of their own.
_MAPPED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The server's reason for ending the stream.

    Attributes:
        sqlstate: SQLSTATE of its error; None: it sent no error.
        message: The primary message of its error; None: it sent no error.
    """

    sqlstate: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Bytes that were gathered and not parsed yet.

    Attributes:
        size: Number of bytes.
        messages: From libpq: single CopyData messages.
        buffer: From a socket: the bytes as the server sent them, from offset `HEADROOM` on.
    """

    size: int
    messages: Sequence[memoryview] = ()
    buffer: Buffer = b""


class Transport(Protocol):
    """A stream that has begun.

    The thread that empties the socket calls `gather`, `take`, `send` and `flush`. Another thread calls `read`, which
    takes longer.

    Attributes:
        gathered: Bytes that came since the last `take`.
        ended: Whether the server has ended the stream. After an error the connection may stay open.
        server_end: `wal_end` of the last keepalive in the chunks that were read.
        reply_requested: Whether a keepalive asked for a status update; the sender of the update clears it.
        stream_end: Why the stream ended, known once the last chunk was read.
        incomplete: Bytes of a message in the chunks that were read whose end has not come; 0 from libpq, which keeps
            them to itself.
    """

    gathered: int
    ended: bool
    server_end: Lsn
    reply_requested: bool
    stream_end: StreamEnd

    @property
    def incomplete(self) -> int:
        """See above."""

    def fileno(self) -> int:
        """Return the socket's descriptor."""

    def gather(self) -> bool:
        """Take in the bytes that have come, without waiting; return whether there were any.

        Raises:
            psycopg.Error, OSError: The connection broke.
        """

    def take(self) -> Chunk:
        """Return the bytes gathered so far, and begin a new chunk."""

    def send(self, message: bytes) -> bool:
        """Send a CopyData message. Return True if it was sent whole, False if bytes are left for `flush`."""

    def flush(self) -> bool:
        """Send the bytes that are left; return whether all were sent."""

    def read(self, chunk: Chunk) -> MessageBlock:
        """Return the messages that a chunk completes. Chunks must be read in order.

        Raises:
            ParseError: The bytes are no replication stream.
        """

    def close(self) -> None:
        """Close what the transport has opened itself; the connection stays."""


def open_transport(pgconn: pq.abc.PGconn) -> Transport | None:
    """Return the transport for the answer to START_REPLICATION, which was sent with `send_query`.

    A connection without encryption answers with a CopyBothResponse, 'W'. libpq has read the answer before it to its end
    and nothing of this one. A TLS record begins with another byte (20 to 24: RFC 8446, section 5.1), and a GSSAPI
    packet with its length, whose first byte is 0 (PostgreSQL manual, protocol-flow). libpq reads these, and errors.

    Returns:
        A `PlainTransport`; None where libpq must read the answer.

    Raises:
        OSError: The connection broke, or nothing came within `ANSWER_TIMEOUT_S`.
        ParseError: The answer is none of a walsender.
    """
    while pgconn.flush():
        _wait(pgconn.socket, select.POLLOUT)
    connection = socket.socket(fileno=os.dup(pgconn.socket))
    try:
        _wait(connection.fileno(), select.POLLIN)
        if connection.recv(1, socket.MSG_PEEK) == _COPY_BOTH:
            connection.settimeout(ANSWER_TIMEOUT_S)
            answer = connection.recv(len(_COPY_BOTH_RESPONSE), socket.MSG_WAITALL)
            if answer == _COPY_BOTH_RESPONSE:
                return PlainTransport(connection)
            if len(answer) < len(_COPY_BOTH_RESPONSE):
                raise ConnectionResetError("the server closed the connection")
            raise ParseError("unexpected answer to START_REPLICATION", message_type="W", offset=1, lsn=INVALID_LSN)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _wait(descriptor: int, event: int) -> None:
    """Wait for a poll event of a descriptor; raise TimeoutError after `ANSWER_TIMEOUT_S`."""
    poller = select.poll()
    poller.register(descriptor, event)
    if not poller.poll(ANSWER_TIMEOUT_S * 1000):
        raise TimeoutError(f"the server, or a proxy in front of it, did not answer within {ANSWER_TIMEOUT_S:.0f} s")


class LibpqTransport:
    """A stream that libpq reads. Implements `Transport`."""

    def __init__(self, pgconn: pq.abc.PGconn) -> None:
        self.gathered = 0
        self.ended = False
        self.server_end = INVALID_LSN
        self.reply_requested = False
        self.stream_end = StreamEnd()
        self.incomplete = 0
        self._pgconn = pgconn
        self._damage: ParseError | None = None
        pgconn.notice_handler = self._verify_notice
        self._pgconn.nonblocking = 1
        self._messages: list[memoryview] = []

    def fileno(self) -> int:
        """See `Transport.fileno`."""
        return self._pgconn.socket

    def gather(self) -> bool:
        """See `Transport.gather`."""
        if self._damage is not None:
            raise self._damage
        get, before = self._pgconn.get_copy_data, self.gathered
        self._pgconn.consume_input()
        while True:
            try:
                length, data = get(1)
            except psycopg.OperationalError as error:
                if "lost synchronization" not in str(error):
                    raise
                raise ParseError(str(error), message_type="d", offset=1, lsn=INVALID_LSN) from None
            if length <= 0:
                break
            self._messages.append(data)
            self.gathered += length
        if length < 0:
            self.ended = True
            result = next_result(self._pgconn)
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                fields = (result.error_field(f) for f in (_FIELD.SQLSTATE, _FIELD.MESSAGE_PRIMARY))
                self.stream_end = StreamEnd(*(None if f is None else f.decode("utf-8", "replace") for f in fields))
        if self._pgconn.notifies() is not None or any(map(self._pgconn.parameter_status, (b"w", b"k"))):
            raise ParseError(NO_SUCH_MESSAGE, message_type="?", offset=0, lsn=INVALID_LSN)
        return self.gathered > before

    def _verify_notice(self, notice: pq.abc.PGresult) -> None:
        """Keep an error for the next `gather`: libpq calls this, and skips what it takes for a notice."""
        if not (notice.error_field(_FIELD.SQLSTATE) and notice.error_field(_FIELD.MESSAGE_PRIMARY)):
            self._damage = ParseError(NO_SUCH_MESSAGE, message_type="N", offset=0, lsn=INVALID_LSN)

    def take(self) -> Chunk:
        """See `Transport.take`."""
        chunk = Chunk(self.gathered, self._messages)
        self._messages, self.gathered = [], 0
        return chunk

    def send(self, message: bytes) -> bool:
        """See `Transport.send`."""
        self._pgconn.put_copy_data(message)
        return self.flush()

    def flush(self) -> bool:
        """See `Transport.flush`."""
        return self._pgconn.flush() == 0

    def read(self, chunk: Chunk) -> MessageBlock:
        """See `Transport.read`."""
        messages = []
        for data in chunk.messages:
            if len(data) > HEADER:
                messages.append(data)
                continue
            keepalive = parse_copy_data(bytes(data))
            assert isinstance(keepalive, PrimaryKeepalive)
            self.server_end = max(self.server_end, keepalive.wal_end)
            self.reply_requested |= keepalive.reply_requested
        return MessageBlock.join(messages, self.server_end)

    def close(self) -> None:
        """See `Transport.close`: nothing."""


class PlainTransport:
    """A stream read from the socket of a connection without encryption. Implements `Transport`.

    Args:
        connection: The socket; libpq must not read from it any more.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.gathered = 0
        self.ended = False
        self.server_end = INVALID_LSN
        self.reply_requested = False
        self.stream_end = StreamEnd()
        self._socket = connection
        self._socket.setblocking(False)
        self._buffer = np.empty(BUFFER_BYTES, dtype=np.uint8).data
        self._unsent = b""
        self._rest = bytearray()
        self._over = False  # the end of the stream, or an error, was read

    @property
    def incomplete(self) -> int:
        """See `Transport.incomplete`."""
        return len(self._rest)

    def fileno(self) -> int:
        """See `Transport.fileno`."""
        return self._socket.fileno()

    def gather(self) -> bool:
        """See `Transport.gather`."""
        at = HEADROOM + self.gathered
        try:
            received = self._socket.recv_into(memoryview(self._buffer)[at : BUFFER_BYTES - len(PADDING)], _READ_BYTES)
        except BlockingIOError:
            return False
        self.gathered += received
        if not received:
            self.ended = True
        return received > 0

    def take(self) -> Chunk:
        """See `Transport.take`."""
        end = HEADROOM + self.gathered + len(PADDING)
        chunk = Chunk(self.gathered, buffer=_own_memory(self._buffer[:end]))
        self.gathered = 0
        return chunk

    def send(self, message: bytes) -> bool:
        """See `Transport.send`."""
        self._unsent += b"d" + _LENGTH.pack(len(message) + _LENGTH.size) + message
        return self.flush()

    def flush(self) -> bool:
        """See `Transport.flush`."""
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return False
        return not self._unsent

    def read(self, chunk: Chunk) -> MessageBlock:
        """See `Transport.read`."""
        buffer, end = memoryview(chunk.buffer), HEADROOM + chunk.size
        begin = HEADROOM - len(self._rest)
        if begin < 0:  # a message larger than the headroom continues
            self._rest += buffer[HEADROOM:end]
            if len(self._rest) <= _LENGTH.unpack_from(self._rest, 1)[0]:
                return MessageBlock.join([], self.server_end)  # the message is not complete yet
            buffer, begin, end = memoryview(self._rest + PADDING), 0, len(self._rest)
        else:
            buffer[begin:HEADROOM] = self._rest
        pieces: list[FoundMessages] = []
        while True:
            begin = self._skip_other_messages(buffer, begin, end)
            found = find_messages(buffer, begin, end)
            self.server_end = max(self.server_end, found.wal_end)
            self.reply_requested |= found.reply_requested
            pieces.append(found)
            if self._over and found.tail > begin:
                raise ParseError("CopyData behind its end", message_type="d", offset=0, lsn=INVALID_LSN)
            begin = self._skip_other_messages(buffer, found.tail, end)
            if begin == found.tail:
                break
        self._rest = bytearray(buffer[begin:end])
        if len(self._rest) >= _FRAME:
            verify_length(self._rest, 0)
        starts, ends = (np.concatenate([getattr(found, name) for found in pieces]) for name in ("starts", "ends"))
        return MessageBlock(buffer, starts, ends, self.server_end)

    def close(self) -> None:
        """See `Transport.close`."""
        self._socket.close()

    def _skip_other_messages(self, buffer: memoryview, begin: int, end: int) -> int:
        """Read complete messages at `begin` that are no CopyData; return where they end."""
        while end - begin >= _FRAME and buffer[begin] != _COPY_DATA:
            behind = begin + 1 + verify_length(buffer, begin)
            if end < behind:
                break
            kind, payload = chr(buffer[begin]), bytes(buffer[begin + _FRAME : behind])
            verify_payload(kind, payload, stream_ended=self._over)
            if kind == "E":
                fields = error_fields(payload)
                self.stream_end = StreamEnd(fields["C"], fields["M"])
            if kind == "Z":  # ReadyForQuery after an error: the connection stays open, and the stream is over
                self.ended = True
            self._over |= kind in ENDS
            begin = behind
        return begin


def _own_memory(octets: memoryview) -> Buffer:
    """Return a copy in memory of its own: a block keeps all its memory as long as a value refers to it.

    Pages of a mapping go back to the system at once; malloc would keep them for later.
    """
    if len(octets) < _MAPPED_BYTES:
        return bytearray(octets)
    pages = mmap.mmap(-1, len(octets), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:] = octets
    return memoryview(pages)
