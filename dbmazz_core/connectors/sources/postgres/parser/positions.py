"""Verify the positions in a stream against each other, and against the position that the server itself reports.

A checkpoint follows what the stream says: the end of the last transaction, the `wal_end` of a keepalive, or a BEGIN
beyond the upper LSN. A wrong position in any of them would move the slot past changes that never came.

- BEGIN and COMMIT of a transaction have the same commit LSN and time (reorderbuffer.c, ReorderBufferReplay).
- A transaction's commit record begins at or behind the end of the one before, as the server decodes WAL in its order.
- No position is beyond the WAL that the server has flushed, or on a standby replayed: a walsender reads no further.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from dbmazz_core.connectors.sources.postgres.octets import unaligned
from dbmazz_core.connectors.sources.postgres.parser.block import HEADER, MessageBlock
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn

_BEGIN, _COMMIT = ord("B"), ord("C")
_BEGIN_SIZE, _COMMIT_SIZE = 21, 26
#: Seconds in which the server's position must reach the stream's. A walsender may have read the record that ends a WAL
#: segment before the rest of the segment was flushed.
_CATCH_UP_S = 2.0


class StreamPositions:
    """Verifies the blocks of one stream, in their order.

    Args:
        server_position: Returns the position up to which the server's WAL can be read, from an ordinary connection.
        known: A position that `server_position` would return or has passed.
    """

    def __init__(self, server_position: Callable[[], Lsn], known: Lsn = INVALID_LSN) -> None:
        self._server_position = server_position
        self._known = known
        # The last BEGIN or COMMIT: its type, commit LSN, end (of a BEGIN: the commit LSN), and commit time as unsigned.
        self._last: tuple[int, int, int, int] = (_COMMIT, 0, 0, 0)

    def verify(self, block: MessageBlock) -> None:
        """Verify a block.

        Raises:
            ParseError: A position cannot be right.
        """
        self._verify_transactions(block)
        highest = max(block.server_end, Lsn(self._last[2]))
        if highest > self._known:
            self._verify_reached(highest)

    def _verify_reached(self, highest: Lsn) -> None:
        deadline = time.monotonic() + _CATCH_UP_S
        while highest > (known := self._server_position()):
            if time.monotonic() > deadline:
                raise ParseError(
                    f"the stream is at LSN {highest}, but the server's WAL ends at {known}",
                    message_type="k" if highest > self._last[2] else chr(self._last[0]),
                    offset=1,
                    lsn=highest,
                )
            time.sleep(0.1)
        self._known = known

    def _verify_transactions(self, block: MessageBlock) -> None:
        types, sizes = block.types, block.ends - block.starts - HEADER
        # The parser refuses those of another size.
        wanted = ((types == _BEGIN) & (sizes == _BEGIN_SIZE)) | ((types == _COMMIT) & (sizes == _COMMIT_SIZE))
        at = np.flatnonzero(wanted)
        if not len(at):
            return
        uint64 = unaligned(block.buffer, ">u8")
        payload, is_begin = block.starts[at] + HEADER, types[at] == _BEGIN
        # Begin: 'B', Int64 commit LSN, Int64 time. Commit: 'C', Int8 flags, Int64 commit LSN, Int64 end, Int64 time.
        fields = [np.where(is_begin, *offsets) for offsets in ((1, 2), (1, 10), (9, 18))]
        lsn, end, times = (
            np.concatenate([[np.uint64(before)], uint64[payload + offset].astype(np.uint64)])
            for before, offset in zip(self._last[1:], fields, strict=True)
        )
        wrong = np.where(
            is_begin,
            lsn[1:] < end[:-1],
            (lsn[1:] != lsn[:-1]) | (times[1:] != times[:-1]) | (end[1:] <= lsn[1:]),
        )
        if wrong.any():
            number = int(wrong.argmax())
            where, before = Lsn(int(lsn[number + 1])), Lsn(int(end[number]))
            raise ParseError(
                f"a transaction that committed at {where} comes behind {before}"
                if is_begin[number]
                else f"COMMIT says {where} and BEGIN {Lsn(int(lsn[number]))}, or their times or the end differ",
                message_type=chr(types[at[number]]),
                offset=1,
                lsn=where,
            )
        self._last = (int(types[at[-1]]), int(lsn[-1]), int(end[-1]), int(times[-1]))
