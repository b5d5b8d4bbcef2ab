"""The binary format of COPY, and its rows in the server's messages: pure bytes, without input or output.

The data begins with a header: a signature, flags, and the length of an extension. Each row is a count of fields
(int16), then for each field a length (int32; -1 is NULL) and that many bytes. The data ends with the count -1. The
server sends each row in one CopyData message; the header is in the first one, with or without a row behind it.

Sources: PostgreSQL manual, "COPY", "Binary Format", and "Message Flow", protocol-copy; copyto.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.replication.copy_data import (
    MESSAGE_MAX_BYTES,
    follow_chain,
    walk_messages,
)
from dbmazz_core.connectors.sources.postgres.types.binary_fields import BEHIND, Fields

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
#: Bytes of the header: the signature, flags, and the length of its extension.
HEADER_BYTES = len(_SIGNATURE) + 8
_FLAGS = Struct(">II")
#: The count of fields that ends the data.
TRAILER = b"\xff\xff"
#: Type and length ahead of each message.
FRAME = 5
_COPY_DATA = ord("d")
#: Rows of at least so many bytes on average are found by walking: a look at every byte would cost more.
_LONG_BYTES, _SAMPLE_SIZE = 2048, 16


class MalformedRows(Exception):
    """Bytes do not have the binary format of COPY."""


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Rows in one piece of memory.

    Attributes:
        buffer: The rows, uint8, with at least `BEHIND` bytes behind the last one.
        starts: Offset of each row's count of fields, int64, shape (n,).
        ends: Offset behind each row, int64, shape (n,).
    """

    buffer: Bytes
    starts: Int64s
    ends: Int64s

    @classmethod
    def join(cls, rows: list[memoryview]) -> RowBlock:
        """Make a block of single rows."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ends = np.cumsum(lengths)
        buffer = np.frombuffer(b"".join([*rows, bytes(BEHIND)]), dtype=np.uint8)
        return cls(buffer, ends - lengths, ends)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Number of bytes of the rows."""
        return int((self.ends - self.starts).sum())

    def columns(self, width: int) -> Iterator[Fields]:
        """Yield the fields of each column, with one numpy step a column for all rows.

        Args:
            width: Number of columns.

        Raises:
            MalformedRows: A row has another number of fields, or its fields do not end where it ends.
        """
        if (unaligned(self.buffer, ">i2")[self.starts] != width).any():
            raise MalformedRows("a row has another number of fields")
        lengths_at, position = unaligned(self.buffer, ">i4"), self.starts + 2
        for _ in range(width):
            if (position + 4 > self.ends).any():
                raise MalformedRows("a row ends before its last field")
            lengths, offsets = lengths_at[position].astype(np.int64), position + 4
            is_null = lengths < 0
            if not is_null.any():
                position = offsets + lengths
                if (position > self.ends).any():
                    raise MalformedRows("a field ends behind its row")
                yield Fields(self.buffer, offsets, lengths, None)
                continue
            if (lengths < -1).any():
                raise MalformedRows("a field has a negative length")
            lengths = np.maximum(lengths, 0)
            position = offsets + lengths
            if (position > self.ends).any():
                raise MalformedRows("a field ends behind its row")
            yield Fields(self.buffer, np.where(is_null, 0, offsets), lengths, ~is_null)
        if (position != self.ends).any():
            raise MalformedRows("a row has bytes behind its last field")


def header_size(data: bytes | memoryview) -> int:
    """Return the size of the header at the beginning of the data.

    Raises:
        MalformedRows: It is no header, or that of a format that this module does not know.
    """
    if len(data) < HEADER_BYTES or bytes(data[: len(_SIGNATURE)]) != _SIGNATURE:
        raise MalformedRows("the data does not begin with the signature of a binary COPY")
    flags, extension = _FLAGS.unpack_from(data, len(_SIGNATURE))
    if flags or extension:
        raise MalformedRows(f"the header has unknown flags ({flags:#x}) or an extension of {extension} bytes")
    return HEADER_BYTES


def find_rows(buffer: Bytes, first: int, size: int, width: int) -> tuple[Int64s, Int64s]:
    """Find the complete rows in `buffer[first:size]`, each in one CopyData message; a message begins at `first`.

    The search takes no Python code per row, unless the rows are long. All offsets that look like the beginning of a row
    are found at once; from each true one, the message's length leads to the next.

    Args:
        buffer: At least `BEHIND` bytes longer than `size`.
        first: Offset of the first message.
        size: Offset behind the last byte.
        width: Number of fields of a row.

    Returns:
        Offset of each row's message, and offset behind it, int64. They end at the first message that is not complete,
        or is no row.
    """
    counts = (width.to_bytes(2, "big"),)
    starts, ends = walk_messages(buffer.data, first, size, _SAMPLE_SIZE, counts, 2)
    if len(ends) < _SAMPLE_SIZE:
        return starts, ends
    begin = int(ends[-1])
    rest = (
        walk_messages(buffer.data, begin, size, size, counts, 2)
        if begin - first >= _SAMPLE_SIZE * _LONG_BYTES
        else _search(buffer, begin, size, width)
    )
    return np.concatenate([starts, rest[0]]), np.concatenate([ends, rest[1]])


def _search(buffer: Bytes, first: int, size: int, width: int) -> tuple[Int64s, Int64s]:
    """Search all bytes from offset `first` for rows; return their messages' starts and ends."""
    octets = buffer[first:size]
    count = max(len(octets) - FRAME - 1, 0)
    low, high = width & 0xFF, width >> 8
    looks = octets[FRAME + 1 : FRAME + 1 + count] == low
    looks &= octets[:count] == _COPY_DATA
    looks &= octets[FRAME : FRAME + count] == high
    looks &= octets[1 : 1 + count] < MESSAGE_MAX_BYTES >> 24
    starts = np.flatnonzero(looks) + first
    ends = starts + 1 + unaligned(buffer, ">u4")[starts + 1].astype(np.int64)
    complete = ends <= size
    return follow_chain(starts[complete], ends[complete], first)
