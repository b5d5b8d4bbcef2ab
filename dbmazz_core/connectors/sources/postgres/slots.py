"""Whether the replication slot can be used: does it fit configuration and checkpoint?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbmazz_core.config import SourceConfig
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server_errors import (
    NEW_SNAPSHOT,
    slot_active,
    slot_lost,
    slot_mismatch,
)
from dbmazz_core.connectors.sources.postgres.server_state import SlotState
from dbmazz_core.errors import (
    ServerBehindCheckpoint,
    SlotAheadOfCheckpoint,
    SlotCreationBlocked,
    SlotError,
    SlotLost,
    SlotMismatch,
    SlotNotFound,
)
from dbmazz_core.lsn import Lsn

PLUGIN = "pgoutput"


def unusable_slot(state: SlotState, database: str) -> SlotMismatch | SlotLost | None:
    """Why a slot of this name cannot be used by a pipeline of this database, whatever its position."""
    if state.slot_type != "logical":
        return slot_mismatch(state.name, f"it is a {state.slot_type} slot")
    if state.plugin != PLUGIN:
        return slot_mismatch(state.name, f"its output plugin is {state.plugin}, not {PLUGIN}")
    if state.database != database:
        return slot_mismatch(state.name, f"it belongs to database {state.database}, not {database}")
    if state.is_lost:
        reason = f" ({state.invalidation_reason})" if state.invalidation_reason else ""
        return slot_lost(state.name, f"the server no longer has the WAL that it needs{reason}")
    return None


def verify_slot(
    state: SlotState | None,
    config: SourceConfig,
    checkpoint_lsn: Lsn | None,
    *,
    database: str,
    own_pid: int | None = None,
) -> None:
    """Raise unless the stream can start at the checkpoint.

    Parameters:
        state: The slot as `slot_state` found it.
        config: Names the slot.
        checkpoint_lsn: The destination's checkpoint; None where it has none yet: then a missing slot is as it
            should be.
        database: The source's database.
        own_pid: A walsender that may hold the slot, because it is ours.

    Raises:
        SlotNotFound: There is a checkpoint, but the slot is gone.
        SlotMismatch: It is another plugin's, another database's, or physical.
        SlotLost: The server no longer has its WAL.
        SlotActive: Another process consumes it.
        SlotAheadOfCheckpoint: It was confirmed beyond the checkpoint. PostgreSQL would start at the confirmed
            position without a word, and what lies between would be missing.
    """
    object = f"replication slot {config.slot}"
    if state is None:
        if checkpoint_lsn is None:
            return
        raise SlotNotFound(
            f"{object} is gone, and with it every change after the checkpoint {checkpoint_lsn}",
            object=object,
            remedy=NEW_SNAPSHOT,
        )
    if problem := unusable_slot(state, database):
        raise problem
    if state.active and state.active_pid != own_pid:
        raise slot_active(state.name, state.active_pid, state.active_application)
    if checkpoint_lsn is not None and (state.confirmed_flush_lsn or Lsn(0)) > checkpoint_lsn:
        raise SlotAheadOfCheckpoint(
            f"{object} was confirmed up to {state.confirmed_flush_lsn}, but the destination's checkpoint is "
            f"{checkpoint_lsn}: the changes between are gone",
            object=object,
            remedy=f"{NEW_SNAPSHOT}. It happens when another pipeline used this slot, or the destination was "
            "restored from a backup",
        )


def verify_history(
    checkpoint_lsn: Lsn, checkpoint_timeline: int, flush_lsn: Lsn, timeline: int, left: Mapping[int, Lsn]
) -> None:
    """Raise unless the server's WAL is that of the checkpoint, and goes on behind it.

    A server that was restored from a backup, or a standby that was promoted before it had everything, has fewer changes
    than the destination, or soon others at the same positions; its slot, from the backup too, looks healthy.

    Parameters:
        checkpoint_lsn, checkpoint_timeline: The destination's.
        flush_lsn, timeline: The server's, as `IDENTIFY_SYSTEM` says.
        left: Where the server's history left each earlier timeline.

    Raises:
        ServerBehindCheckpoint: The destination holds changes that the server does not have.
    """
    if timeline == checkpoint_timeline:
        end, reason = flush_lsn, f"the server's WAL ends at {flush_lsn}"
    else:
        end = left.get(checkpoint_timeline, Lsn(0))
        reason = (
            f"the server, on timeline {timeline} now, left timeline {checkpoint_timeline} at {end}"
            if checkpoint_timeline in left
            else f"the server is on timeline {timeline}, which does not come from timeline {checkpoint_timeline}"
        )
    if checkpoint_lsn > end:
        raise ServerBehindCheckpoint(
            f"the destination's checkpoint is {checkpoint_lsn} on timeline {checkpoint_timeline}, but {reason}: the "
            "destination may hold changes that the server does not have",
            object=f"timeline {timeline}",
            remedy=f"{NEW_SNAPSHOT}. It happens when the server was restored from a backup, or a standby was promoted "
            "that had not received everything",
        )


@dataclass(frozen=True, slots=True)
class SlotCreationBlocker:
    """A transaction that CREATE_REPLICATION_SLOT waits for: one that was open and had written something.

    Attributes:
        pid: Its process; None for a prepared transaction.
        gid: Identifier of a prepared transaction.
        role: Whose it is.
        database: Where; transactions of all databases count.
        application: `application_name`.
        state: As in `pg_stat_activity`, or `prepared`; None where the role may not see it.
        age_s: Seconds since the transaction began; None where the role may not see it.
        query_age_s: Seconds since its last query began.
    """

    pid: int | None
    gid: str | None
    role: str | None
    database: str | None
    application: str | None
    state: str | None
    age_s: float | None
    query_age_s: float | None

    def __str__(self) -> str:
        name = f"process {self.pid}" if self.pid is not None else f"prepared transaction {self.gid!r}"
        application = f"{self.application}, " if self.application else ""
        age = f", open for {self.age_s:.0f} s" if self.age_s is not None else ""
        state = f", {self.state}" if self.state and self.pid is not None else ""
        return f"{name} ({application}role {self.role}, database {self.database}{state}{age})"

    @property
    def remedy(self) -> str:
        """The statement that ends it."""
        if self.pid is not None:
            return f"SELECT pg_terminate_backend({self.pid});"
        gid = (self.gid or "").replace("'", "''")
        return f"ROLLBACK PREPARED '{gid}'; in database {self.database}"


def slot_creation_blockers(conn: Connection) -> list[SlotCreationBlocker]:
    """Open transactions that a slot's creation waits for, oldest first.

    A consistent point is reached when all transactions that were writing at the start have ended, in every
    database, prepared ones as well (snapbuild.c, SnapBuildFindSnapshot). Those that only read do not count.
    """
    return [
        SlotCreationBlocker(*row)
        for row in conn.execute(
            """
            SELECT pid, NULL, usename::text, datname::text, nullif(application_name, ''), state,
                   extract(epoch FROM clock_timestamp() - xact_start)::float8 AS age,
                   extract(epoch FROM clock_timestamp() - query_start)::float8, age(backend_xid) AS xids
            FROM pg_catalog.pg_stat_activity
            WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
            UNION ALL
            SELECT NULL, gid, owner::text, database::text, NULL, 'prepared',
                   extract(epoch FROM clock_timestamp() - prepared)::float8, NULL, age(transaction)
            FROM pg_catalog.pg_prepared_xacts
            ORDER BY xids DESC
            """
        )
        for row in [row[:-1]]
    ]


def slot_creation_blocked(slot: str, blockers: Sequence[SlotCreationBlocker], waited_s: float) -> SlotError:
    """The error for giving up after `waited_s` seconds."""
    oldest = blockers[0] if blockers else None
    others = f" and {len(blockers) - 1} more" if len(blockers) > 1 else ""
    return SlotCreationBlocked(
        f"creating replication slot {slot} waited {waited_s:.0f} s for a transaction to end: "
        f"{oldest or 'none that is still open'}{others}",
        object=f"replication slot {slot}",
        remedy=f"wait until it has ended, or end it: {oldest.remedy}" if oldest else "run it again",
    )
