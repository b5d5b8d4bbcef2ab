"""The checkpoint of a destination, and the identity of the server that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of the destination.

    Attributes:
        slot: The replication slot that the checkpoint belongs to.
        lsn: The destination holds exactly the transactions whose commit record lies before this LSN.
        system_identifier: PostgreSQL's cluster identifier.
        timeline: The cluster's timeline when the checkpoint was written.
        database: The source database.
        commit_time: Commit time of the last applied transaction.
        last: The last applied transaction. If the slot is behind it, the server must send it again; otherwise the
            server has another history. None if no transaction was applied since all tables were copied, or if an older
            version wrote the checkpoint.
    """

    slot: str
    lsn: Lsn
    system_identifier: str
    timeline: int
    database: str
    commit_time: datetime | None = None
    last: CommittedTransaction | None = None


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """The identity of a server, as `IDENTIFY_SYSTEM` returns it.

    Attributes:
        system_identifier: Unique to the cluster; standbys share it.
        timeline: Current timeline.
        flush_lsn: Current WAL flush position (replay position on a standby).
        database: The connection's database.
    """

    system_identifier: str
    timeline: int
    flush_lsn: Lsn
    database: str
