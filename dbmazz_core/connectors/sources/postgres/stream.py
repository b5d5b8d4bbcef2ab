"""The stream as a sequence of parts, which end where the engine may commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dbmazz_core.connectors.sources.postgres.parser.decoder import Decoder
from dbmazz_core.connectors.sources.postgres.parser.framing import FramedBlock, OpenTransaction, frame
from dbmazz_core.connectors.sources.postgres.parser.parser import pg_time
from dbmazz_core.connectors.sources.postgres.parser.positions import StreamPositions
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.stream import StreamFormat, StreamPart, TableEvent
from dbmazz_core.table_ref import TableRef

_MAX_LSN = Lsn((1 << 64) - 1)
#: Seconds without a message after which the reader asks the server for its position.
_ASK_AFTER_S = 0.05


class PostgresStream:
    """Decoded changes of the captured tables, in commit order, up to an upper LSN.

    Args:
        reader: The running stream; `close` closes it.
        relations: Which tables are captured.
        start_lsn: Transactions committed before this LSN are left out.
        table_start: Later start LSNs, of tables whose snapshot is newer.
        positions: Verifies the stream's positions.
        upper_lsn: Transactions committed at or after this LSN are left for the next stream; None: no bound.
        verify: Called after messages were received and before they are returned; raises if the server has changed.
    """

    def __init__(
        self,
        reader: StreamReceiver,
        relations: Relations,
        *,
        start_lsn: Lsn,
        positions: StreamPositions,
        table_start: Mapping[TableRef, Lsn] | None = None,
        upper_lsn: Lsn | None = None,
        verify: Callable[[], None] | None = None,
    ) -> None:
        self.reader = reader
        self._relations = relations
        self._decoder = Decoder(relations, start_lsn=start_lsn, table_start=table_start)
        self._start = start_lsn
        self._upper = _MAX_LSN if upper_lsn is None else upper_lsn
        self.positions = positions
        self._verify = verify
        self._open: OpenTransaction | None = None
        self._framed: FramedBlock | None = None
        self._position = 0
        # The events of the messages from `_position` on, if they were decoded already.
        self._next_events: list[TableEvent] | None = None

    @property
    def receive_cpu_s(self) -> float:
        """CPU seconds of the receiving thread, known once the stream is closed."""
        return self.reader.receive_cpu_s

    @property
    def format(self) -> StreamFormat:
        """See `ChangeStream.format`."""
        return self._relations.format

    @property
    def touched(self) -> frozenset[TableRef]:
        """See `ChangeStream.touched`."""
        return frozenset(self._relations.touched)

    def next(self, *, rows: int, size: int, timeout: float, take_gathered: bool = False) -> StreamPart | None:
        """Return the next part, or None if nothing came in time.

        Args:
            rows: End the part at the first COMMIT with that many row changes before it.
            size: End the part at the first COMMIT with that many bytes before it.
            timeout: Seconds to wait.
            take_gathered: See `ChangeStream.next`.

        Raises:
            SourceError: The stream broke, or `verify` failed.
            ParseError: A message does not have pgoutput's format.
        """
        if self._framed is None:
            if self._upper == _MAX_LSN:
                block = self.reader.read(timeout, take_gathered=take_gathered)
            elif (block := self.reader.read(min(timeout, _ASK_AFTER_S))) is None:
                self.reader.request_keepalive()
                block = self.reader.read(max(timeout - _ASK_AFTER_S, 0))
            if block is None:
                return None
            if self._verify is not None:
                self._verify()
            framed = frame(block, self._open)
            self.positions.verify(block)
            self._framed = framed
            self._position = 0
        framed, begin = self._framed, self._position
        end, at_bound = self._part_end(framed, begin, rows, size)
        if self._next_events is not None:
            events, self._next_events = self._next_events, None
        elif self._continues_in_next_block(framed, end):
            # The begin of an open transaction behind the cut is the next part, whatever its `rows` and `size` are.
            events, self._next_events = self._decoder.decode_split(framed, begin, end, len(framed.block))
        else:
            events = self._decoder.decode(framed, begin, end) if end > begin else []
        return self._part(framed, begin, end, events, at_bound)

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything committed before `lsn` as durable."""
        self.reader.confirm(lsn)

    def close(self) -> None:
        """End the stream."""
        self.reader.close()

    def _part(self, framed: FramedBlock, begin: int, end: int, events: list[TableEvent], at_bound: bool) -> StreamPart:
        """Make the part of messages `begin` to `end`, and move on to the next part."""
        block = framed.block
        first, last = np.searchsorted(framed.commits, [begin, end])
        ended = int(last - first)
        whole = end == len(block)
        open_behind = framed.open if whole else None
        # A cut within a block is behind a COMMIT or ahead of a BEGIN.
        complete = open_behind is None
        end_lsn = Lsn(int(framed.end_lsn[last - 1])) if ended else None
        if whole and complete and block.server_end > (end_lsn or INVALID_LSN):
            end_lsn = block.server_end
        if at_bound:
            end_lsn = max(end_lsn or INVALID_LSN, self._upper)
        transaction = None
        if ended:
            number = framed.transaction[framed.commits[last - 1]]
            time = pg_time(int(framed.commit_time[number]))
            transaction = CommittedTransaction(Lsn(int(framed.commit_lsn[number])), int(framed.xid[number]), time)
        stop = int(block.starts[end] if end < len(block) else block.ends[-1]) if len(block) else 0
        size = stop - (int(block.starts[begin]) if begin < len(block) else stop)
        if whole:
            self._open, self._framed = framed.open, None
        else:
            self._position = end
        begun = int(np.subtract(*np.searchsorted(framed.begins, [end, begin])))
        empty = end - begin == ended + begun
        return StreamPart(events, complete, end_lsn, ended, size, transaction, at_bound, empty)

    def _continues_in_next_block(self, framed: FramedBlock, index: int) -> bool:
        """Whether all messages from `index` on belong to one transaction, which continues in the next block."""
        if framed.open is None or index == len(framed.block) or (len(framed.commits) and framed.commits[-1] >= index):
            return False
        return bool(framed.commit_lsn[framed.transaction[-1]] < self._upper)

    def _part_end(self, framed: FramedBlock, begin: int, rows: int, size: int) -> tuple[int, bool]:
        """Return where the part that begins at `begin` ends, and whether it ends there because of the upper LSN."""
        total = len(framed.block)
        end, at_bound = total, False
        begins = framed.begins[np.searchsorted(framed.begins, begin) :]
        beyond = np.flatnonzero(framed.commit_lsn[framed.transaction[begins]] >= self._upper)
        if len(beyond):
            end, at_bound = int(begins[beyond[0]]), True
        commits = framed.commits[np.searchsorted(framed.commits, begin) : np.searchsorted(framed.commits, end)]
        if not len(commits):
            return end, at_bound
        starts = framed.block.starts
        enough = (framed.rows_before[commits] - framed.rows_before[begin] >= rows) | (
            starts[commits] - starts[begin] >= size
        )
        if enough.any():
            cut = int(commits[enough.argmax()]) + 1
        elif end == total and framed.open is not None:
            cut = int(commits[-1]) + 1  # the open transaction behind the COMMIT becomes a part of its own
        else:
            return end, at_bound
        return cut, at_bound and cut == end
