"""What the receiving process and the reader say to each other over two pipes.

Down (to the receiver): one line a command: `confirm <lsn>`, `keepalive`; the end of the pipe means close. Up: frames, a
kind byte and the length of the payload, then the payload.
"""

from __future__ import annotations

import os
import pickle
from struct import Struct

import numpy as np

from dbmazz_core.connectors.sources.postgres.block import PADDING, MessageBlock
from dbmazz_core.lsn import Lsn

#: Streaming has begun; a block; an exception (pickled); the end, with the receiver's CPU seconds (pickled).
STARTED, BLOCK, ERROR, END = b"S", b"B", b"E", b"F"
HEAD = Struct(">cQ")
_BLOCK = Struct(">QQ")  # server_end, number of messages


def write_block(descriptor: int, block: MessageBlock) -> None:
    """Write a block: its head, the messages' ends, the messages."""
    ends = block.ends.tobytes()
    head = HEAD.pack(BLOCK, _BLOCK.size + len(ends) + block.size) + _BLOCK.pack(block.server_end, len(block))
    write(descriptor, head + ends)
    write(descriptor, memoryview(block.buffer)[: block.size])


def write_object(descriptor: int, kind: bytes, value: object) -> None:
    """Write a frame with a pickled object."""
    payload = pickle.dumps(value)
    write(descriptor, HEAD.pack(kind, len(payload)) + payload)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view) :]


def read_frame(descriptor: int) -> tuple[bytes, bytearray]:
    """Read a frame's kind and payload, with `PADDING` behind it. Raises EOFError at the end of the pipe."""
    kind, size = HEAD.unpack_from(_read(descriptor, HEAD.size))
    return kind, _read(descriptor, size)


def block_of(payload: bytearray) -> MessageBlock:
    """The block in a frame, over the payload's memory."""
    server_end, count = _BLOCK.unpack_from(payload)
    first = _BLOCK.size + 8 * count
    ends = np.frombuffer(payload, dtype=np.int64, count=count, offset=_BLOCK.size) + first
    starts = np.empty_like(ends)
    starts[:1] = first
    starts[1:] = ends[:-1]
    return MessageBlock(payload, starts, ends, Lsn(server_end))


def _read(descriptor: int, size: int) -> bytearray:
    data = bytearray(size + len(PADDING))
    view, at = memoryview(data), 0
    while at < size:
        got = os.readv(descriptor, [view[at:size]])
        if not got:
            raise EOFError
        at += got
    return data
