"""The example of `dbmazz_core.engine.net_effect`, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from dbmazz_core.engine.net_effect import compact
from dbmazz_core.model.batch import ChangeBatch, RowImages
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.table_ref import TableRef

UNSENT = "?"
TABLE = TableRef("public", "t")
COLUMNS = (
    ColumnDef("id", DataType(Kind.INT64), "bigint"),
    ColumnDef("note", DataType(Kind.STRING), "text"),
    ColumnDef("body", DataType(Kind.STRING), "text"),
)
#: Operation, old key and new row of each change.
EXAMPLE: list[tuple[str, int | None, tuple[int, str, str] | None]] = [
    ("I", None, (1, "a", "A")),
    ("U", None, (1, "b", UNSENT)),
    ("D", 2, None),
    ("I", None, (2, "c", "C")),
    ("U", 3, (4, "d", "D")),
    ("I", None, (5, "e", "E")),
    ("D", 5, None),
    ("U", None, (6, "f", UNSENT)),
    ("U", 7, (8, "g", UNSENT)),
    ("D", 9, None),
]


class Images(RowImages):
    """Some rows; implements `RowImages`."""

    def __init__(self, index: Any, rows: list[tuple[Any, ...]]) -> None:
        self._index, self._rows = np.array(index, dtype=np.int64), rows

    @property
    def index(self) -> Any:
        return self._index

    def values(self, column: int) -> pl.Series:
        listed = [None if row[column] == UNSENT else row[column] for row in self._rows]
        return pl.Series(listed, dtype=COLUMNS[column].type.carrier)

    def take(self, places: Any) -> Images:
        return Images(self._index[places], [self._rows[place] for place in places])

    def unknown(self, column: int) -> Any:
        mask = np.array([row[column] == UNSENT for row in self._rows], dtype=np.bool_)
        return mask if mask.any() else None


def batch(changes: list[tuple[str, int | None, tuple[int, str, str] | None]]) -> ChangeBatch:
    count, rows = len(changes), range(len(changes))
    old = [row for row in rows if changes[row][1] is not None]
    new = [row for row in rows if changes[row][2] is not None]
    return ChangeBatch(
        TableSchema(TABLE, COLUMNS, ("id",)),
        np.array([ord(operation) for operation, _, _ in changes], dtype=np.uint8),
        np.ones(count, dtype=np.uint64),
        np.ones(count, dtype=np.uint32),
        np.arange(count) + 1,
        np.zeros(count, dtype=np.int64),
        Images(new, [changes[row][2] or () for row in new]),
        Images(old, [(changes[row][1], None, None) for row in old]),
        np.ones(len(old), dtype=np.bool_),
    )


def rows(frame: pl.DataFrame | None, *columns: str) -> list[tuple[Any, ...]]:
    assert frame is not None
    return frame.select(columns).rows()


@pytest.mark.parametrize("size", [10, 3, 1])
def test_the_example_of_the_docstring(size: int) -> None:
    effect = compact([batch(EXAMPLE[first : first + size]) for first in range(0, len(EXAMPLE), size)])
    assert rows(effect.appends, "c0", "c1", "c2") == [(1, "b", "A"), (4, "d", "D")]
    assert rows(effect.upserts, "c0", "c1", "c2") == [(2, "c", "C")]
    assert sorted(rows(effect.deletes, "c0")) == [(3,), (7,), (9,)]
    (update,) = effect.updates
    assert (rows(update.frame, "c0", "c1"), update.known) == ([(6, "f")], (1,))
    (move,) = effect.moves
    assert (rows(move.frame, "k0", "c0", "c1", "c2"), move.unknown) == ([(7, 8, "g", None)], (2,))
