"""Start a stream, and verify that it starts at the right LSN, on the server that everything else was read from."""

from __future__ import annotations

from typing import NoReturn

from dbmazz_core.connectors.sources.postgres.connection import (
    Connection,
    Server,
    server_changed,
    verify_not_promoted,
)
from dbmazz_core.connectors.sources.postgres.replication.connection import open_stream
from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
from dbmazz_core.connectors.sources.postgres.server.state import SlotState, slot_state
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_slot
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import SourceConfig

#: Seconds that the receiver may take to report why a stream has ended.
_END_REASON_TIMEOUT_S = 5.0


class _StreamEnded(Exception):
    """The slot was released right after its stream had begun."""


def start_verified_stream(
    config: SourceConfig,
    connection: Connection,
    server: Server,
    lsn: Lsn,
    *,
    checkpoint: Lsn | None = None,
    messages: bool = False,
    binary: bool = False,
) -> tuple[StreamReceiver, SlotState]:
    """Start a stream from `lsn`, and verify the slot while the stream holds it.

    Nothing is acknowledged yet.

    Args:
        config: Names the server, the slot and the publication.
        connection: An ordinary connection, to read the slot's state.
        server: The server that `connection` leads to.
        lsn: Where the stream starts.
        checkpoint: The slot's confirmed LSN must not be past this LSN; None: not past `lsn`.
        messages: Whether the server sends logical messages.
        binary: Whether the server sends values in binary form.

    Returns:
        The running stream, and the slot's state at its start.

    Raises:
        SlotAheadOfCheckpoint: The slot is past the checkpoint, so that changes are missing.
        ServerChanged: The stream comes from another server, or the server was promoted meanwhile.
        SourceError: The stream does not start, or the server ended it at once.
    """
    reader = open_stream(config, lsn, messages=messages, binary=binary, server=server)
    try:
        try:
            latest = lsn if checkpoint is None else checkpoint
            return reader, verify_held_slot(config, connection, server, reader.walsender_pid, latest)
        except _StreamEnded:
            _raise_end_reason(reader, config.slot)
    except BaseException:
        reader.close()
        raise


def verify_held_slot(
    config: SourceConfig, connection: Connection, server: Server, walsender_pid: int, lsn: Lsn
) -> SlotState:
    """Read and verify the slot's state now that a stream holds the slot.

    Until START_REPLICATION answers, others can move, drop or create the slot: the command waits for a slot that is in
    use, and then starts at the slot's confirmed LSN if that is later than the LSN it was given (logical.c,
    CreateDecodingContext). From then on only this stream can move the slot.

    Raises:
        SlotAheadOfCheckpoint: The slot is past `lsn`.
        ServerChanged: Another process holds the slot on the server of `connection`, or the server was promoted.
        SourceError: The slot cannot be used (see `verify_slot`).
    """
    state = slot_state(connection, config.slot)
    if state is not None and state.active_pid not in (None, walsender_pid):
        raise server_changed(
            f"the stream of replication slot {state.name} comes from process {walsender_pid}, but the slot is in use "
            f"by process {state.active_pid} on the server that was checked"
        )
    if state is not None and state.active_pid is None:
        raise _StreamEnded
    verify_slot(state, config, lsn, database=connection.info.dbname, own_pid=walsender_pid)
    verify_not_promoted(connection, server)
    assert state is not None
    return state


def _raise_end_reason(reader: StreamReceiver, slot: str) -> NoReturn:
    """Raise the server's reason for ending the stream, which comes behind the last messages."""
    while reader.read(_END_REASON_TIMEOUT_S) is not None:
        pass
    raise ReplicationInterrupted(
        f"the stream of replication slot {slot} ended as soon as it had begun",
        object=slot,
        remedy="run again: capture resumes at the checkpoint, nothing is lost",
    )
