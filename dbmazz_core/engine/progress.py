"""Progress of a window or a copy, for a progress bar or a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.table_ref import TableRef

#: Shortest time, in seconds, between two progress reports of a table that is copied.
REPORT_S = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a window or a copy.

    Attributes:
        phase: `snapshot`, `stream`, or `wait` (`message` says what the run waits for).
        table: The table that is being copied.
        rows: Rows of the table that are copied, or changes that are applied, so far.
        total_rows: Rows that the source estimates for the table; None if it has no estimate.
        size: Bytes that have come for the table so far.
        seconds: Time since the copy of the table began, in seconds.
        kept: Rows of the table that an earlier run has copied.
        lsn: The checkpoint.
        upper_lsn: The upper LSN of the window.
        message: A text for people.
        window: What the stream has done so far; it changes while the stream goes on.
    """

    phase: str
    table: TableRef | None = None
    rows: int = 0
    total_rows: int | None = None
    size: int = 0
    seconds: float = 0.0
    kept: int = 0
    lsn: Lsn | None = None
    upper_lsn: Lsn | None = None
    message: str = ""
    window: WindowResult | None = None

    @property
    def rows_per_s(self) -> float | None:
        """Rows a second since the copy of the table began; None if that is not known yet."""
        copied = self.rows - self.kept
        return copied / self.seconds if copied > 0 and self.seconds else None

    @property
    def seconds_left(self) -> float | None:
        """Time until the table is copied, at this rate; None if that is not known."""
        if not self.rows_per_s or not self.total_rows:
            return None
        return max(self.total_rows - self.rows, 0) / self.rows_per_s

    def __str__(self) -> str:
        """Return the progress as one line.

        >>> print(Progress("snapshot", TableRef("public", "orders"), 1000, 4000, size=250_000, seconds=2.0))
        copying public.orders: 1,000 of about 4,000 rows, 0.2 MB, 500 rows/s, about 6 s left
        """
        if self.message:
            return self.message
        if self.phase != "snapshot":
            return f"applied {self.rows:,} changes, LSN {self.lsn} of {self.upper_lsn}"
        parts = [f"{self.rows:,}{f' of about {self.total_rows:,}' if self.total_rows else ''} rows"]
        parts += [f"{self.size / 1e6:,.1f} MB"] if self.size else []
        parts += [f"{self.rows_per_s:,.0f} rows/s"] if self.rows_per_s else []
        parts += [f"about {self.seconds_left:,.0f} s left"] if self.seconds_left else []
        return f"copying {self.table}: {', '.join(parts)}"

    @classmethod
    def of_window(cls, result: WindowResult, changes: int) -> Self:
        """Return the progress of a window after a flush.

        Args:
            result: The result so far.
            changes: Row changes that are applied.
        """
        return cls("stream", rows=changes, lsn=result.end_lsn, upper_lsn=result.upper_lsn, window=result)
