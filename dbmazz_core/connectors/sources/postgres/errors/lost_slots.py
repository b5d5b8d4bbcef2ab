"""Errors for slots that the server has invalidated, and what keeps the next slot from the same end."""

from __future__ import annotations

from dbmazz_core.errors import SlotLost
from dbmazz_core.table_ref import quote_literal

#: The remedy where changes can no longer be read.
SNAPSHOT_REMEDY = (
    "run `dbmazz snapshot`: it creates the slot again and re-snapshots the tables; the old rows stay readable "
    "until the new ones are complete"
)

_RELOAD = "SELECT pg_reload_conf();"
#: Keeps a slot that no process uses between two runs.
RAISE_IDLE_TIMEOUT = (
    "raise idle_replication_slot_timeout, so that it lasts for the longest pause between two runs, or have no limit: "
    f"ALTER SYSTEM SET idle_replication_slot_timeout = 0; {_RELOAD}"
)
#: Keeps a slot on a standby.
SET_FEEDBACK = (
    f"on the standby: ALTER SYSTEM SET hot_standby_feedback = on; {_RELOAD} and, so that the primary keeps the rows "
    "while the standby is not connected, name a physical slot of the primary in the standby's primary_slot_name"
)
_RAISE_WAL_SIZE = (
    "raise max_slot_wal_keep_size, so that it lasts for the longest pause between two runs, or have no limit: "
    f"ALTER SYSTEM SET max_slot_wal_keep_size = -1; {_RELOAD}"
)
_SET_WAL_LEVEL = "on the primary: ALTER SYSTEM SET wal_level = 'logical'; and restart it"

#: By `pg_replication_slots.invalidation_reason` (manual, "pg_replication_slots"): what happened, and what to do before
#: the next slot is created. `conflicting` is not PostgreSQL's: version 16 has a column of this name instead.
_REASONS = {
    "wal_removed": ("the server removed WAL that the slot needs (max_slot_wal_keep_size)", _RAISE_WAL_SIZE),
    "rows_removed": ("the primary removed rows of its catalog that the slot, on a standby, needs", SET_FEEDBACK),
    "wal_level_insufficient": ("wal_level of the primary is no longer logical", _SET_WAL_LEVEL),
    "idle_timeout": ("no process used it for longer than idle_replication_slot_timeout", RAISE_IDLE_TIMEOUT),
    "conflicting": (
        "the primary removed rows of its catalog that the slot, on a standby, needs, or its wal_level is no longer "
        "logical, or the standby removed WAL that the slot needs (max_slot_wal_keep_size)",
        f"{SET_FEEDBACK}; if wal_level of the primary is not logical, {_SET_WAL_LEVEL}; if max_slot_wal_keep_size is "
        "not -1, raise it",
    ),
}


def slot_lost(slot: str, *, reason: str | None = None, message: str = "") -> SlotLost:
    """Return the error for a slot that the server has invalidated.

    Args:
        slot: The slot's name.
        reason: `SlotState.invalidation_reason`; None: not known.
        message: The server's message, where there is one.
    """
    what, before = _REASONS.get(
        reason or "",
        (
            f"the server has invalidated it ({reason or 'the reason is not known'})",
            f"find out why: SELECT * FROM pg_replication_slots WHERE slot_name = {quote_literal(slot)};",
        ),
    )
    return SlotLost(
        f"replication slot {slot} is lost: {message or what}",
        object=f"replication slot {slot}",
        remedy=f"{SNAPSHOT_REMEDY}. Before, {before}",
    )
