"""Find the numbers (`attnum`) of the columns that a Relation message describes.

A Relation message lists the names and types of the columns that are in the stream at that time, ordered by number
(pgoutput.c, send_relation_and_attrs). It has no numbers. A name proves no number: since the last read of the catalog,
the name may have belonged to another column, and it may belong to another column again now.

The catalog is read before the message (the recorded identity) and after it. PostgreSQL guarantees (manual,
"pg_attribute"):

- A column that both reads show existed all the time between them.
- A column that only the earlier read shows was dropped at some time between them.
- A new column gets a number above all earlier numbers of the table, and a number is never used again. A column that was
  added and dropped between the reads leaves only its number.

So a message of n columns describes all columns that existed all the time, and as many other candidates as make n. If
only one selection of candidates is possible, the places in the message give the numbers, whatever the names are. A
selection is impossible if

- a candidate has another name than the message, although the row version of its definition is the same in both reads,
  so that it had this name all the time;
- a candidate's values have another layout than the described type, although the storage of the table is the same in
  both reads: without a rewrite, values keep their layout;
- it leaves out a new column that still exists, but contains a column with a higher number, which was added later. (A
  generated column is not in the stream until its expression is dropped. But adding a column whose expression can be
  dropped rewrites the table.)

If several selections are possible, the numbers are unknown.

Example: the reads show columns 1 and 2 before, 1 and 3 after. A message of three columns describes all of them. A
message of two columns describes 1 and 2 (before 3 was added), or 1 and 3 (after 2 was dropped).

>>> kept = Candidate(1, "a", always_exists=True)
>>> dropped, added = Candidate(2), Candidate(3, exists_now=True)
>>> possible_numbers([kept, dropped, added], [("a", ""), ("b", ""), ("c", "")])
[(1, 2, 3)]
>>> possible_numbers([kept, dropped, added], [("a", ""), ("x", "")])
[(1, 2), (1, 3)]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

#: Columns that came or went between two reads; if there are more, the numbers are unknown. 16 candidates have at most
#: 12,870 selections.
_MAX_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class Candidate:
    """A column that a description can contain: it existed at some time between two reads of the catalog.

    Attributes:
        number: Number of the column.
        name: Name that the column had all the time; None: not known.
        layout: Layout of the column's values (`CatalogTable.layouts`); empty: not known.
        always_exists: Whether the column existed, and was in the stream, at both reads.
        exists_now: Whether the column is new and is in the stream at the later read.
    """

    number: int
    name: str | None = None
    layout: str = ""
    always_exists: bool = False
    exists_now: bool = False


def possible_numbers(columns: Sequence[Candidate], described: Sequence[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Return the selections of column numbers that a description can mean; the first two if there are more.

    Args:
        columns: All candidates, by ascending number.
        described: Name of each described column, and the layout of its type (empty: not known).
    """
    found: list[tuple[int, ...]] = []
    for selection in _selections(columns, len(described)):
        if all(_can_be(column, *seen) for column, seen in zip(selection, described, strict=True)):
            found.append(tuple(column.number for column in selection))
        if len(found) == 2:
            break
    return found


def _selections(columns: Sequence[Candidate], count: int) -> Iterator[list[Candidate]]:
    """Yield the selections of `count` columns that contain all columns that existed all the time."""
    others = [column for column in columns if not column.always_exists]
    wanted = count - (len(columns) - len(others))
    if not 0 <= wanted <= len(others) <= _MAX_CANDIDATES:
        return
    for combination in combinations(others, wanted):
        chosen = {column.number for column in combination}
        # A new column that still exists was there before any column with a higher number.
        if any(
            column.exists_now and column.number < max(chosen) and column.number not in chosen
            for column in others
            if combination
        ):
            continue
        yield [column for column in columns if column.always_exists or column.number in chosen]


def _can_be(column: Candidate, name: str, layout: str) -> bool:
    """Return whether name and layout of a described column allow that it is a candidate."""
    same_name = column.name in (None, name)
    return same_name and (not layout or not column.layout or layout == column.layout)
