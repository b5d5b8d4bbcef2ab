"""The protocol between a stream's reader and its receiver process, over a socket.

The reader sends the length of a pickled `Request`, the request, and then one command a line: `confirm <lsn>` or
`keepalive`. It closes its sending side to end the stream. The receiver sends frames: a kind byte, the length of the
payload, and the payload.
"""

from __future__ import annotations

import pickle
import socket
from struct import Struct

import numpy as np

from dbmazz_core.connectors.sources.postgres.parser.block import PADDING, MessageBlock
from dbmazz_core.connectors.sources.postgres.replication.buffers import BufferViews
from dbmazz_core.lsn import Lsn

#: Kinds of frames. STARTED: streaming has begun, with the walsender's process id. BLOCK: a block of messages. ERROR: an
#: exception. END: the stream has ended, with the CPU seconds of the receiving thread. All but BLOCK are pickled.
STARTED, BLOCK, ERROR, END = b"S", b"B", b"E", b"F"
#: Stands for the number of a shared buffer where the messages follow in the frame.
_NO_BUFFER = 0xFFFFFFFF
_FRAME_HEAD = Struct(">cQ")
_LENGTH = Struct(">I")
_BLOCK_HEAD = Struct(">QQI4x")  # server_end, number of messages, number of the shared buffer


def write_request(channel: socket.socket, request: object) -> None:
    """Send a request to a receiver."""
    payload = pickle.dumps(request)
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def read_request(channel: socket.socket) -> object:
    """Receive the request.

    Raises:
        EOFError: The reader closed the socket before.
    """
    (size,) = _LENGTH.unpack_from(_read_exactly(channel, _LENGTH.size))
    return pickle.loads(_read_exactly(channel, size))


def write_block(channel: socket.socket, block: MessageBlock) -> None:
    """Send a BLOCK frame: its head, the messages' offsets, and the messages unless they are in a shared buffer."""
    first = int(block.starts[0]) if len(block) and block.buffer_number is None else 0
    size = block.size if block.buffer_number is None else 0
    places = (block.starts - first).tobytes() + (block.ends - first).tobytes()
    number = _NO_BUFFER if block.buffer_number is None else block.buffer_number
    head = _BLOCK_HEAD.pack(block.server_end, len(block), number)
    channel.sendall(_FRAME_HEAD.pack(BLOCK, len(head) + len(places) + size) + head + places)
    if size:
        channel.sendall(block.view[first : first + size])


def write_object(channel: socket.socket, kind: bytes, value: object) -> None:
    """Send a frame with a pickled object."""
    payload = pickle.dumps(value)
    channel.sendall(_FRAME_HEAD.pack(kind, len(payload)) + payload)


def read_frame(channel: socket.socket) -> tuple[bytes, bytearray]:
    """Receive a frame.

    Returns:
        Its kind, and its payload with `PADDING` behind it.

    Raises:
        EOFError: The socket has ended.
        TimeoutError: The socket has a timeout, and nothing came within it.
    """
    kind, size = _FRAME_HEAD.unpack_from(_read_exactly(channel, _FRAME_HEAD.size))
    return kind, _read_exactly(channel, size)


def unpack_block(payload: bytearray, buffers: BufferViews | None) -> MessageBlock:
    """Return the block of a BLOCK frame, as views of the payload or of a shared buffer."""
    server_end, count, number = _BLOCK_HEAD.unpack_from(payload)
    places = np.frombuffer(payload, dtype=np.int64, count=2 * count, offset=_BLOCK_HEAD.size)
    if number != _NO_BUFFER:
        assert buffers is not None
        return MessageBlock(buffers.view(number), places[:count], places[count:], Lsn(server_end), number)
    places = places + _BLOCK_HEAD.size + 16 * count
    return MessageBlock(payload, places[:count], places[count:], Lsn(server_end))


def _read_exactly(channel: socket.socket, size: int) -> bytearray:
    data = bytearray(size + len(PADDING))
    view, at = memoryview(data), 0
    while at < size:
        got = channel.recv_into(view[at:size])
        if not got:
            raise EOFError
        at += got
    return data
