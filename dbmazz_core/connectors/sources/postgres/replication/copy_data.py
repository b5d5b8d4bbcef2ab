"""CopyData messages in raw bytes: their offsets, found for a whole block at once.

A message of the stream is Byte1('d'), Int32 length (which counts itself and what follows), then XLogData ('w') or a
keepalive ('k'): PostgreSQL manual, "Message Formats" (protocol-message-formats) and "Streaming Replication Protocol".
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.parser.block import HEADER
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn

_COPY_DATA, _XLOGDATA, _KEEPALIVE = b"dwk"
_KINDS = (_XLOGDATA, _KEEPALIVE)
_BEGINNINGS = (b"w", b"k")
#: Bytes of the type and the length ahead of each message.
_FRAME = 5
_LENGTH = struct.Struct(">I")
#: If the first `_SAMPLE_SIZE` messages have at least `_LONG_BYTES` on average, the rest is walked one by one.
_LONG_BYTES, _SAMPLE_SIZE = 2048, 16
#: PostgreSQL sends no message of a gigabyte or more (memutils.h, MaxAllocSize).
MESSAGE_MAX_BYTES = 1 << 30
#: What is wrong with a longer one.
TOO_LONG = "a message of a gigabyte or more"
#: First byte of a length of one gigabyte or more.
_GIGABYTE_BYTE = 0x40
#: Bytes of a keepalive: Byte1('k'), Int64 end of WAL, Int64 time, Byte1 whether the server asks for a reply.
_KEEPALIVE_SIZE = 18


@dataclass(frozen=True, slots=True, eq=False)
class FoundMessages:
    """The messages that were found in some bytes.

    Attributes:
        starts: Offset of each XLogData message behind its type and length, int64, shape (n,).
        ends: Offset behind each XLogData message, int64, shape (n,).
        tail: Offset of the first message that is not complete, or is no CopyData.
        wal_end: The largest `wal_end` of the keepalives; `INVALID_LSN` if there was none.
        reply_requested: Whether a keepalive asks for a reply.
    """

    starts: Int64s
    ends: Int64s
    tail: int
    wal_end: Lsn
    reply_requested: bool


def find_messages(buffer: memoryview, first: int, size: int) -> FoundMessages:
    """Find the messages in `buffer[first:size]`; one begins at `first`.

    The search runs without Python code per message, unless the messages are so long that a look at every byte costs
    more. It finds all offsets that look like the head of a message at once; the end of each true head leads to the
    next. Other bytes look like a head only by chance (a length below 1 GB needs a byte that no text has) and are
    skipped one by one.

    Args:
        buffer: At least eight bytes longer than `size`.
        first: Offset of the first message.
        size: Offset behind the last byte.

    Raises:
        ParseError: A CopyData message is neither XLogData nor a keepalive, or has a wrong length.
    """
    octets = np.frombuffer(buffer, dtype=np.uint8, count=size)
    heads, ends = walk_messages(buffer, first, size, _SAMPLE_SIZE, _BEGINNINGS)
    if len(ends) == _SAMPLE_SIZE:
        begin = int(ends[-1])
        rest = (
            walk_messages(buffer, begin, size, size, _BEGINNINGS)
            if begin - first >= _SAMPLE_SIZE * _LONG_BYTES
            else _search(buffer, octets, begin, size)
        )
        heads, ends = (np.concatenate(both) for both in zip((heads, ends), rest, strict=True))
    tail = int(ends[-1]) if len(ends) else first
    if tail + _FRAME < size and octets[tail] == _COPY_DATA and octets[tail + _FRAME] not in _KINDS:
        raise ParseError("unknown kind of CopyData", message_type=chr(octets[tail + _FRAME]), offset=0, lsn=INVALID_LSN)
    starts = heads + _FRAME
    return _separate_keepalives(buffer, octets, starts, ends, tail)


def walk_messages(
    buffer: memoryview, first: int, size: int, most: int, beginnings: Container[bytes], beginning_size: int = 1
) -> tuple[Int64s, Int64s]:
    """Walk at most `most` complete CopyData messages from offset `first`; return their starts and ends.

    Args:
        buffer: The bytes.
        first: Offset of the first message.
        size: Offset behind the last byte.
        most: Number of messages, at most.
        beginnings: What the data of a message begins with; the walk ends at another one.
        beginning_size: Bytes of each of these.
    """
    edges, begin = [first], first
    while len(edges) <= most and size - begin >= _FRAME + beginning_size and buffer[begin] == _COPY_DATA:
        if bytes(buffer[begin + _FRAME : begin + _FRAME + beginning_size]) not in beginnings:
            break
        begin += 1 + _LENGTH.unpack_from(buffer, begin + 1)[0]
        if begin > size:
            break
        edges.append(begin)
    found = np.array(edges, dtype=np.int64)
    return found[:-1], found[1:]


def _search(buffer: memoryview, octets: Bytes, first: int, size: int) -> tuple[Int64s, Int64s]:
    """Search all bytes from offset `first` for complete messages; return their starts and ends."""
    heads = _candidate_heads(octets[first:]) + first
    ends = heads + 1 + unaligned(buffer, ">u4")[heads + 1].astype(np.int64)
    complete = ends <= size
    return follow_chain(heads[complete], ends[complete], first)


def _candidate_heads(octets: Bytes) -> Int64s:
    """Return the offsets that look like the head of a message, ascending."""
    count = max(len(octets) - _FRAME, 0)
    looks = np.zeros(count + -count % 8, dtype=np.bool_)
    kinds = octets[_FRAME:]
    np.equal(kinds, _XLOGDATA, out=looks[:count])
    looks[:count] |= kinds == _KEEPALIVE
    looks[:count] &= octets[:count] == _COPY_DATA
    looks[:count] &= octets[1 : 1 + count] < _GIGABYTE_BYTE
    # Look at eight bytes at once first: few of them hold a head.
    eights = np.flatnonzero(looks.view(np.uint64) != 0)
    inside = np.flatnonzero(looks.reshape(-1, 8)[eights])
    places: Int64s = eights[inside >> 3] * 8 + (inside & 7)
    return places


def follow_chain(heads: Int64s, ends: Int64s, first: int) -> tuple[Int64s, Int64s]:
    """Keep the heads that are reached from offset `first`, each at the end of the message before."""
    if not len(heads) or heads[0] != first:
        return heads[:0], ends[:0]
    if (heads[1:] == ends[:-1]).all():
        return heads, ends
    after = np.searchsorted(heads, ends)
    regular = after == np.arange(1, len(heads) + 1)
    regular[:-1] &= heads[1:] == ends[:-1]
    breaks = np.append(np.flatnonzero(~regular), len(heads) - 1)
    pieces: list[tuple[int, int]] = []
    at = 0
    while True:
        last = int(breaks[np.searchsorted(breaks, at)])
        pieces.append((at, last + 1))
        at = int(after[last])
        if at >= len(heads) or heads[at] != ends[last]:
            break
    if len(pieces) == 1:
        return heads[: pieces[0][1]], ends[: pieces[0][1]]
    chosen = np.concatenate([np.arange(begin, behind) for begin, behind in pieces])
    return heads[chosen], ends[chosen]


def _separate_keepalives(buffer: memoryview, octets: Bytes, starts: Int64s, ends: Int64s, tail: int) -> FoundMessages:
    """Remove the keepalives from the messages and read them."""
    is_keepalive = octets[starts] == _KEEPALIVE
    lengths = ends - starts
    torn = np.where(is_keepalive, lengths != _KEEPALIVE_SIZE, lengths <= HEADER)
    if torn.any():
        at = int(starts[torn.argmax()])
        raise ParseError(
            "the length does not fit the kind of message", message_type=chr(buffer[at]), offset=0, lsn=INVALID_LSN
        )
    if not is_keepalive.any():
        return FoundMessages(starts, ends, tail, INVALID_LSN, False)
    alive = starts[is_keepalive]
    wal_end = Lsn(int(unaligned(buffer, ">u8")[alive + 1].max()))
    reply = bool((octets[alive + 17] != 0).any())
    return FoundMessages(starts[~is_keepalive], ends[~is_keepalive], tail, wal_end, reply)
