"""Whether the stream can go on from a checkpoint: same server, same history, and a slot that still has what follows."""

from __future__ import annotations

from collections.abc import Callable

from dbmazz_core.connectors.sources.postgres.replay import wait_for_replay
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.connectors.sources.postgres.session import Session, confirmed_lsn
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_history
from dbmazz_core.connectors.sources.postgres.stream_start import start_verified_stream
from dbmazz_core.errors import SlotLost, WrongServer
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.source import ResumePoint
from dbmazz_core.model.stopping import StopRequested


def verify_origin(session: Session, checkpoint: Checkpoint, *, destination: str) -> None:
    """Raise WrongServer if the checkpoint is of another cluster or database, see `Source.verify_origin`."""
    identity = session.identity
    if (checkpoint.system_identifier, checkpoint.database) == (identity.system_identifier, identity.database):
        return
    raise WrongServer(
        f"{destination} holds the tables of database {checkpoint.database} of another PostgreSQL "
        f"cluster (system identifier {checkpoint.system_identifier}); SOURCE_URL leads to {identity.database} "
        f"of {identity.system_identifier}",
        object=destination,
        remedy="correct SOURCE_URL, or choose another file (SINK_URL) for this server",
    )


def verify_position(session: Session, checkpoint: Checkpoint, *, and_slot: bool) -> None:
    """Raise if the server's WAL does not lead on from the checkpoint, or the slot does not, see `Source`."""
    verify_timeline(session, checkpoint.lsn, checkpoint.timeline)
    if and_slot and not (session.config.cleanup_on_stop and session.slot() is None):
        session.verify_slot(checkpoint.lsn)


def resume(session: Session, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
    """Verify slot and history, see `Source.resume`."""
    if checkpoint is None:
        return ResumePoint(confirmed_lsn(session.verify_slot(None)))
    verify_timeline(session, checkpoint.lsn, checkpoint.timeline)
    if session.config.cleanup_on_stop and session.slot() is None:
        return ResumePoint(None, restart=True)
    slot = session.verify_slot(checkpoint.lsn)
    if slot is not None and checkpoint.last is not None:
        _verify_replay(session, checkpoint.last, slot, checkpoint.lsn, stopped)
    return ResumePoint(confirmed_lsn(slot))


def verify_usable(session: Session) -> Lsn | None:
    """Return the slot's confirmed LSN, None without a slot, see `ManagedSource.verify_feed`."""
    slot = session.slot()
    if slot is not None and slot.is_lost:
        raise SlotLost(
            f"replication slot {slot.name} lost WAL that it needed and cannot be used again",
            object=f"replication slot {slot.name}",
            remedy="drop it, then copy all tables anew: dbmazz teardown && dbmazz snapshot",
        )
    return confirmed_lsn(session.verify_slot(None))


def verify_timeline(session: Session, lsn: Lsn, timeline: int) -> None:
    """Raise ServerBehindCheckpoint unless the server's WAL leads to this position and on from there."""
    identity = session.identity
    left: dict[int, Lsn] = {}
    if identity.timeline > max(timeline, 1):
        with session.replication("dbmazz identify") as connection:
            left = connection.timeline_history(identity.timeline)
    verify_history(lsn, timeline, session.server_lsn(), identity.timeline, left)


def _verify_replay(
    session: Session, last: CommittedTransaction, slot: SlotState, checkpoint: Lsn, stopped: Callable[[], bool]
) -> None:
    """Verify that the server's history contains the last transaction that was applied.

    It costs a replay only where the slot is not past that transaction: after a crash, or on a restored server.

    Raises:
        HistoryDiverged: The history does not contain it.
        StopRequested: `stopped` said so.
    """
    if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
        return
    with session.translated():
        reader, slot = start_verified_stream(
            session.config,
            session.connection,
            session.server,
            last.commit_lsn,
            checkpoint=checkpoint,
            messages=session.connection.info.server_version >= 140000,
        )
    try:
        if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
            return  # it moved past the transaction just now, and not past the checkpoint
        if not wait_for_replay(reader, last, slot=session.config.slot, stopped=stopped):
            raise StopRequested
    finally:
        reader.close()
