"""Results of a capture window, of a snapshot and of a status request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef


class StopReason(StrEnum):
    """The reason why a window ended."""

    CAUGHT_UP = "caught_up"  #: everything up to the upper LSN is in the destination
    MAX_CHANGES = "max_changes"
    MAX_BYTES = "max_bytes"
    MAX_SECONDS = "max_seconds"
    POSTPONED = "postponed"  #: the destination was in use (`SINK_WHEN_LOCKED=skip`)
    SOURCE_CHANGED = "source_changed"  #: an open stream ended, so that a window does what the stream cannot
    STOP_REQUESTED = "stop_requested"  #: SIGTERM, Ctrl-C, or a termination in Dagster


@dataclass(slots=True)
class TableCounts:
    """Changes of one table in a window, counted as the source sent them, before compaction.

    Attributes:
        inserts, updates, deletes, truncates: Changes received.
        snapshot_rows: Rows that a snapshot in this window copied; None if there was no snapshot.
        quarantined: Changes and copied rows in quarantine, because of a value that the destination cannot hold.
    """

    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    truncates: int = 0
    snapshot_rows: int | None = None
    quarantined: int = 0

    @property
    def changes(self) -> int:
        """The number of row changes."""
        return self.inserts + self.updates + self.deletes

    def add(self, other: TableCounts) -> None:
        """Add the changes of another count. Copied rows and rows in quarantine are not added."""
        self.inserts += other.inserts
        self.updates += other.updates
        self.deletes += other.deletes
        self.truncates += other.truncates

    def to_dict(self) -> dict[str, int | None]:
        """Return the counts as `--json` prints them."""
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
    """The result of one capture window.

    Attributes:
        start_lsn: The checkpoint at the start of the window.
        end_lsn: The checkpoint at the end, which is also the confirmed LSN; 0/0 if the window was stopped before there
            was a checkpoint. It is past `upper_lsn` if the WAL in between holds no changes of the captured tables.
        upper_lsn: The bound: the server's flush LSN at the start of the window.
        changes: Row changes received for the captured tables.
        transactions: Source transactions that were applied and had a message for the publication.
        bytes: Bytes of replication messages received.
        flushes: Transactions of the destination.
        stop_reason: Why the window ended.
        duration_s: Seconds from start to end.
        lag_bytes: Bytes of WAL at the end that the window has not looked at.
        commit_time: Commit time of the last applied source transaction; None if there was none.
        tables: Counts by captured table. If the window was stopped while it copied tables, only by copied table.
        schema_changes: The schema changes of tables, one sentence each.
        copy_anew: Tables that had to be re-snapshotted, with the reason; `Pipeline.capture` has re-snapshotted them.
        failed: Tables that this window has left out because of an error, with the error.
        states: The states of the tables at the end of the window; empty if it was stopped before.
        warnings: What the destination lacks and other warnings of the source, one sentence each, see `Pipeline.check`.
        file_held_s: Seconds for which the destination was held, so that no reader could open it.
        postponed: If the window was postponed: who uses the destination, and how much WAL waits in the slot.
        read_copy: The read copy, if the settings name one.
        format: The format in which the source sent values; None if it sent none.
        phases: Seconds by phase (`receive`, `decode`, `compact`, `merge`, `snapshot`), for benchmarks.
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
    failed: dict[TableRef, DbmazzError] = field(default_factory=dict)
    states: Mapping[TableRef, TableState] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    file_held_s: float = 0.0
    postponed: str | None = None
    read_copy: ReadCopy | None = None
    format: StreamFormat | None = None
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def in_trouble(self) -> dict[TableRef, TableState]:
        """The tables that an error keeps from streaming."""
        return _in_trouble(self.states)

    def leave_out(self, table: TableRef, why: DbmazzError | SchemaEvent) -> None:
        """Add a table that has left the stream because of an error, or to be re-snapshotted."""
        if isinstance(why, SchemaEvent):
            self.copy_anew[table] = str(why.resnapshot)
        else:
            self.failed[table] = why

    def extend(self, later: WindowResult) -> None:
        """Add the result of the window that began at the end of this window."""
        self.end_lsn, self.upper_lsn, self.stop_reason = later.end_lsn, later.upper_lsn, later.stop_reason
        self.changes += later.changes
        self.transactions += later.transactions
        self.bytes += later.bytes
        self.flushes += later.flushes
        self.duration_s += later.duration_s
        self.commit_time = later.commit_time or self.commit_time
        self.format = later.format or self.format
        for table, counts in later.tables.items():
            mine = self.tables.setdefault(table, TableCounts())
            mine.add(counts)
            mine.quarantined += counts.quarantined
        self.schema_changes += later.schema_changes
        self.copy_anew |= later.copy_anew
        self.failed |= later.failed
        for phase, seconds in later.phases.items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `capture --json` prints it: LSNs as text, tables by `schema.table`."""
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
            "table_states": {str(t): s.summary() for t, s in sorted(self.states.items())},
            "schema_changes": self.schema_changes,
            "copied_anew": {str(t): reason for t, reason in sorted(self.copy_anew.items())},
            "warnings": list(self.warnings),
            "file_held_s": round(self.file_held_s, 3),
            "postponed": self.postponed,
            "read_copy": None if self.read_copy is None else self.read_copy.to_dict(),
            "stream_format": None if self.format is None else self.format.to_dict(),
            "phases": {name: round(seconds, 3) for name, seconds in self.phases.items()},
        }


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """The result of copying tables.

    Attributes:
        lsn: The checkpoint after the copy.
        rows: By table: the number of copied rows.
        duration_s: Seconds from start to end.
        quarantined: By table: the number of rows that went to quarantine.
        warnings: The source's warnings, see `WindowResult.warnings`.
        states: The states of the tables after the copy.
        read_copy: The read copy, if the settings name one.
    """

    lsn: Lsn
    rows: Mapping[TableRef, int]
    duration_s: float
    quarantined: Mapping[TableRef, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    states: Mapping[TableRef, TableState] = field(default_factory=dict)
    read_copy: ReadCopy | None = None

    @property
    def in_trouble(self) -> dict[TableRef, TableState]:
        """The tables that an error keeps from streaming."""
        return _in_trouble(self.states)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `snapshot --json` prints it."""
        return {
            "checkpoint_lsn": str(self.lsn),
            "tables": {
                str(t): {"snapshot_rows": n, "quarantined": self.quarantined.get(t, 0)}
                for t, n in sorted(self.rows.items())
            },
            "table_states": {str(t): s.summary() for t, s in sorted(self.states.items())},
            "duration_s": round(self.duration_s, 3),
            "read_copy": None if self.read_copy is None else self.read_copy.to_dict(),
            "warnings": list(self.warnings),
        }


