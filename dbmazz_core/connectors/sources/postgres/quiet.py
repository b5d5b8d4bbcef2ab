"""Tell without a stream that there is nothing to capture: an ordinary query costs a fraction of it."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.connection import verify_not_promoted
from dbmazz_core.connectors.sources.postgres.server.feed_status import slot_is_quiet
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.source import Bound

#: Bytes of WAL that the server may have to read for the answer. With more, the stream would read them a second time.
_MAX_WAL_BYTES = 1 << 24


def is_quiet(session: Session, start: Lsn, bound: Bound) -> bool:
    """Return whether a stream from `start` to the bound would bring nothing, and no followed table has changed.

    False also where the server would need long to tell, where something does not allow the stream to start, and where
    the slot's confirmed LSN is behind `start`, so that it should move.

    Args:
        session: The server.
        start: LSN of the checkpoint.
        bound: The end of the stream.

    Raises:
        SlotError: The slot is past `start`, or unusable (see `setup.slots.verify_slot`).
        ServerChanged: A standby was promoted.
    """
    if bound.more or not bound.unchanged:
        return False
    look = session.look
    if any(session.rules.problems(look.tables, look.resolution.tables)):
        return False
    before = look.slot
    if before is None or before.restart_lsn is None or bound.lsn - before.restart_lsn > _MAX_WAL_BYTES:
        return False
    connection, config = session.connection, session.named_config
    with session.translated():
        if not slot_is_quiet(connection, config.slot, config.publication_name, bound.lsn):
            return False
        verify_not_promoted(connection, session.server)
    # Behind the answer: a slot that another consumer has moved meanwhile brings nothing, and has lost something.
    slot = session.verify_slot(start)
    return slot is not None and (slot.confirmed_flush_lsn or INVALID_LSN) >= start
