"""The lock that lets only one window or copy of a slot run at a time.

The slot itself has one consumer at a time, but a window also copies tables and looks at the destination without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.errors.running import slot_active
from dbmazz_core.model.stopping import StopRequested

#: Seconds between two attempts.
_RETRY_S = 0.05

_KEY = "pg_catalog.hashtextextended(%s, 0)"
#: An advisory lock of a bigint has its upper half in `classid`, its lower half in `objid` (the manual, `pg_locks`).
_HOLDER = f"""
SELECT l.pid, a.application_name::text FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = current_database()
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
AND l.classid::bigint = ({_KEY} >> 32) & 4294967295 AND l.objid::bigint = {_KEY} & 4294967295
"""


def lock_windows(conn: Connection, slot: str, *, timeout_s: float, stopped: Callable[[], bool]) -> None:
    """Take an advisory lock on the windows of a slot, which the server releases when the connection ends.

    Args:
        conn: The connection that holds the lock.
        slot: The slot.
        timeout_s: How long to wait for another window or copy.
        stopped: Returns whether to stop waiting.

    Raises:
        SlotActive: Another process holds the lock after that time.
        StopRequested: `stopped` returned True.
    """
    key = _key(slot)
    deadline = time.monotonic() + timeout_s
    while True:
        row = conn.execute(f"SELECT pg_catalog.pg_try_advisory_lock({_KEY})".encode(), (key,)).fetchone()
        if row is not None and row[0]:
            return
        if time.monotonic() >= deadline:
            raise slot_active(slot, *(window_lock_holder(conn, slot) or (None, None)))
        if stopped():
            raise StopRequested
        time.sleep(_RETRY_S)


def window_lock_holder(conn: Connection, slot: str) -> tuple[int, str | None] | None:
    """Return the server process, and its application, that holds the lock on a slot's windows; None: it is free."""
    key = _key(slot)
    row = conn.execute(_HOLDER.encode(), (key, key)).fetchone()
    return None if row is None else (row[0], row[1])


def _key(slot: str) -> str:
    return f"dbmazz window {slot}"
