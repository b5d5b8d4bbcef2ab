"""Beginning a stream, and making sure that it begins where it should, on the server that all else was read from."""

from __future__ import annotations

from typing import NoReturn

from dbmazz_core.connectors.sources.postgres.connection import (
    PROMOTED,
    Connection,
    Server,
    is_standby,
    server_changed,
)
from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader
from dbmazz_core.connectors.sources.postgres.server.state import SlotState, slot_state
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_slot
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import SourceConfig

#: How long the receiver may take to hand over why a stream has ended.
_END_REASON_TIMEOUT_S = 5.0


class _StreamEnded(Exception):
    """The slot is free again right after its stream has begun."""


def start_verified_stream(
    config: SourceConfig,
    connection: Connection,
    server: Server,
    lsn: Lsn,
    *,
    checkpoint: Lsn | None = None,
    messages: bool = False,
) -> tuple[StreamReader, SlotState]:
    """A stream that has the slot and begins at `lsn`, nothing of which is acknowledged yet, and the slot as it is then.

    Args:
        config: Names server, slot and publication.
        connection: An ordinary one, to look at the slot.
        server: Where that leads.
        lsn: Where the stream begins.
        checkpoint: The slot must not be past that; None: not past `lsn`.
        messages: Whether logical messages are wanted.

    Raises:
        SlotAheadOfCheckpoint: The slot is past it: changes are gone.
        ServerChanged: The stream is another server's, or the server was promoted meanwhile.
        SourceError: The stream does not begin, or ended at once: what the server said.
    """
    reader = StreamReader(config, lsn, messages=messages, server=server)
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
    """Look at the slot once more, now that the stream has it: until then others could move it, or make it anew.

    START_REPLICATION waits for a slot that is in use, and begins where it stands, whatever was asked for (logical.c,
    CreateDecodingContext). Once it has answered, nobody else can move the slot.
    """
    state = slot_state(connection, config.slot)
    if state is not None and state.active_pid not in (None, walsender_pid):
        raise server_changed(
            f"the stream of replication slot {state.name} comes from process {walsender_pid}, and where the slot was "
            f"looked at process {state.active_pid} has it"
        )
    if state is not None and state.active_pid is None:
        raise _StreamEnded
    verify_slot(state, config, lsn, database=connection.info.dbname, own_pid=walsender_pid)
    verify_not_promoted(connection, server)
    assert state is not None
    return state


def _raise_end_reason(reader: StreamReader, slot: str) -> NoReturn:
    """Raise what the server said when it ended the stream, behind what it had sent by then."""
    while reader.read(_END_REASON_TIMEOUT_S) is not None:
        pass
    raise ReplicationInterrupted(
        f"the stream of replication slot {slot} ended as soon as it had begun",
        object=slot,
        remedy="run again: capture resumes at the checkpoint, nothing is lost",
    )


def verify_not_promoted(connection: Connection, server: Server) -> None:
    """Raise ServerChanged if a standby has been promoted since.

    What a promoted server sends is of another timeline than the run has looked up, and its checkpoint would be recorded
    under the wrong one.
    """
    if server.in_recovery and not is_standby(connection):
        raise server_changed(PROMOTED)
