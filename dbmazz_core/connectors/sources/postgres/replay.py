"""The proof that a server's history is that of the destination: the last applied transaction comes again.

A slot that is not past the last applied transaction has not been told of it: a crash came between the destination's
commit and the acknowledgement, or the server was put back to an older state, slot and all, and has written other
changes at the same positions since. A stream that starts at that transaction's commit record begins with that very
transaction, or it is of another history.
"""

from __future__ import annotations

from collections.abc import Callable

from dbmazz_core.connectors.sources.postgres.parser.framing import OpenTransaction, frame
from dbmazz_core.connectors.sources.postgres.parser.parser import pg_time
from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader
from dbmazz_core.connectors.sources.postgres.setup.slots import history_diverged
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction

#: Without news for that long, ask the server how far it is.
_ASK_AFTER_S = 0.1


def wait_for_replay(
    reader: StreamReader, last: CommittedTransaction, *, slot: str, stopped: Callable[[], bool] = lambda: False
) -> bool:
    """Wait for a transaction at the beginning of a stream.

    Its BEGIN is enough: it comes when the commit record was decoded, and has that record's LSN, time and id.

    Args:
        reader: A stream from the transaction's commit record on.
        last: The transaction.
        slot: The stream's slot.
        stopped: Whether to give up; it takes as long as the server needs to read its WAL from `restart_lsn` on.

    Returns:
        False if it was given up.

    Raises:
        HistoryDiverged: Another transaction comes, or none up to there.
        SourceError: If the stream broke.
    """
    open: OpenTransaction | None = None
    while not stopped():
        block = reader.read(_ASK_AFTER_S)
        if block is None:
            reader.request_keepalive()
            continue
        framed = frame(block, open)
        for number in framed.transaction[framed.begins[:1]].tolist():
            time = pg_time(int(framed.commit_time[number]))
            received = CommittedTransaction(Lsn(int(framed.commit_lsn[number])), int(framed.xid[number]), time)
            if received != last:
                raise history_diverged(
                    slot, last, f"the server sends transaction {received.xid}, committed at {received.commit_lsn}"
                )
            return True
        open = framed.open
        # A keepalive tells how far the WAL was read; a transaction is sent when its commit record is.
        if open is None and block.server_end > last.commit_lsn:
            raise history_diverged(slot, last, f"the server has read its WAL up to {block.server_end} without it")
    return False
