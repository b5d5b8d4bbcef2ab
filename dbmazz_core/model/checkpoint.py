"""Positions and where they count: a server, and how far the destination is in what it sends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far the destination is.

    Attributes:
        slot: The replication slot it belongs to.
        lsn: The destination holds exactly the transactions whose commit record lies before this LSN.
        system_identifier: PostgreSQL's cluster identifier.
        timeline: The cluster's timeline when it was written.
        database: The source database.
        commit_time: Commit time of the last applied transaction.
        last: That transaction. If the slot is behind it, it has to come again, or the server has another history. None
            where none was applied since all tables were copied, or by an older version.
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
    """What `IDENTIFY_SYSTEM` says.

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
