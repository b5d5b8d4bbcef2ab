"""What the receiving process and the reader say to each other over a socket.

To the receiver: the length of a pickled request, the request, then one line a command: `confirm <lsn>`, `keepalive`.
The end of what is sent means close. To the reader: frames, a kind byte and the length of the payload, then the payload.
"""

from __future__ import annotations

import pickle
import socket
from struct import Struct

import numpy as np

from dbmazz_core.connectors.sources.postgres.parser.block import PADDING, MessageBlock
from dbmazz_core.connectors.sources.postgres.replication.buffers import BufferViews
from dbmazz_core.lsn import Lsn

#: Streaming has begun, with the walsender's process id; a block; an exception; the end, with the receiver's CPU
#: seconds. All but blocks are pickled.
STARTED, BLOCK, ERROR, END = b"S", b"B", b"E", b"F"
#: Number of the slot where the bytes follow in the frame.
_OWN_BYTES = 0xFFFFFFFF
_FRAME_HEAD = Struct(">cQ")
_LENGTH = Struct(">I")
_BLOCK_HEAD = Struct(">QQI4x")  # server_end, number of messages, slot


def write_request(channel: socket.socket, request: object) -> None:
    """Write the request."""
    payload = pickle.dumps(request)
    channel.sendall(_LENGTH.pack(len(payload)) + payload)


def read_request(channel: socket.socket) -> object:
    """Read the request. Raises EOFError if it does not come."""
    (size,) = _LENGTH.unpack_from(_read_exactly(channel, _LENGTH.size))
    return pickle.loads(_read_exactly(channel, size))


def write_block(channel: socket.socket, block: MessageBlock) -> None:
    """Write a block: its head, where the messages start and end, and the messages unless they are in a slot."""
    first = int(block.starts[0]) if len(block) and block.buffer_number is None else 0
    size = block.size if block.buffer_number is None else 0
    places = (block.starts - first).tobytes() + (block.ends - first).tobytes()
    number = _OWN_BYTES if block.buffer_number is None else block.buffer_number
    head = _BLOCK_HEAD.pack(block.server_end, len(block), number)
    channel.sendall(_FRAME_HEAD.pack(BLOCK, len(head) + len(places) + size) + head + places)
    if size:
        channel.sendall(block.view[first : first + size])


def write_object(channel: socket.socket, kind: bytes, value: object) -> None:
    """Write a frame with a pickled object."""
    payload = pickle.dumps(value)
    channel.sendall(_FRAME_HEAD.pack(kind, len(payload)) + payload)


def read_frame(channel: socket.socket) -> tuple[bytes, bytearray]:
    """Read a frame's kind and payload, with `PADDING` behind it.

    Raises:
        EOFError: At the end.
        TimeoutError: If the socket has a timeout, and nothing more came for so long.
    """
    kind, size = _FRAME_HEAD.unpack_from(_read_exactly(channel, _FRAME_HEAD.size))
    return kind, _read_exactly(channel, size)


def unpack_block(payload: bytearray, buffers: BufferViews | None) -> MessageBlock:
    """The block in a frame, over the memory of the payload or of a slot."""
    server_end, count, number = _BLOCK_HEAD.unpack_from(payload)
    places = np.frombuffer(payload, dtype=np.int64, count=2 * count, offset=_BLOCK_HEAD.size)
    if number != _OWN_BYTES:
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
