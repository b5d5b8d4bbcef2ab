"""The state of a table in the destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.table_ref import TableRef


class TableStatus(StrEnum):
    """The states of a table."""

    PENDING = "pending"  #: not captured yet: the destination has no such table
    COPYING = "copying"  #: must be copied, by this window or the next one
    STREAMING = "streaming"  #: holds the source's rows as of the checkpoint
    FAILED = "failed"  #: was captured and is left out because of an error
    PAUSED = "paused"  #: somebody paused it
    REMOVED = "removed"  #: was captured, and is not in `TABLES` any more


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a table does not stream.

    Attributes:
        reason: What happened, one sentence.
        remedy: What to do; empty where nothing has to be done.
        error: Name of the error's class; None where the reason is no error.
    """

    reason: str
    remedy: str = ""
    error: str | None = None

    @classmethod
    def of(cls, error: DbmazzError) -> Self:
        """Return the problem that an error describes."""
        return cls(error.what, error.remedy, type(error).__name__)


@dataclass(frozen=True, slots=True)
class TableState:
    """The state of a table in the destination.

    Attributes:
        table: The table.
        state: The state.
        snapshot_lsn: Changes of transactions committed before this LSN are in the snapshot; None: it was never copied.
        lsn: The rows are as of this LSN; None: as of the checkpoint (`streaming`), or there are none (`pending`).
        since: When the table got into this state; None if an older version wrote it.
        problem: Why the table does not stream; None where there is no reason to give.
        retry_when: What was known about a table that only a person, or a change of these facts, can bring back; empty:
            not recorded yet. None: every window tries again.
        last_change_lsn: A change of the table was applied that committed before this LSN, and none after it; None: none
            was applied since the copy, or it is not known.
        rows: Number of rows, in `soft_delete` without deleted rows, in `changelog` of changes; None if they were not
            counted.
        quarantined: Rows of the table in `_dbmazz.quarantine`.
        mode: The mode of the table.
        complete: Whether the table is known to hold exactly the source's rows: it was copied with its rows, and none of
            them is in quarantine.
        unpublished: Columns that the source does not send, see `TableDescription.unpublished`.
    """

    table: TableRef
    state: TableStatus
    snapshot_lsn: Lsn | None
    lsn: Lsn | None = None
    since: datetime | None = None
    problem: Problem | None = None
    retry_when: str | None = None
    last_change_lsn: Lsn | None = None
    rows: int | None = None
    quarantined: int = 0
    mode: Mode = Mode.MIRROR
    complete: bool = False
    unpublished: tuple[str, ...] = ()

    @property
    def is_in_trouble(self) -> bool:
        """Whether an error keeps the table from streaming."""
        return self.problem is not None and self.problem.error is not None

    def to_dict(self) -> dict[str, Any]:
        """Return the state as `status --json` and `tables --json` print it: LSNs as text."""
        return {
            **self.summary(),
            "mode": self.mode.value,
            "snapshot_lsn": None if self.snapshot_lsn is None else str(self.snapshot_lsn),
            "last_change_lsn": None if self.last_change_lsn is None else str(self.last_change_lsn),
            "rows": self.rows,
            "complete": self.complete,
            "quarantined": self.quarantined,
            "unpublished_columns": list(self.unpublished),
        }

    def summary(self) -> dict[str, Any]:
        """Return the state and its reason as `capture --json` prints them."""
        problem = self.problem or Problem("")
        return {
            "state": self.state.value,
            "since": None if self.since is None else self.since.isoformat(),
            "lsn": None if self.lsn is None else str(self.lsn),
            "error": problem.error,
            "reason": problem.reason or None,
            "remedy": problem.remedy or None,
        }
