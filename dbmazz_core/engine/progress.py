"""Progress of long work, for a progress bar or a log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from dbmazz_core.engine.result import WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is.

    Attributes:
        phase: `snapshot`, `stream`, or `wait` (then `message` says for what).
        table: The table that is being copied.
        rows: Rows copied of it, or changes applied so far.
        total_rows: Rows that PostgreSQL estimates for the table, None if it does not know.
        lsn: The checkpoint.
        upper_lsn: The window's bound.
        message: For people.
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
        """Progress of a window after a flush, with so many changes applied."""
        return cls("stream", rows=changes, lsn=result.end_lsn, upper_lsn=result.upper_lsn)
