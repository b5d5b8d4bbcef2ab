"""The state of a source: its feed, and the server's position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dbmazz_core.lsn import Lsn


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The state of a replication slot and its server.

    Attributes:
        slot: The slot's name.
        publication: Name of the publication that the slot uses, whether it exists or not.
        slot_exists, slot_active: Whether the slot exists, and whether a process consumes it.
        active_pid: The server process that consumes it.
        wal_status: PostgreSQL's `pg_replication_slots.wal_status`.
        confirmed_lsn: The confirmed LSN of the slot; None where there is none.
        locked_by: The server process of a window, of a copy, or of `follow`, also while it does not consume the slot.
        restart_lsn: Where a new stream of the slot begins to decode; None where there is no slot, or it is lost.
        server_lsn: The server's WAL flush position now.
    """

    slot: str
    publication: str
    slot_exists: bool
    slot_active: bool
    active_pid: int | None
    wal_status: str | None
    confirmed_lsn: Lsn | None
    server_lsn: Lsn
    restart_lsn: Lsn | None = None
    locked_by: int | None = None

    @property
    def used_by(self) -> int | None:
        """The server process that uses the slot: it consumes it, or may do so next; None: nobody does."""
        return self.active_pid or self.locked_by

    @property
    def restart_lag_bytes(self) -> int | None:
        """Bytes of WAL that a new stream decodes before its first change: from `restart_lsn` to the confirmed LSN."""
        if self.confirmed_lsn is None or self.restart_lsn is None:
            return None
        return max(self.confirmed_lsn - self.restart_lsn, 0)

    @property
    def lag_bytes(self) -> int | None:
        """Bytes of WAL between the confirmed LSN and the server's position; None without a confirmed LSN."""
        return None if self.confirmed_lsn is None else max(self.server_lsn - self.confirmed_lsn, 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the status as JSON values: LSNs as text."""
        return {
            "slot": self.slot,
            "publication": self.publication,
            "slot_exists": self.slot_exists,
            "slot_active": self.slot_active,
            "active_pid": self.active_pid,
            "locked_by": self.locked_by,
            "wal_status": self.wal_status,
            "confirmed_lsn": None if self.confirmed_lsn is None else str(self.confirmed_lsn),
            "server_lsn": str(self.server_lsn),
            "restart_lsn": None if self.restart_lsn is None else str(self.restart_lsn),
            "restart_lag_bytes": self.restart_lag_bytes,
        }
