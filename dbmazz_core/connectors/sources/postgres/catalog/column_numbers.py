"""Which columns a description in the stream means, by their numbers.

A Relation message lists the live, published columns of its time by name and type, in the order of their numbers
(`attnum`; pgoutput.c, send_relation_and_attrs). It has no numbers, and names prove nothing: they may have been other
columns' since the last look at the catalog, or have passed on since then. What is certain is how a table's columns come
and go (manual, "pg_attribute"):

- A column that was live at the last look and is live today was live all the while.
- One that was live then and is gone today went at some time in between.
- A new column has a number above all that were given before. Numbers are given in order, and never again; of one that
  is gone again nothing is left but the number.

So a description of n columns means those that were live all the while, and enough of the others to make n. Where only
one choice of these is possible, their places give each its number, whatever the names. Choices are ruled out by

- the name of a column whose row in the catalog is the recorded one: it was called so all the while;
- the layout of a type: as long as the table's storage is the same, a column's values have kept theirs;
- order: a new column that is live today was there before every column with a higher number. (A generated column is
  not in the stream before its expression is dropped; but adding one that can lose it rewrites the table.)

Where more than one choice is left nobody can tell which columns were meant.

>>> live, gone, new = Seen(1, "a", always=True), Seen(2), Seen(3, lasts=True)  # b was dropped, and c was added
>>> columns_described([live, gone, new], [("a", ""), ("b", ""), ("c", "")])
[(1, 2, 3)]
>>> columns_described([live, gone, new], [("a", ""), ("x", "")])
[(1, 2), (1, 3)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

#: More columns than these that came or went between two looks: nobody tries to tell.
_MOST = 16


@dataclass(frozen=True, slots=True)
class Seen:
    """A column that may have been live between two looks at the catalog.

    Attributes:
        number: Its number.
        name: What it was called all the while; None where that is not known.
        layout: Of its values (`SourceTable.layouts`); empty where that is not known.
        always: Whether it was live all the while.
        lasts: Whether it is live today.
    """

    number: int
    name: str | None = None
    layout: str = ""
    always: bool = False
    lasts: bool = False


def columns_described(columns: Sequence[Seen], described: Sequence[tuple[str, str]]) -> list[tuple[int, ...]]:
    """The choices of columns that a description can mean, by number: two at most, for any two prove nothing.

    Args:
        columns: All that may have been live, by ascending number.
        described: Of each column described, the name and its type's layout (empty where that is not known).
    """
    found: list[tuple[int, ...]] = []
    for choice in _choices(columns, len(described)):
        if all(_may_be(column, *named) for column, named in zip(choice, described, strict=True)):
            found.append(tuple(column.number for column in choice))
        if len(found) == 2:
            break
    return found


def _choices(columns: Sequence[Seen], count: int) -> Iterator[list[Seen]]:
    """Of the columns, all that were live all the while, and others to make up the count."""
    others = [column for column in columns if not column.always]
    wanted = count - (len(columns) - len(others))
    if not 0 <= wanted <= len(others) <= _MOST:
        return
    for some in combinations(others, wanted):
        chosen = {column.number for column in some}
        # A new column that is live today was there before any with a higher number.
        if any(
            column.lasts and column.number < max(chosen) and column.number not in chosen for column in others if some
        ):
            continue
        yield [column for column in columns if column.always or column.number in chosen]


def _may_be(column: Seen, name: str, layout: str) -> bool:
    named = column.name in (None, name)
    return named and (not layout or not column.layout or layout == column.layout)
