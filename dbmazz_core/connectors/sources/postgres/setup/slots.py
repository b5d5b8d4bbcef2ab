"""Verify the replication slot and the server's history against settings and checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sources.postgres.errors.lost_slots import SNAPSHOT_REMEDY, slot_lost
from dbmazz_core.connectors.sources.postgres.errors.running import (
    slot_active,
    slot_mismatch,
    slot_of_primary,
    two_phase_slot,
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
    """Return why a pipeline of this database cannot use a slot, whatever its position; None: it can be used."""
    if state.slot_type != "logical":
        return slot_mismatch(state.name, f"it is a {state.slot_type} slot")
    if state.plugin != PLUGIN:
        return slot_mismatch(state.name, f"its output plugin is {state.plugin}, not {PLUGIN}")
    if state.database != database:
        return slot_mismatch(state.name, f"it belongs to database {state.database}, not {database}")
    if state.is_copy:
        return slot_of_primary(state.name)
    if state.two_phase:
        return two_phase_slot(state.name)
    if state.is_lost:
        return slot_lost(state.name, reason=state.lost_reason)
    return None


def verify_slot(
    state: SlotState | None,
    config: SourceConfig,
    checkpoint_lsn: Lsn | None,
    *,
    database: str,
    own_pid: int | None = None,
) -> None:
    """Verify that a stream can start at the checkpoint.

    Args:
        state: State of the slot; None: it does not exist.
        config: Settings of the source, with the slot's name.
        checkpoint_lsn: The destination's checkpoint; None: there is none, and a missing slot is no error.
        database: The source's database.
        own_pid: Process id of this pipeline's walsender, which may hold the slot.

    Raises:
        SlotNotFound: There is a checkpoint, but no slot.
        SlotMismatch: The slot belongs to another plugin or database, or is physical.
        SlotLost: The server no longer has WAL that the slot needs.
        SlotActive: Another process consumes the slot.
        SlotAheadOfCheckpoint: The slot was confirmed beyond the checkpoint. PostgreSQL would start at the confirmed
            LSN without an error, and the changes between would be missing.
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
    checkpoint_lsn: Lsn, checkpoint_timeline: int, flush_lsn: Lsn, timeline: int, timeline_ends: Mapping[int, Lsn]
) -> None:
    """Verify that the server's WAL contains the checkpoint and continues after it.

    A server that was restored from a backup, or a standby that was promoted before it had received all WAL, has fewer
    changes than the destination, and later other changes at the same LSNs. Its slot, which comes from the same backup,
    shows no error.

    Args:
        checkpoint_lsn, checkpoint_timeline: The destination's checkpoint.
        flush_lsn, timeline: The server's position, as `IDENTIFY_SYSTEM` returns it.
        timeline_ends: LSNs at which the server's history left earlier timelines.

    Raises:
        ServerBehindCheckpoint: The destination holds changes that the server does not have.
    """
    if timeline == checkpoint_timeline:
        end, reason = flush_lsn, f"the server's WAL ends at {flush_lsn}"
    else:
        end = timeline_ends.get(checkpoint_timeline, Lsn(0))
        reason = (
            f"the server, on timeline {timeline} now, left timeline {checkpoint_timeline} at {end}"
            if checkpoint_timeline in timeline_ends
            else f"the server is on timeline {timeline}, which does not descend from timeline {checkpoint_timeline}"
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
    """Return the error for a server that does not send the last applied transaction, although its slot is not past it.

    Args:
        slot: Name of the slot.
        last: The last applied transaction.
        instead: A clause that says what the server did instead.
    """
    return HistoryDiverged(
        f"the last transaction in the destination is {last.xid}, committed at {last.commit_lsn} on "
        f"{last.commit_time:%Y-%m-%d %H:%M:%S.%f} UTC; {instead}: the server has another history, and the "
        "destination holds changes that the server does not have",
        object=f"replication slot {slot}",
        remedy=f"{SNAPSHOT_REMEDY}. It happens when the server's data directory was restored from a copy; or, if "
        "SOURCE_PUBLICATION_NAME was just changed, set it back for one run",
    )
