"""The server's answer to a COPY, taken apart: bytes in, blocks of rows out, without input or output."""

from __future__ import annotations

from struct import Struct

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import Int64s
from dbmazz_core.connectors.sources.postgres.replication.backend_messages import error_fields
from dbmazz_core.connectors.sources.postgres.replication.copy_data import MESSAGE_MAX_BYTES, TOO_LONG
from dbmazz_core.connectors.sources.postgres.snapshot.copy_format import (
    FRAME,
    TRAILER,
    MalformedRows,
    RowBlock,
    find_rows,
    header_size,
)
from dbmazz_core.connectors.sources.postgres.types.binary_fields import BEHIND

#: Bytes of a block of rows; a longer row gets a block of its own.
BLOCK_BYTES = 4 << 20
_LENGTH = Struct(">I")
#: ReadyForQuery without its last byte, the state of the transaction.
_READY = b"Z\0\0\0\5"
#: What comes besides rows, errors and ReadyForQuery: CopyOutResponse, CopyDone, CommandComplete, NoticeResponse,
#: ParameterStatus.
_OTHER_KINDS = "HcCNS"


class CopyAnswer:
    """Takes the bytes of one answer.

    Args:
        width: Number of fields of a row.

    Attributes:
        error: The fields of the server's error by their codes (manual, "Error and Notice Message Fields"); None: none.
        is_complete: Whether the server is ready for the next query.
    """

    def __init__(self, width: int) -> None:
        self.error: dict[str, str] | None = None
        self.is_complete = False
        self._width = width
        self._buffer = np.empty(BLOCK_BYTES + BEHIND, dtype=np.uint8)
        self._size = 0
        self._has_begun = self._has_ended = False

    @property
    def room(self) -> memoryview:
        """The memory for the next bytes."""
        return self._buffer.data[self._size : len(self._buffer) - BEHIND]

    @property
    def seems_complete(self) -> bool:
        """Whether the bytes end as a complete answer does, so that no more may come."""
        end = self._size - 1  # of a row with such bytes at its end, the next one comes soon
        return self._buffer[max(end - len(_READY), 0) : max(end, 0)].tobytes() == _READY

    def received(self, count: int) -> None:
        """Count bytes that were written into `room`."""
        self._size += count

    def take(self) -> RowBlock | None:
        """Return the complete rows among the bytes, None if there are none, and keep the beginning of the next one.

        Raises:
            MalformedRows: The bytes are no answer to a COPY in binary format.
        """
        pieces: list[tuple[Int64s, Int64s]] = []
        begin = 0
        while True:
            if self._has_begun and not self._has_ended:
                starts, ends = find_rows(self._buffer, begin, self._size, self._width)
                if len(starts):
                    pieces.append((starts + FRAME, ends))
                    begin = int(ends[-1])
            behind = self._end_of_message(begin)
            if behind is None:
                break
            pieces += self._read(begin, behind)
            begin = behind
        buffer = self._buffer
        self._begin_next_buffer(begin)
        if not pieces:
            return None
        return RowBlock(buffer, *(np.concatenate(edges) for edges in zip(*pieces, strict=True)))

    def _end_of_message(self, begin: int) -> int | None:
        """Return where the message at `begin` ends; None if it is not complete."""
        if self._size - begin < FRAME:
            return None
        length = int(_LENGTH.unpack_from(self._buffer.data, begin + 1)[0])
        if length < _LENGTH.size:
            raise MalformedRows(f"a message has the impossible length {length}")
        if length >= MESSAGE_MAX_BYTES:
            raise MalformedRows(TOO_LONG)
        behind = begin + 1 + length
        return behind if behind <= self._size else None

    def _read(self, begin: int, behind: int) -> list[tuple[Int64s, Int64s]]:
        """Read one message, from its type to where it ends; return the row in it, if it has one."""
        kind, payload = chr(self._buffer[begin]), self._buffer.data[begin + FRAME : behind]
        if kind == "d" and not self._has_ended:
            return self._read_data(begin + FRAME, behind)
        if kind == "E":
            self.error = error_fields(bytes(payload)) or {"M": "an error without a message"}
        elif kind == "Z":
            if self.error is None and not self._has_ended:
                raise MalformedRows("the data has no end")
            self.is_complete = True
        elif kind not in _OTHER_KINDS:
            raise MalformedRows(f"a message of type {kind!r} comes among the rows")
        return []

    def _read_data(self, begin: int, behind: int) -> list[tuple[Int64s, Int64s]]:
        """Read what is not found as a row: the header, with a row behind it or without, or the end of the data."""
        data = self._buffer.data[begin:behind]
        if not self._has_begun:
            self._has_begun = True
            begin += header_size(data)
            data = self._buffer.data[begin:behind]
        elif bytes(data) != TRAILER:
            raise MalformedRows("a row has another number of fields")
        if bytes(data[: len(TRAILER)]) == TRAILER:
            self._has_ended = True
            return []
        return [(np.array([begin]), np.array([behind]))] if len(data) else []

    def _begin_next_buffer(self, begin: int) -> None:
        """Keep the bytes from `begin` on in a new buffer, in which the message that they begin has room."""
        rest, needed = self._size - begin, BLOCK_BYTES
        if rest >= FRAME:
            needed = max(needed, 1 + int(_LENGTH.unpack_from(self._buffer.data, begin + 1)[0]))
        if begin == 0 and len(self._buffer) >= needed + BEHIND:
            return
        new = np.empty(needed + BEHIND, dtype=np.uint8)
        new[:rest] = self._buffer[begin : self._size]
        self._buffer, self._size = new, rest
