"""How far the copy of a table has come that a later run can resume."""

from __future__ import annotations

from dataclasses import dataclass

#: A part of a table, in the source's units, from the first one to before the last one; None: to the end.
Part = tuple[int, int | None]


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """What the destination holds of a table whose copy is not complete.

    Attributes:
        mark: The table and the snapshot that the rows are from. Only the source reads it (`ResumableCopy.mark`).
        finished: The parts of the table that are complete: all their rows as of the snapshot are held.
        rows: Number of rows that are held, also of parts that are not complete.
    """

    mark: str
    finished: tuple[Part, ...] = ()
    rows: int = 0