def _in_trouble(states: Mapping[TableRef, TableState]) -> dict[TableRef, TableState]:
    return {ref: state for ref, state in states.items() if state.is_in_trouble}


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """The state of source and destination.

    Attributes:
        source: The state of the source.
        checkpoint: The checkpoint of the destination; None if it has none, or could not be read (`destination_error`).
        lag_bytes: Bytes of WAL between the checkpoint (or the confirmed LSN, without a checkpoint) and the server.
        tables: The captured tables.
        destination_error: Why the destination could not be read; None if it was read.
        file_held_s: Seconds for which the last flush held the destination; None if it is not known.
        format: Which programs can read the destination; None if it is not known.
        stream_format: The format in which the source will send values; None if the destination could not be read.
    """

    source: SourceStatus
    checkpoint: Checkpoint | None
    lag_bytes: int | None
    tables: tuple[TableState, ...] = ()
    destination_error: str | None = None
    file_held_s: float | None = None
    format: str | None = None
    stream_format: StreamFormat | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the status as `status --json` prints it."""
        return {
            **self.source.to_dict(),
            "checkpoint_lsn": _text(self.checkpoint.lsn if self.checkpoint else None),
            "lag_bytes": self.lag_bytes,
            "file_held_s": None if self.file_held_s is None else round(self.file_held_s, 3),
            "format": self.format,
            "stream_format": None if self.stream_format is None else self.stream_format.to_dict(),
            "tables": {str(t.table): t.to_dict() for t in self.tables},
            "destination_error": self.destination_error,
        }


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)
