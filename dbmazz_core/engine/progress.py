"""Progress of a window or a copy, for a progress bar or a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a window or a copy.

    Attributes:
        phase: `snapshot`, `stream`, or `wait` (`message` says what the run waits for).
        table: The table that is being copied.
        rows: Rows of the table that are copied, or changes that are applied, so far.
        total_rows: Rows that the source estimates for the table; None if it has no estimate.
        lsn: The checkpoint.
        upper_lsn: The upper LSN of the window.
        message: A text for people.
    """

    phase: str
    table: TableRef | None = None
    rows: int = 0
    total_rows: int | None = None
    lsn: Lsn | None = None
    upper_lsn: Lsn | None = None
    message: str = ""

    @classmethod
    def of_window(cls, result: WindowResult, changes: int) -> Self:
        """Return the progress of a window after a flush.

        Args:
            result: The result so far.
            changes: Row changes that are applied.
        """
        return cls("stream", rows=changes, lsn=result.end_lsn, upper_lsn=result.upper_lsn)
