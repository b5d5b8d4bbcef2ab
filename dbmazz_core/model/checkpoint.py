"""The checkpoint of a destination, and the identity of the server that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
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
        database_oid: OID of the database, which stays when the database is renamed; None if an older version wrote the
            checkpoint.
    """

    slot: str
    lsn: Lsn
    system_identifier: str
    timeline: int
    database: str
    commit_time: datetime | None = None
    last: CommittedTransaction | None = None
    database_oid: int | None = None

    def continued(self, server: SystemIdentity, lsn: Lsn) -> Checkpoint:
        """Return the checkpoint at a position of another server, whose history continues that of the present server."""
        return replace(self.on(server), lsn=lsn, last=None)

    def on(self, server: SystemIdentity) -> Checkpoint:
        """Return the checkpoint under the present timeline of the server, and the present name of the database."""
        return replace(
            self,
            system_identifier=server.system_identifier,
            timeline=server.timeline,
            database=server.database,
            database_oid=server.database_oid,
        )


@dataclass(frozen=True, slots=True)
class SystemIdentity:
    """The identity of a server, as `IDENTIFY_SYSTEM` returns it.

    Attributes:
        system_identifier: Unique to the cluster; standbys share it.
        timeline: Current timeline.
        flush_lsn: Current WAL flush position (replay position on a standby).
        database: The connection's database.
        database_oid: Its OID.
    """

    system_identifier: str
    timeline: int
    flush_lsn: Lsn
    database: str
    database_oid: int | None = None
