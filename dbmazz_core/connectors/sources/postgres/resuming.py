"""Verify that a stream can resume at a checkpoint: same server, same history, and a slot with all later changes."""

from __future__ import annotations

from collections.abc import Callable

from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.connectors.sources.postgres.session import Session, confirmed_lsn
from dbmazz_core.connectors.sources.postgres.setup.prepare import drop_lost_slot
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_history
from dbmazz_core.errors import WrongServer
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.source import ResumePoint
from dbmazz_core.model.stopping import StopRequested

#: Bytes of WAL from `restart_lsn` on from which it is worth a record of running transactions.
_DECODED_AGAIN_BYTES = 8 << 20


def verify_origin(session: Session, checkpoint: Checkpoint, *, destination: str) -> None:
    """Verify that a checkpoint was recorded for this cluster and database, see `Source.verify_origin`.

    Raises:
        WrongServer: The checkpoint is of another cluster or database.
    """
    identity = session.identity
    same_cluster = checkpoint.system_identifier == identity.system_identifier
    # A database that was restored under the name of the old one has no slot: that is an error of its own.
    if same_cluster and (
        checkpoint.database == identity.database
        or (checkpoint.database_oid is not None and checkpoint.database_oid == identity.database_oid)
    ):
        return
    where = (
        f"SOURCE_URL leads to another database of this cluster, {identity.database}"
        if same_cluster
        else f"SOURCE_URL leads to database {identity.database} of another cluster ({identity.system_identifier})"
    )
    raise WrongServer(
        f"{destination} holds the tables of database {checkpoint.database} of the PostgreSQL cluster with system "
        f"identifier {checkpoint.system_identifier}; {where}",
        object=destination,
        remedy="correct SOURCE_URL, or choose another file (SINK_URL) for this server; or, if the tables have moved to "
        "this server, run `dbmazz snapshot --new-server`, which re-snapshots all tables into the file; or, after "
        "pg_upgrade, which kept the slot: `dbmazz snapshot --upgraded-server`",
    )


def verify_position(session: Session, checkpoint: Checkpoint, *, and_slot: bool) -> None:
    """Verify that the server's WAL continues after the checkpoint, see `Source.verify_position`.

    Args:
        session: The server.
        checkpoint: The destination's checkpoint.
        and_slot: Whether the slot is verified too. A missing slot is no error with `cleanup_on_stop`.

    Raises:
        ServerBehindCheckpoint: The destination holds changes that the server does not have.
        SlotError: The slot is missing, past the checkpoint, in use, or unusable.
    """
    verify_timeline(session, checkpoint.lsn, checkpoint.timeline)
    if and_slot and not (session.config.cleanup_on_stop and session.slot() is None):
        session.verify_slot(checkpoint.lsn)


def resume(session: Session, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
    """Verify the slot and the server's history, and return where the stream resumes, see `Source.resume`."""
    if checkpoint is None:
        return ResumePoint(confirmed_lsn(session.verify_slot(None)))
    verify_timeline(session, checkpoint.lsn, checkpoint.timeline)
    if session.config.cleanup_on_stop and session.slot() is None:
        return ResumePoint(None, restart=True)
    slot = session.verify_slot(checkpoint.lsn)
    if slot is not None and checkpoint.last is not None:
        _verify_replay(session, checkpoint.last, slot, checkpoint.lsn, stopped)
    if slot is not None:
        _bring_restart_near(session, slot)
    return ResumePoint(confirmed_lsn(slot))


def _bring_restart_near(session: Session, slot: SlotState) -> None:
    """Let the next window begin to decode at this one, where the server can.

    A stream decodes from `restart_lsn`, which moves only over records of running transactions. The background writer
    writes one every 15 s, so windows in between decode the same WAL again. `pg_log_standby_snapshot` (PostgreSQL 16;
    its execution is granted to superusers) writes one now; it is in the WAL that this window reads.
    """
    connection = session.connection
    if connection.info.server_version < 160000 or (slot.retained_bytes or 0) < _DECODED_AGAIN_BYTES:
        return
    with session.translated():
        if connection.execute(
            "SELECT true WHERE NOT pg_is_in_recovery() "
            "AND has_function_privilege('pg_catalog.pg_log_standby_snapshot()', 'EXECUTE')"
        ).fetchone():
            connection.execute("SELECT pg_catalog.pg_log_standby_snapshot()")


def mark_history(session: Session) -> None:
    """Write a logical message in a transaction of its own; a standby, and a role that may not, write none.

    The rows of a copy prove nothing about the server's history. A transaction behind them does: `_verify_replay`.
    """
    connection = session.connection
    with session.translated():
        if connection.execute(
            "SELECT true FROM pg_catalog.pg_proc "
            "WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype "
            "AND has_function_privilege(oid, 'EXECUTE') AND NOT pg_is_in_recovery()"
        ).fetchone():
            connection.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'dbmazz', 'copied')")


def usable_slot(session: Session) -> Lsn | None:
    """Return the confirmed LSN of the slot, None if there is none, see `ManagedSource.usable_feed`.

    Raises:
        SlotError: The slot is in use, or unusable.
    """
    drop_lost_slot(session.connection, session.named_config)
    return confirmed_lsn(session.verify_slot(None))


def verify_timeline(session: Session, lsn: Lsn, timeline: int) -> None:
    """Verify that the server's WAL contains a position of a timeline and continues after it.

    Raises:
        ServerBehindCheckpoint: The server's WAL ends, or left the timeline, before the position.
    """
    identity = session.identity
    timeline_ends: dict[int, Lsn] = {}
    if identity.timeline > max(timeline, 1):
        with session.replication("dbmazz identify") as connection:
            timeline_ends = connection.timeline_history(identity.timeline)
    verify_history(lsn, timeline, session.server_lsn(), identity.timeline, timeline_ends)


def _verify_replay(
    session: Session, last: CommittedTransaction, slot: SlotState, checkpoint: Lsn, stopped: Callable[[], bool]
) -> None:
    """Verify that the server's history contains the last transaction that was applied.

    A slot that is past this transaction proves it. Otherwise, after a crash or on a restored server, the server must
    send the transaction again.

    Raises:
        HistoryDiverged: The server's history does not contain the transaction.
        StopRequested: `stopped` returned True.
    """
    if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
        return
    # numpy, which a window needs only for a stream.
    from dbmazz_core.connectors.sources.postgres.replay import wait_for_replay
    from dbmazz_core.connectors.sources.postgres.stream_start import start_verified_stream

    with session.translated():
        reader, slot = start_verified_stream(
            session.named_config,
            session.connection,
            session.server,
            last.commit_lsn,
            checkpoint=checkpoint,
            messages=session.connection.info.server_version >= 140000,
        )
    try:
        if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
            return  # the slot moved past the transaction just now, and not past the checkpoint
        if not wait_for_replay(reader, last, slot=session.config.slot, stopped=stopped):
            raise StopRequested
    finally:
        reader.close()
