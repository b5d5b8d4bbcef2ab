"""Many replication messages as one piece of memory: what the reader hands to the columnar decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from dbmazz_core.lsn import INVALID_LSN, Lsn

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

#: Length of the XLogData header in front of every message: 'w', start, end, send time.
HEADER = 25

#: Behind the last message, so that eight bytes can be read at any place in it.
PADDING = bytes(8)


def unaligned(buffer: bytes | bytearray | memoryview | Bytes, dtype: str) -> npt.NDArray[Any]:
    """View `buffer` as one item at every byte, so that fancy indexing reads items at any offset."""
    itemsize = np.dtype(dtype).itemsize
    return np.ndarray(shape=(max(len(buffer) - itemsize + 1, 0),), dtype=dtype, buffer=buffer, strides=(1,))


@dataclass(frozen=True, slots=True, eq=False)
class MessageBlock:
    """XLogData messages in the order received, one behind the other in one buffer.

    Attributes:
        buffer: All messages, each with its XLogData header, and at least `PADDING` behind them.
        starts: Offset of each message in `buffer`, shape (n,), int64.
        ends: Offset behind each message, shape (n,), int64.
        types: pgoutput's type byte of each message, shape (n,), uint8.
        server_end: The last keepalive's `wal_end`: every transaction committed before it has been sent in this block
            or an earlier one. `INVALID_LSN` if no keepalive has come yet.
        buffer_number: Number of the shared slot that `buffer` is, see `buffers`; None if it is no such.
    """

    buffer: bytes | bytearray | memoryview | Bytes
    starts: Int64s
    ends: Int64s
    server_end: Lsn = INVALID_LSN
    buffer_number: int | None = None
    types: Bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", self.bytes[self.starts + HEADER])

    @classmethod
    def join(cls, messages: Sequence[bytes | memoryview], server_end: Lsn = INVALID_LSN) -> MessageBlock:
        """Make a block of single messages. Each must be longer than the XLogData header."""
        lengths = np.fromiter(map(len, messages), dtype=np.int64, count=len(messages))
        ends = np.cumsum(lengths)
        return cls(b"".join([*messages, PADDING]), ends - lengths, ends, server_end)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Bytes of messages."""
        return int(self.ends[-1] - self.starts[0]) if len(self) else 0

    @property
    def bytes(self) -> Bytes:
        """The buffer as uint8."""
        return np.frombuffer(self.buffer, dtype=np.uint8)

    @property
    def view(self) -> memoryview:
        """The buffer, to slice without copying."""
        return self.buffer.data if isinstance(self.buffer, np.ndarray) else memoryview(self.buffer)

    def message(self, index: int) -> tuple[Lsn, memoryview]:
        """WAL position and pgoutput payload of one message."""
        start, end = int(self.starts[index]), int(self.ends[index])
        wal_start = Lsn(int.from_bytes(self.buffer[start + 1 : start + 9], "big"))
        return wal_start, self.view[start + HEADER : end]

    def __iter__(self) -> Iterator[tuple[Lsn, memoryview]]:
        return (self.message(index) for index in range(len(self)))
