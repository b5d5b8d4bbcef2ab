"""Columns that rules hide, by their numbers: under whatever name they go later, their values stay hidden."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.errors import ConfigError
from dbmazz_core.table_ref import ColumnRef, TableRef


@dataclass(frozen=True, slots=True)
class HiddenColumn:
    """A column whose values are not captured as they are.

    Attributes:
        name: Its name.
        number: Never given to another column of the table (`attnum`).
        mask: How it is masked, as `Masker` says it; None: it is left out.
    """

    name: str
    number: int
    mask: str | None


def verify_hidden(
    table: TableRef,
    before: Collection[HiddenColumn],
    called: TableRef,
    captured: Mapping[int, str],
    now: Collection[HiddenColumn],
) -> None:
    """Raise ConfigError if a column that was hidden goes by a name under which the rules of today show more of it.

    Under its own name another rule is another choice, which `ColumnRules.verify_recorded` finds.

    Args:
        table: The table's name when it was copied.
        before: What was hidden then.
        called: The table's name now.
        captured: Names of today by number, at least of what is captured.
        now: What is hidden today.
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
    before: tuple[HiddenColumn, ...] | None, now: tuple[HiddenColumn, ...] | None, *, settled: bool
) -> tuple[HiddenColumn, ...] | None:
    """What is hidden from here on.

    Args:
        before: What was; None: that is not known.
        now: What the catalog has.
        settled: Whether nothing else is left of what was.
    """
    if before is None or now is None or settled:
        return before if now is None else now
    numbers = {column.number for column in now}
    return tuple(sorted((*now, *(c for c in before if c.number not in numbers)), key=lambda column: column.number))


def _as_strong(now: str | None, before: str | None) -> bool:
    """Whether a mask shows no more than another one did."""
    if now in (None, "null"):
        return True
    if before in (None, "null"):
        return False
    assert now is not None
    assert before is not None
    if now.startswith("hash"):
        return True
    return before.startswith("truncate") and int(now.partition(":")[2]) <= int(before.partition(":")[2])
