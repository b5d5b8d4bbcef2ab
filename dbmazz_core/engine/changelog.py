"""Changes as rows of a changelog: one row per change, with the old and the new row as far as the source sent them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
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
    """Return changes of one table as rows of a changelog.

    Args:
        schema: The table.
        events: Changes under one set of columns, in stream order.

    Returns:
        One row per change. Columns:

        - `OP` (String): insert, update, delete or truncate.
        - `COMMIT_LSN` (UInt64), `COMMIT_TS` (Datetime us UTC), `XID` (UInt32), `ORDINAL` (Int64).
        - `UNCHANGED` (List of String): columns whose new value was not sent and is not in the old row either. The value
          is unknown, not NULL.
        - `c0` and so on: the table's columns by their places, the new row in carrier dtypes, or natural ones if the
          batches are typed; null for delete and truncate.
        - `o0` and so on: the old row.
        - `KNOWN_OLD` (List of String): the columns of the old row that were sent. These are all columns under REPLICA
          IDENTITY FULL; otherwise the key columns, if the key changed or the row was deleted.

    Raises:
        BadValue: A text is no value of its column's type.
    """
    events = [*events]
    typed = any(isinstance(event, ChangeBatch) and event.is_typed for event in events)
    frames = [
        _changes(event) if isinstance(event, ChangeBatch) else _truncate(schema, event, typed=typed) for event in events
    ]
    return pl.concat(frames, rechunk=False)


def _changes(batch: ChangeBatch) -> pl.DataFrame:
    rows, count = BatchRows([batch], soft_delete=True), len(batch)
    names = batch.schema.names
    with_new, with_old = np.flatnonzero(batch.ops != DELETE), np.flatnonzero(rows.has_old)
    new, old = rows.new(with_new), rows.old(with_old)
    new_places, old_places = _image_places(with_new, count), _image_places(with_old, count)
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
            _marked_names(unknown, count).alias(UNCHANGED),
            *(
                _by_change(rows.new_values(place, new), new_places).alias(value_column(place))
                for place in range(len(names))
            ),
            *(_by_change(old.values(place), old_places).alias(old_column(place)) for place in range(len(names))),
            _lists([[], list(batch.schema.key), list(names)], known).alias(KNOWN_OLD),
        ]
    )


def _truncate(schema: TableSchema, event: Truncation, *, typed: bool) -> pl.DataFrame:
    position = event.position
    values = (int(position.commit_lsn), position.commit_time, position.xid, position.ordinal)
    empty_list = _lists([[]], np.zeros(1, dtype=np.uint32))
    return pl.DataFrame(
        [
            pl.Series(OP, ["truncate"]),
            *(pl.Series(name, [value], type) for (name, type), value in zip(_POSITION.items(), values, strict=True)),
            empty_list.alias(UNCHANGED),
            *(
                pl.Series(name(place), [None], column.type.natural if typed else column.type.carrier)
                for name in (value_column, old_column)
                for place, column in enumerate(schema.columns)
            ),
            empty_list.alias(KNOWN_OLD),
        ]
    )


def _image_places(rows: Indexes, count: int) -> pl.Series | None:
    """Return by change the place of its image, or null.

    Args:
        rows: The changes that have an image, ascending.
        count: The number of all changes.

    Returns:
        None if every change has an image.
    """
    if len(rows) == count:
        return None
    return pl.repeat(None, count, dtype=pl.UInt32, eager=True).scatter(rows, np.arange(len(rows), dtype=np.uint32))


def _by_change(values: pl.Series, places: pl.Series | None) -> pl.Series:
    """Return the values of images by change, null for changes without an image."""
    return values if places is None else values.gather(places)


def _marked_names(masks: dict[str, Mask], count: int) -> pl.Series:
    """Return by change the list of names whose mask is true for the change."""
    if not masks:
        return _lists([[]], np.zeros(count, dtype=np.uint32))
    # Combinations are few and rows are many: the list of each combination is made once.
    patterns, member_of = np.unique(np.stack(list(masks.values()), axis=1), axis=0, return_inverse=True)
    lists = [[name for name, on in zip(masks, row, strict=True) if on] for row in patterns.tolist()]
    return _lists(lists, member_of.reshape(-1))


def _lists(lists: Sequence[Sequence[str]], chosen: npt.NDArray[Any]) -> pl.Series:
    """Return a series of lists, each chosen by its number."""
    return pl.Series(lists, dtype=pl.List(pl.String)).gather(chosen.astype(np.uint32))
