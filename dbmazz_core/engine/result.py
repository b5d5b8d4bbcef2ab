"""What a window, a snapshot and a look at the state report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef


class StopReason(StrEnum):
    """Why a window ended."""

    CAUGHT_UP = "caught_up"  #: everything up to the upper LSN is in the destination
    MAX_CHANGES = "max_changes"
    MAX_BYTES = "max_bytes"
    MAX_SECONDS = "max_seconds"
    STOP_REQUESTED = "stop_requested"  #: SIGTERM, Ctrl-C or Dagster's terminate


@dataclass(slots=True)
class TableCounts:
    """What happened to one table in a window, counted as PostgreSQL sent it, before compaction.

    Attributes:
        inserts, updates, deletes, truncates: Changes received.
        snapshot_rows: Rows copied by a snapshot in this window, None where there was none.
        quarantined: Changes and copied rows that went to quarantine, for a value that the destination cannot hold.
    """

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    truncates: int = 0
    snapshot_rows: int | None = None
    quarantined: int = 0

    @property
    def changes(self) -> int:
        """Row changes in all."""
        return self.inserts + self.updates + self.deletes

    def add(self, other: TableCounts) -> None:
        """Add changes."""
        self.inserts += other.inserts
        self.updates += other.updates
        self.deletes += other.deletes
        self.truncates += other.truncates

    def to_dict(self) -> dict[str, int | None]:
        """As `--json` prints it."""
        return {
            "inserts": self.inserts,
            "updates": self.updates,
            "deletes": self.deletes,
            "truncates": self.truncates,
            "snapshot_rows": self.snapshot_rows,
            "quarantined": self.quarantined,
        }


@dataclass(slots=True)
class WindowResult:
    """What one bounded window did.

    Attributes:
        start_lsn: Checkpoint at its start.
        end_lsn: Checkpoint at its end: the confirmed LSN; 0/0 if it was stopped before there was one.
            Past `upper_lsn`, where the WAL in between holds nothing for the captured tables.
        upper_lsn: The server's flush LSN at its start, the bound.
        changes: Row changes received for the captured tables.
        transactions: Source transactions applied that held any message for the publication.
        bytes: Bytes of replication messages received.
        flushes: Destination transactions.
        stop_reason: Why it ended.
        duration_s: Seconds, whole.
        lag_bytes: WAL bytes between the checkpoint and the server's flush LSN at the end.
        commit_time: Commit time of the last applied source transaction, None if there was none.
        tables: By table; every captured table has an entry, after a stop while tables were copied only those that were.
        schema_changes: What became of tables' shapes, one sentence each.
        copy_anew: Tables that had to be copied anew, and why; `Pipeline.capture` has done so.
        phases: Seconds spent by phase (`receive`, `decode`, `compact`, `merge`, `snapshot`), for benchmarks.
    """

    start_lsn: Lsn
    end_lsn: Lsn
    upper_lsn: Lsn
    changes: int = 0
    transactions: int = 0
    bytes: int = 0
    flushes: int = 0
    stop_reason: StopReason = StopReason.CAUGHT_UP
    duration_s: float = 0.0
    lag_bytes: int = 0
    commit_time: datetime | None = None
    tables: dict[TableRef, TableCounts] = field(default_factory=dict)
    schema_changes: list[str] = field(default_factory=list)
    copy_anew: dict[TableRef, str] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)

    def extend(self, later: WindowResult) -> None:
        """Take in the window that began where this one ended."""
        self.end_lsn, self.upper_lsn, self.stop_reason = later.end_lsn, later.upper_lsn, later.stop_reason
        self.changes += later.changes
        self.transactions += later.transactions
        self.bytes += later.bytes
        self.flushes += later.flushes
        self.duration_s += later.duration_s
        self.commit_time = later.commit_time or self.commit_time
        for table, counts in later.tables.items():
            mine = self.tables.setdefault(table, TableCounts())
            mine.add(counts)
            mine.quarantined += counts.quarantined
        self.schema_changes += later.schema_changes
        self.copy_anew |= later.copy_anew
        for phase, seconds in later.phases.items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def to_dict(self) -> dict[str, Any]:
        """As `capture --json` prints it: LSNs as text, tables by `schema.table`."""
        return {
            "start_lsn": str(self.start_lsn),
            "end_lsn": str(self.end_lsn),
            "upper_lsn": str(self.upper_lsn),
            "changes": self.changes,
            "transactions": self.transactions,
            "bytes": self.bytes,
            "flushes": self.flushes,
            "stop_reason": self.stop_reason.value,
            "duration_s": round(self.duration_s, 3),
            "lag_bytes": self.lag_bytes,
            "commit_time": self.commit_time.isoformat() if self.commit_time else None,
            "tables": {str(t): c.to_dict() for t, c in sorted(self.tables.items())},
            "schema_changes": self.schema_changes,
            "copied_anew": {str(t): reason for t, reason in sorted(self.copy_anew.items())},
            "phases": {name: round(seconds, 3) for name, seconds in self.phases.items()},
        }


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """What copying tables did.

    Attributes:
        lsn: The checkpoint afterwards.
        rows: Rows copied, by table.
        duration_s: Seconds.
        quarantined: Rows that went to quarantine instead, by table.
    """

    lsn: Lsn
    rows: Mapping[TableRef, int]
    duration_s: float
    quarantined: Mapping[TableRef, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As `snapshot --json` prints it."""
        return {
            "checkpoint_lsn": str(self.lsn),
            "tables": {
                str(t): {"snapshot_rows": n, "quarantined": self.quarantined.get(t, 0)}
                for t, n in sorted(self.rows.items())
            },
            "duration_s": round(self.duration_s, 3),
        }


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The state of source and destination.

    Attributes:
        source: The source's.
        checkpoint: The destination's; None where there is none (or the destination could not be opened, see
            `destination_error`).
        lag_bytes: Bytes of WAL between the checkpoint (or the confirmed LSN, without a checkpoint) and the server.
        tables: The captured tables.
        destination_error: Why the destination could not be read, None if it could.
    """

    source: SourceStatus
    checkpoint: Checkpoint | None
    lag_bytes: int | None
    tables: tuple[TableState, ...] = ()
    destination_error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the status as `status --json` prints it."""
        return {
            **self.source.to_dict(),
            "checkpoint_lsn": _text(self.checkpoint.lsn if self.checkpoint else None),
            "lag_bytes": self.lag_bytes,
            "tables": {
                str(t.table): {
                    "state": t.state,
                    "mode": t.mode.value,
                    "snapshot_lsn": _text(t.snapshot_lsn),
                    "rows": t.rows,
                    "complete": t.complete,
                    "quarantined": t.quarantined,
                }
                for t in self.tables
            },
            "destination_error": self.destination_error,
        }


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)
