"""Whether the replication slot can be used: does it fit configuration and checkpoint?"""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sources.postgres.errors.running import (
    SNAPSHOT_REMEDY,
    slot_active,
    slot_lost,
    slot_mismatch,
)
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.errors import (
    HistoryDiverged,
    ServerBehindCheckpoint,
    SlotAheadOfCheckpoint,
    SlotLost,
    SlotMismatch,
    SlotNotFound,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.settings.config import SourceConfig

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
            remedy=SNAPSHOT_REMEDY,
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
            remedy=f"{SNAPSHOT_REMEDY}. It happens when another pipeline used this slot, or the destination was "
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
            remedy=f"{SNAPSHOT_REMEDY}. It happens when the server was restored from a backup, or a standby was "
            "promoted that had not received everything",
        )


def history_diverged(slot: str, last: CommittedTransaction, instead: str) -> HistoryDiverged:
    """The error for a server that does not send the last applied transaction again, though its slot is behind it.

    Parameters:
        slot: The slot.
        last: That transaction.
        instead: What it sent, a clause.
    """
    return HistoryDiverged(
        f"the last transaction in the destination is {last.xid}, committed at {last.commit_lsn} on "
        f"{last.commit_time:%Y-%m-%d %H:%M:%S.%f} UTC; {instead}: its history is another one, and the destination "
        "holds changes that it does not have",
        object=f"replication slot {slot}",
        remedy=f"{SNAPSHOT_REMEDY}. It happens when the server's data directory was put back from a copy; or, if "
        "SOURCE_PUBLICATION_NAME was changed just now, set it back for one run",
    )
