"""Changes as rows of a changelog: one row a change, with the row before and after as far as PostgreSQL sent them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dbmazz_core.engine.batch_rows import Rows
from dbmazz_core.model.batch import DELETE, OPERATION_NAMES, ChangeBatch, Indexes, Mask
from dbmazz_core.model.frame_columns import (
    COMMIT_LSN,
    COMMIT_TS,
    KNOWN_OLD,
    OP,
    ORDINAL,
    UNCHANGED,
    XID,
    old_column,
    value_column,
)
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import Truncation

_POSITION = {
    COMMIT_LSN: pl.UInt64(),
    COMMIT_TS: pl.Datetime("us", "UTC"),
    XID: pl.UInt32(),
    ORDINAL: pl.Int64(),
}


def changelog(schema: TableSchema, events: Iterable[ChangeBatch | Truncation]) -> pl.DataFrame:
    """Changes of one table under one set of columns, in stream order.

    Columns: `OP` (String: insert, update, delete, truncate), `COMMIT_LSN` (UInt64), `COMMIT_TS` (Datetime us UTC),
    `XID` (UInt32), `ORDINAL` (Int64), `UNCHANGED` (List of String: columns whose new value was not sent and is not in
    the row before either; unknown is not NULL), `c0` and so on (the table's own columns by their places: the row after,
    in carrier dtypes; null for delete and truncate), `o0` and so on (the row before), `KNOWN_OLD` (List of String:
    which columns of the row before were sent: all under REPLICA IDENTITY FULL, else those of the key where it changed
    or the row was deleted).

    Raises:
        BadValue: If a value is none of its column's type.
    """
    frames = [_changes(event) if isinstance(event, ChangeBatch) else _truncate(schema, event) for event in events]
    return pl.concat(frames, rechunk=False)


def _changes(batch: ChangeBatch) -> pl.DataFrame:
    rows, count = Rows([batch], soft_delete=True), len(batch)
    names = batch.schema.names
    after, before = np.flatnonzero(batch.ops != DELETE), np.flatnonzero(rows.has_old)
    new, old = rows.new(after), rows.old(before)
    at, at_old = _places(after, count), _places(before, count)
    unknown = {name: mask for i, name in enumerate(names) if (mask := rows.unknown(i)) is not None}
    known = np.zeros(count, dtype=np.uint32)
    known[batch.old.index] = np.where(batch.old_is_key, 1, 2)
    lsn, xid, time = rows.positions(np.arange(count))
    return pl.DataFrame(
        [
            pl.Series(OP, batch.ops).replace_strict(OPERATION_NAMES, return_dtype=pl.String),
            lsn,
            time,
            xid,
            pl.Series(ORDINAL, batch.ordinal),
            _listed(unknown, count).alias(UNCHANGED),
            *(_spread(rows.new_values(place, new), at).alias(value_column(place)) for place in range(len(names))),
            *(_spread(old.values(place), at_old).alias(old_column(place)) for place in range(len(names))),
            _lists([[], list(batch.schema.key), list(names)], known).alias(KNOWN_OLD),
        ]
    )


def _truncate(schema: TableSchema, event: Truncation) -> pl.DataFrame:
    position = event.position
    values = (int(position.commit_lsn), position.commit_time, position.xid, position.ordinal)
    none = _lists([[]], np.zeros(1, dtype=np.uint32))
    return pl.DataFrame(
        [
            pl.Series(OP, ["truncate"]),
            *(pl.Series(name, [value], type) for (name, type), value in zip(_POSITION.items(), values, strict=True)),
            none.alias(UNCHANGED),
            *(
                pl.Series(name(place), [None], column.type.carrier)
                for name in (value_column, old_column)
                for place, column in enumerate(schema.columns)
            ),
            none.alias(KNOWN_OLD),
        ]
    )


def _places(rows: Indexes, count: int) -> pl.Series | None:
    """By row, its place among `rows`, or null; None where all are there."""
    if len(rows) == count:
        return None
    return pl.repeat(None, count, dtype=pl.UInt32, eager=True).scatter(rows, np.arange(len(rows), dtype=np.uint32))


def _spread(values: pl.Series, places: pl.Series | None) -> pl.Series:
    return values if places is None else values.gather(places)


def _listed(masks: dict[str, Mask], count: int) -> pl.Series:
    """By row, the names whose mask is true there."""
    if not masks:
        return _lists([[]], np.zeros(count, dtype=np.uint32))
    # Few combinations, many rows: each combination's list is made once.
    patterns, member_of = np.unique(np.stack(list(masks.values()), axis=1), axis=0, return_inverse=True)
    lists = [[name for name, on in zip(masks, row, strict=True) if on] for row in patterns.tolist()]
    return _lists(lists, member_of.reshape(-1))


def _lists(lists: Sequence[Sequence[str]], chosen: npt.NDArray[Any]) -> pl.Series:
    return pl.Series(lists, dtype=pl.List(pl.String)).gather(chosen.astype(np.uint32))
