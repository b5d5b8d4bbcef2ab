"""What `follow` is doing, as a value that any thread may read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from dbmazz_core.engine.result import TableCounts, WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef


class FollowPhase(StrEnum):
    """What `follow` is doing."""

    STARTING = "starting"  #: it verifies source and destination, follows schema changes, or copies tables
    STREAMING = "streaming"  #: the stream is open
    WAITING = "waiting"  #: an error is expected to go away; `error` has it
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class FollowStatus:
    """The state of a run of `follow`.

    Attributes:
        slot: The replication slot.
        phase: What it is doing.
        started_at: When the run began (`time.time`).
        current_at: The destination had all that the server had sent until then (`time.time`); None: it is not known.
        checkpoint: The checkpoint of the destination.
        commit_time: Commit time of the last applied source transaction.
        latency_s: Seconds from that commit, by the server's clock, until the destination had it.
        changes, transactions, flushes: Totals of the run.
        tables: Totals by table.
        states: The states of the tables.
        source: The slot and the server's position, as of the last look.
        interruptions: How many times the stream was interrupted by an error.
        error: The error that the run waits for to go away.
        read_copy: The read copy, as it was published last.
        file_held_s: Seconds for which the destination was held.
    """

    slot: str
    phase: FollowPhase = FollowPhase.STARTING
    started_at: float = field(default_factory=time.time)
    current_at: float | None = None
    checkpoint: Lsn | None = None
    commit_time: datetime | None = None
    latency_s: float | None = None
    changes: int = 0
    transactions: int = 0
    flushes: int = 0
    tables: Mapping[TableRef, TableCounts] = field(default_factory=dict)
    states: Mapping[TableRef, TableState] = field(default_factory=dict)
    source: SourceStatus | None = None
    interruptions: int = 0
    error: DbmazzError | None = None
    read_copy: ReadCopy | None = None
    file_held_s: float = 0.0

    def with_result(self, result: WindowResult) -> Self:
        """Return the status with the totals of one more stream or window."""
        tables = {ref: replace(counts) for ref, counts in self.tables.items()}
        for ref, counts in result.tables.items():
            mine = tables.setdefault(ref, TableCounts())
            mine.add(counts)
            mine.quarantined += counts.quarantined
            if counts.snapshot_rows is not None:
                mine.snapshot_rows = (mine.snapshot_rows or 0) + counts.snapshot_rows
        return replace(
            self,
            checkpoint=max(result.end_lsn, self.checkpoint or Lsn(0)) or None,
            commit_time=result.commit_time or self.commit_time,
            changes=self.changes + result.changes,
            transactions=self.transactions + result.transactions,
            flushes=self.flushes + result.flushes,
            tables=tables,
        )

    def lag_s(self, now: float | None = None) -> float | None:
        """Return the seconds since the destination had all that the server had sent; None if it never had."""
        return None if self.current_at is None else max((time.time() if now is None else now) - self.current_at, 0.0)

    @property
    def in_trouble(self) -> dict[TableRef, TableState]:
        """The tables that an error keeps from streaming."""
        return {ref: state for ref, state in self.states.items() if state.is_in_trouble}

    def to_dict(self) -> dict[str, Any]:
        """Return the status as `follow --json` prints it."""
        lag_s, source = self.lag_s(), self.source
        return {
            "slot": self.slot,
            "phase": self.phase.value,
            "checkpoint_lsn": None if self.checkpoint is None else str(self.checkpoint),
            "lag_s": None if lag_s is None else round(lag_s, 3),
            "latency_s": None if self.latency_s is None else round(self.latency_s, 3),
            "commit_time": None if self.commit_time is None else self.commit_time.isoformat(),
            "changes": self.changes,
            "transactions": self.transactions,
            "flushes": self.flushes,
            "tables": {str(ref): counts.to_dict() for ref, counts in sorted(self.tables.items())},
            "table_states": {str(ref): state.summary() for ref, state in sorted(self.states.items())},
            "source": None if source is None else source.to_dict(),
            "interruptions": self.interruptions,
            "error": None if self.error is None else self.error.to_dict(),
            "read_copy": None if self.read_copy is None else self.read_copy.to_dict(),
            "file_held_s": round(self.file_held_s, 3),
        }
