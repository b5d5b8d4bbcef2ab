"""Redacted columns by number. The number keeps a column redacted when its name changes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedactedColumn:
    """A column that rules exclude or mask.

    Attributes:
        name: Name of the column.
        number: Number of the column (`attnum`), which no other column of the table ever gets.
        mask: The mask, as `Masker` writes it; None: the column is excluded.
    """

    name: str
    number: int
    mask: str | None


def merge_redacted(
    before: tuple[RedactedColumn, ...] | None, now: tuple[RedactedColumn, ...] | None, *, at_bound: bool
) -> tuple[RedactedColumn, ...] | None:
    """Return the redacted columns to record after a schema change.

    Args:
        before: The recorded redacted columns; None: not known.
        now: The redacted columns in the catalog; None: not known.
        at_bound: Whether the catalog is that of the stream's position. Else the stream may still hold changes of
            columns that the catalog no longer has, and these stay recorded.
    """
    if before is None or now is None or at_bound:
        return before if now is None else now
    numbers = {column.number for column in now}
    return tuple(sorted((*now, *(c for c in before if c.number not in numbers)), key=lambda column: column.number))
