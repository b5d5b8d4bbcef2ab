"""Columns that rules exclude or mask, by their numbers: they stay redacted under whatever name they have later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.errors import ConfigError
from dbmazz_core.table_ref import ColumnRef, TableRef


@dataclass(frozen=True, slots=True)
class RedactedColumn:
    """A column whose values rules exclude or mask.

    Attributes:
        name: Its name.
        number: Never given to another column of the table (`attnum`).
        mask: The mask, as `Masker` writes it; None: the column is excluded.
    """

    name: str
    number: int
    mask: str | None


def verify_redacted(
    table: TableRef,
    before: Collection[RedactedColumn],
    called: TableRef,
    captured: Mapping[int, str],
    now: Collection[RedactedColumn],
) -> None:
    """Raise ConfigError if a redacted column has another name now under which the rules of today show more of it.

    Another rule for its own name is the user's choice, which `ColumnRules.verify_recorded` finds.

    Args:
        table: The table's name when it was copied.
        before: The columns that were redacted then.
        called: The table's name now.
        captured: Names of today by number, at least of the captured columns.
        now: The columns that are redacted today.
    """
    today = {column.number: column for column in now}
    for old in before:
        new = today.get(old.number)
        name = new.name if new else captured.get(old.number)
        if name is None or (table, old.name) == (called, name) or (new is not None and _as_strong(new.mask, old.mask)):
            continue
        column = ColumnRef(called, name)
        if old.mask is None:
            how, variable, rule = "left out", "COLUMNS_EXCLUDE", str(column)
        else:
            mask = "hash" if old.mask.startswith("hash") else old.mask
            how, variable, rule = f"masked ({mask})", "COLUMNS_MASK", f"{column}={mask}"
        raise ConfigError(
            f"{ColumnRef(table, old.name)} was {how} when its table was copied, and is called {column} now, where "
            f"{'a weaker rule' if new else 'no rule'} hides it: its values would arrive",
            object=str(column),
            remedy=f"put it into {variable} under its name of today ({variable}={rule}); only if its values may be "
            f"shown as the rules say now, or the rules are right: dbmazz snapshot --tables '{called}'",
        )


def merged(
    before: tuple[RedactedColumn, ...] | None, now: tuple[RedactedColumn, ...] | None, *, settled: bool
) -> tuple[RedactedColumn, ...] | None:
    """Return the redacted columns from here on.

    Args:
        before: Those of before; None: they are not known.
        now: Those of the catalog.
        settled: Whether the catalog's are the only ones left.
    """
    if before is None or now is None or settled:
        return before if now is None else now
    numbers = {column.number for column in now}
    return tuple(sorted((*now, *(c for c in before if c.number not in numbers)), key=lambda column: column.number))


def _as_strong(now: str | None, before: str | None) -> bool:
    """Return whether a mask shows no more than another one did."""
    if now in (None, "null"):
        return True
    if before in (None, "null"):
        return False
    assert now is not None
    assert before is not None
    if now.startswith("hash"):
        return True
    return before.startswith("truncate") and int(now.partition(":")[2]) <= int(before.partition(":")[2])
