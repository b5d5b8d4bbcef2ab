"""A block of replication messages in one piece of memory, which the reader hands to the columnar decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s
from dbmazz_core.connectors.sources.postgres.types.binary_fields import BEHIND
from dbmazz_core.lsn import INVALID_LSN, Lsn

#: Bytes of the XLogData header ahead of every message: 'w', start, end, send time.
HEADER = 25

#: Bytes behind the last message, so that as many can be read at any offset of a message.
PADDING = bytes(BEHIND)


@dataclass(frozen=True, slots=True, eq=False)
class MessageBlock:
    """XLogData messages in the order received, in one buffer.

    Attributes:
        buffer: All messages, each with its XLogData header, and at least `PADDING` behind the last.
        starts: Offset of each message in `buffer`, int64, shape (n,).
        ends: Offset behind each message, int64, shape (n,).
        types: pgoutput's type byte of each message, uint8, shape (n,).
        server_end: `wal_end` of the last keepalive: every transaction committed before it was sent in this block or an
            earlier one. `INVALID_LSN` before the first keepalive.
    """

    buffer: bytes | bytearray | memoryview | Bytes
    starts: Int64s
    ends: Int64s
    server_end: Lsn = INVALID_LSN
    types: Bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "types", self.bytes[self.starts + HEADER])

    @classmethod
    def join(cls, messages: Sequence[bytes | memoryview], server_end: Lsn = INVALID_LSN) -> MessageBlock:
        """Make a block of single messages, each of which must be longer than the XLogData header."""
        lengths = np.fromiter(map(len, messages), dtype=np.int64, count=len(messages))
        ends = np.cumsum(lengths)
        return cls(b"".join([*messages, PADDING]), ends - lengths, ends, server_end)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """Number of bytes from the first message to the end of the last."""
        return int(self.ends[-1] - self.starts[0]) if len(self) else 0

    @property
    def bytes(self) -> Bytes:
        """The buffer as an array, uint8."""
        return np.frombuffer(self.buffer, dtype=np.uint8)

    @property
    def view(self) -> memoryview:
        """The buffer as a memoryview, which is sliced without a copy."""
        return self.buffer.data if isinstance(self.buffer, np.ndarray) else memoryview(self.buffer)

    def message(self, index: int) -> tuple[Lsn, memoryview]:
        """Return the WAL position and the pgoutput payload of a message."""
        start, end = int(self.starts[index]), int(self.ends[index])
        wal_start = Lsn(int.from_bytes(self.buffer[start + 1 : start + 9], "big"))
        return wal_start, self.view[start + HEADER : end]

    def __iter__(self) -> Iterator[tuple[Lsn, memoryview]]:
        return (self.message(index) for index in range(len(self)))
