"""Find bad values: values that the destination's type cannot hold, and texts that are no value of their type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.model.batch import ChangeBatch, Indexes, Mask, RowImages
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.sink import SinkTransaction
from dbmazz_core.model.source import CopiedRows

#: Stands for the number of a bad column where no column is bad.
GOOD = -1


@dataclass(frozen=True, slots=True, eq=False)
class BadValues:
    """The bad values of a change batch; by change, arrays of shape (n,).

    Attributes:
        column: Number of the first bad column of the new image, key columns first; `GOOD` if the image has none.
        key_is_bad: Whether that is a key column.
        old_is_absent: Whether the row of the old image cannot be in the table: its key (without a key, the row) has a
            bad value.
    """

    column: Indexes
    key_is_bad: Mask
    old_is_absent: Mask


def bad_values_of_changes(sink: SinkTransaction, batch: ChangeBatch) -> BadValues:
    """Find the bad values of a batch. An unsent value counts as the value of a whole old image."""
    schema, count = batch.schema, len(batch)
    keys, others = _key_and_other_columns(schema)
    column, old_is_absent = np.full(count, GOOD), np.zeros(count, dtype=np.bool_)
    column[batch.new.index] = _first_bad_columns(sink, schema, batch.new, [*keys, *others])
    old_is_absent[batch.old.index] = _first_bad_columns(sink, schema, batch.old, keys or others) != GOOD
    for number in others if keys else ():
        unknown = batch.new.unknown(number)
        if unknown is not None and len(batch.old.index):
            unsent = np.zeros(count, dtype=np.bool_)
            unsent[batch.new.index] = unknown
            bad_in_old = np.full(count, GOOD)
            bad_in_old[batch.old.index] = np.where(
                batch.old_is_key, GOOD, _first_bad_columns(sink, schema, batch.old, [number])
            )
            column = np.where((column == GOOD) & unsent, bad_in_old, column)
    return BadValues(column, np.isin(column, keys), old_is_absent)


def bad_old_images(sink: SinkTransaction, batch: ChangeBatch) -> Mask | None:
    """Return whether an old image has a bad value outside of the key, shape of `old.index`; None if none has.

    Also None for a table without a key, or without other columns.
    """
    keys, others = _key_and_other_columns(batch.schema)
    if not (keys and others and len(batch.old.index)):
        return None
    is_bad: Mask = _first_bad_columns(sink, batch.schema, batch.old, others) != GOOD
    return is_bad if is_bad.any() else None


def bad_values_of_copy(sink: SinkTransaction, schema: TableSchema, copied: CopiedRows) -> Indexes:
    """Return by copied row the number of its first bad column, or `GOOD`."""
    first = np.full(len(copied.frame), GOOD)
    for number, texts in copied.unreadable.items():
        first[texts.is_not_null().to_numpy() & (first == GOOD)] = number
    _add_unrepresentable(sink, schema, copied.frame, list(range(len(schema.columns))), first)
    return first


def _key_and_other_columns(schema: TableSchema) -> tuple[list[int], list[int]]:
    keys = [schema.names.index(name) for name in schema.key]
    return keys, [number for number in range(len(schema.names)) if number not in keys]


def _first_bad_columns(sink: SinkTransaction, schema: TableSchema, images: RowImages, numbers: list[int]) -> Indexes:
    """Return by image the first of the given columns that has a bad value, or `GOOD`."""
    first = np.full(len(images.index), GOOD)
    if not len(first):
        return first
    for number in numbers:
        unreadable = images.unreadable(number)
        if unreadable is not None:
            first[unreadable & (first == GOOD)] = number
    frame = pl.DataFrame([images.values(number).alias(value_column(number)) for number in numbers])
    _add_unrepresentable(sink, schema, frame, numbers, first)
    return first


def _add_unrepresentable(
    sink: SinkTransaction, schema: TableSchema, frame: pl.DataFrame, numbers: list[int], first: Indexes
) -> None:
    """Enter the columns that the destination's types cannot hold into `first`, where they come first.

    Args:
        sink: The destination's open transaction.
        schema: The table.
        frame: Columns of the table.
        numbers: By column of the frame: its number in the table. Their order decides which column comes first.
        first: By row of the frame: the first column that is known to be bad, or `GOOD`.
    """
    found = sink.unrepresentable(schema, frame)
    rows, columns = found["row"].to_numpy(), np.array(numbers)[found["column"].to_numpy()]
    order = {number: place for place, number in enumerate(numbers)}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if first[row] == GOOD or order[column] < order[int(first[row])]:
            first[row] = column
