"""Framing: assigns the messages of a block to transactions.

BEGIN and COMMIT of all transactions in a block are read at once, as columns, so that many small transactions cost no
more Python code than one large transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from dbmazz_core.connectors.sources.postgres.octets import Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.parser.block import HEADER, MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.parser import POSTGRES_EPOCH, parse, pg_time
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import Lsn

_BEGIN, _COMMIT = ord("B"), ord("C")
_ROW_TYPES = (ord("I"), ord("U"), ord("D"))
_TRUNCATE = ord("T")
#: Commit times that Python's dates can hold, in microseconds since 2000. A server's clock shows no others.
_YEAR_1_US = (datetime.min.replace(tzinfo=UTC) - POSTGRES_EPOCH) // timedelta(microseconds=1)
_YEAR_9999_US = (datetime.max.replace(tzinfo=UTC) - POSTGRES_EPOCH) // timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """A transaction whose COMMIT has not come yet.

    Attributes:
        commit_lsn: LSN of its commit record, from its BEGIN.
        commit_time: Microseconds since 2000-01-01 UTC.
        xid: Transaction id.
        changes: Number of changes received so far.
    """

    commit_lsn: Lsn
    commit_time: int
    xid: int
    changes: int


@dataclass(frozen=True, slots=True, eq=False)
class FramedBlock:
    """A block with the transaction of each message.

    Attributes:
        block: The messages, shape (n,).
        transaction: Number of each message's transaction in the arrays by transaction, int64, shape (n,). Number 0 is
            the transaction that was open when the block began (zeros if none was).
        commit_lsn: LSN of the commit record, by transaction, uint64, shape (t + 1,).
        commit_time: Microseconds since 2000-01-01 UTC, by transaction, int64, shape (t + 1,).
        xid: Transaction id, by transaction, uint32, shape (t + 1,).
        ordinal: Position of each row change or TRUNCATE in its transaction, from 1, int64, shape (n,).
        is_row: Whether each message is an insert, update or delete, shape (n,).
        rows_before: Number of row changes ahead of each message in this block, int64, shape (n + 1,).
        begins: Indexes of the BEGIN messages, int64, shape (t,).
        commits: Indexes of the COMMIT messages, int64, shape (c,).
        end_lsn: End of each COMMIT's record, uint64, shape (c,).
        open: The transaction that is open behind the last message, or None.
    """

    block: MessageBlock
    transaction: Int64s
    commit_lsn: npt.NDArray[np.uint64]
    commit_time: Int64s
    xid: npt.NDArray[np.uint32]
    ordinal: Int64s
    is_row: npt.NDArray[np.bool_]
    rows_before: Int64s
    begins: Int64s
    commits: Int64s
    end_lsn: npt.NDArray[np.uint64]
    open: OpenTransaction | None


def frame(block: MessageBlock, open: OpenTransaction | None) -> FramedBlock:
    """Assign the messages of a block to transactions.

    Args:
        block: The messages.
        open: `FramedBlock.open` of the block before.

    Raises:
        ParseError: BEGIN and COMMIT do not alternate or have a wrong format, or a row is outside of a transaction.
    """
    types, starts = block.types, block.starts
    is_begin, is_commit = types == _BEGIN, types == _COMMIT
    begins, commits = np.flatnonzero(is_begin), np.flatnonzero(is_commit)
    is_row = (types == _ROW_TYPES[0]) | (types == _ROW_TYPES[1]) | (types == _ROW_TYPES[2])
    _verify_framing(block, begins, commits, is_row, open)

    uint64, uint32 = unaligned(block.buffer, ">u8"), unaligned(block.buffer, ">u4")
    payload = starts[begins] + HEADER
    # Begin: Byte1('B') Int64 final LSN, Int64 commit time, Int32 xid
    first = open or OpenTransaction(Lsn(0), 0, 0, 0)
    commit_lsn = np.concatenate([[np.uint64(first.commit_lsn)], uint64[payload + 1].astype(np.uint64)])
    commit_time = np.concatenate([[first.commit_time], uint64[payload + 9].astype(np.int64)])
    xid = np.concatenate([[np.uint32(first.xid)], uint32[payload + 17].astype(np.uint32)])
    # Commit: Byte1('C') Int8 flags, Int64 commit LSN, Int64 end LSN, Int64 commit time
    end_lsn = uint64[starts[commits] + HEADER + 10].astype(np.uint64)

    transaction = np.cumsum(is_begin)
    counted = np.cumsum(is_row | (types == _TRUNCATE))
    before = np.concatenate([[-first.changes], counted[begins]])
    ordinal = counted - before[transaction]
    rows_before = np.concatenate([[0], np.cumsum(is_row)])
    return FramedBlock(
        block=block,
        transaction=transaction,
        commit_lsn=commit_lsn,
        commit_time=commit_time,
        xid=xid,
        ordinal=ordinal,
        is_row=is_row,
        rows_before=rows_before,
        begins=begins,
        commits=commits,
        end_lsn=end_lsn,
        open=_open_at_end(begins, commits, commit_lsn, commit_time, xid, ordinal, open),
    )


def _open_at_end(
    begins: Int64s,
    commits: Int64s,
    commit_lsn: npt.NDArray[np.uint64],
    commit_time: Int64s,
    xid: npt.NDArray[np.uint32],
    ordinal: Int64s,
    open: OpenTransaction | None,
) -> OpenTransaction | None:
    """Return the transaction that is open behind the last message, or None."""
    last_begin = int(begins[-1]) if len(begins) else -1
    last_commit = int(commits[-1]) if len(commits) else -1
    if last_commit > last_begin or (last_begin < 0 and open is None):
        return None
    changes = int(ordinal[-1]) if len(ordinal) else (open.changes if open else 0)
    return OpenTransaction(Lsn(int(commit_lsn[-1])), int(commit_time[-1]), int(xid[-1]), changes)


def _verify_framing(
    block: MessageBlock,
    begins: Int64s,
    commits: Int64s,
    is_row: npt.NDArray[np.bool_],
    open: OpenTransaction | None,
) -> None:
    """Raise ParseError unless BEGIN and COMMIT have their format, alternate, and enclose all rows."""
    for index in (begins, commits):
        size = 21 if index is begins else 26
        torn = block.ends[index] - block.starts[index] != HEADER + size
        if torn.any():
            _raise_parse_error(block, int(index[torn.argmax()]), "the length does not fit the type")
    flagged = block.bytes[block.starts[commits] + HEADER + 1] != 0
    if flagged.any():
        _raise_parse_error(block, int(commits[flagged.argmax()]), "unknown flags")
    times = unaligned(block.buffer, ">i8")[block.starts[begins] + HEADER + 9]
    impossible = (times < _YEAR_1_US) | (times > _YEAR_9999_US)
    if impossible.any():
        at = int(impossible.argmax())
        pg_time(int(times[at]), lsn=block.message(int(begins[at]))[0])
    # +1 at BEGIN, -1 at COMMIT: the running sum is 1 within a transaction and 0 outside.
    step = np.zeros(len(block), dtype=np.int64)
    step[begins], step[commits] = 1, -1
    depth = np.cumsum(step) + (1 if open else 0)
    wrong = (depth < 0) | (depth > 1) | (is_row & (depth != 1))
    if wrong.any():
        _raise_parse_error(block, int(wrong.argmax()), "BEGIN and COMMIT do not alternate, or a row is outside of them")


def _raise_parse_error(block: MessageBlock, index: int, detail: str) -> None:
    lsn, payload = block.message(index)
    parse(payload, lsn)  # raises a more precise error if the message itself is malformed
    raise ParseError(detail, message_type=chr(block.types[index]), offset=0, lsn=lsn)
