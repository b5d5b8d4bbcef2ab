"""Prove that a server's history is that of the destination: the server must send the last applied transaction again.

A slot that is not past the last applied transaction was not told of that transaction. Either a crash came between the
destination's commit and the acknowledgement, or the server was put back to an older state, with its slot, and has
written other changes at the same positions since. A stream from the transaction's commit record on begins with this
transaction if the history is the same.
"""

from __future__ import annotations

from collections.abc import Callable

from dbmazz_core.connectors.sources.postgres.parser.framing import OpenTransaction, frame
from dbmazz_core.connectors.sources.postgres.parser.parser import pg_time
from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
from dbmazz_core.connectors.sources.postgres.setup.slots import history_diverged
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction

#: Seconds without a message after which the reader asks the server for its position.
_ASK_AFTER_S = 0.1


def wait_for_replay(
    reader: StreamReceiver, last: CommittedTransaction, *, slot: str, stopped: Callable[[], bool] = lambda: False
) -> bool:
    """Wait until a stream begins with the last applied transaction.

    Its BEGIN is enough: the server sends BEGIN after it has decoded the commit record, and BEGIN has that record's LSN,
    commit time and transaction id.

    Args:
        reader: A stream that starts at the transaction's commit record.
        last: The last applied transaction.
        slot: The stream's slot.
        stopped: Whether to give up. The wait lasts as long as the server reads its WAL from `restart_lsn` on.

    Returns:
        True if the transaction came, False if `stopped` ended the wait.

    Raises:
        HistoryDiverged: Another transaction comes first, or the server has read past the commit record without one.
        SourceError: The stream broke.
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
        # A keepalive tells how far the server has read its WAL. It sends a transaction once the commit record is read.
        if open is None and block.server_end > last.commit_lsn:
            raise history_diverged(slot, last, f"the server has read its WAL up to {block.server_end} without it")
    return False
