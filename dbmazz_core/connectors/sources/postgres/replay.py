"""The proof that a server's history is that of the destination: the last applied transaction comes again.

A slot that is behind the last applied transaction has not been told of it: a crash came between the destination's
commit and the acknowledgement, or the server was put back to an older state, slot and all, and has written other
changes at the same positions since. The stream then starts at the slot's position, and the server has to send that
transaction again, with the same commit record, id and time, before anything else is taken from it.
"""

from __future__ import annotations

import numpy as np

from dbmazz_core.connectors.sources.postgres.framing import FramedBlock
from dbmazz_core.connectors.sources.postgres.parser import pg_time
from dbmazz_core.connectors.sources.postgres.slots import history_diverged
from dbmazz_core.lsn import Lsn
from dbmazz_core.records import CommittedTransaction


def replayed(framed: FramedBlock, last: CommittedTransaction, slot: str) -> int | None:
    """Look for the transaction in a block.

    Returns:
        The message behind its COMMIT; None if it may still come.

    Raises:
        HistoryDiverged: It can come no more, for transactions come in the order of their commit records.
    """
    numbers = framed.transaction[framed.commits]
    here = np.flatnonzero(framed.commit_lsn[numbers] >= last.commit_lsn)
    if len(here):
        number = int(numbers[here[0]])
        xid, time = int(framed.xid[number]), pg_time(int(framed.commit_time[number]))
        found = CommittedTransaction(Lsn(int(framed.commit_lsn[number])), xid, time)
        if found != last:
            instead = (
                f"the server has transaction {xid}, committed at {found.commit_lsn} on {time:%Y-%m-%d %H:%M:%S.%f} UTC"
            )
            raise history_diverged(slot, last, instead)
        return int(framed.commits[here[0]]) + 1
    # A keepalive tells how far the WAL was sent; a transaction is sent when its commit record is read.
    if framed.block.server_end > last.commit_lsn and framed.open is None:
        raise history_diverged(slot, last, f"the server has sent its WAL up to {framed.block.server_end} without it")
    return None
