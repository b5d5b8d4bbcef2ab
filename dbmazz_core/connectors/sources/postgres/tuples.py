"""Walking through many tuples at once, column by column, without Python per row.

A TupleData is a column count (int16), then for each column a kind byte: 'n' NULL, 'u' unchanged TOAST value that was
not sent, or 't' with a length (int32) and that many bytes of text. All tuples of a relation have as many columns, so
one pass a column moves every tuple's position forward together.

Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa

from dbmazz_core.batch import Indexes, Mask, UnreadableText
from dbmazz_core.connectors.sources.postgres.block import Int64s, MessageBlock, unaligned
from dbmazz_core.connectors.sources.postgres.types import carrier_values
from dbmazz_core.datatypes import DataType

_NULL, _UNCHANGED, _TEXT = ord("n"), ord("u"), ord("t")


class TornTuple(Exception):
    """Some tuple is not what the format says; the plain parser tells which one and why."""


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """Where one column's values lie; arrays of shape (k,)."""

    offsets: Int64s
    lengths: Int64s
    kinds: np.typing.NDArray[np.uint8] | None  # None: all values are text

    def take(self, places: Indexes) -> _Column:
        kinds = None if self.kinds is None else self.kinds[places]
        return _Column(self.offsets[places], self.lengths[places], kinds)


@dataclass(frozen=True, slots=True, eq=False)
class TupleColumns:
    """k tuples of one relation in one block. Implements `dbmazz_core.batch.RowImages`.

    Attributes:
        index: Rows of the batch that these are the images of, shape (k,).
        messages: Binary series of the k messages.
        starts: Offset of each message in the block's buffer, shape (k,).
        types: The columns' types.
        end: Offset behind each tuple, shape (k,).
    """

    index: Indexes
    messages: pl.Series
    starts: Int64s
    types: tuple[DataType, ...]
    columns: tuple[_Column, ...]
    end: Int64s = field(repr=False)

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`. Slices point into the block's buffer; nothing is copied."""
        where = self.columns[column]
        places = pl.DataFrame(
            {"message": self.messages, "offset": where.offsets - self.starts, "length": where.lengths}
        )
        raw = places.select(pl.col("message").bin.slice(pl.col("offset"), pl.col("length"))).to_series()
        if where.kinds is not None:
            raw = raw.zip_with(pl.Series(where.kinds == _TEXT), pl.Series([None], dtype=pl.Binary))
        values, wrong = carrier_values(raw, self.types[column])
        if wrong is not None:
            row = int(wrong.arg_max() or 0)
            raise UnreadableText(row, bytes(raw[row]).decode("utf-8", "backslashreplace"))
        return values

    def take(self, places: Indexes) -> TupleColumns:
        """See `RowImages.take`."""
        return TupleColumns(
            self.index[places],
            self.messages.gather(places),
            self.starts[places],
            self.types,
            tuple(column.take(places) for column in self.columns),
            self.end[places],
        )

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        kinds = self.columns[column].kinds
        if kinds is None:
            return None
        mask: Mask = kinds == _UNCHANGED
        return mask if mask.any() else None


def message_series(block: MessageBlock) -> pl.Series:
    """The block's messages as a `Binary` series over the same memory."""
    bounds = np.append(block.starts, block.ends[-1:] if len(block) else np.zeros(1, np.int64))
    array = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(block), [None, pa.py_buffer(bounds), pa.py_buffer(block.buffer)]
    )
    series = pl.from_arrow(array)
    assert isinstance(series, pl.Series)
    return series


def walk(
    block: MessageBlock,
    messages: pl.Series,
    rows: Int64s,
    positions: Int64s,
    types: tuple[DataType, ...],
    index: Indexes,
) -> TupleColumns:
    """Walk through the tuples that begin at `positions`, one of each message in `rows`.

    Args:
        block: The messages.
        messages: `message_series(block)`.
        rows: Numbers of messages in the block, shape (k,).
        positions: Offset in the block's buffer of each tuple's column count, shape (k,).
        types: The relation's column types.
        index: What `TupleColumns.index` shall be, shape (k,).

    Raises:
        TornTuple: If a tuple runs past its message, or has other kinds or another number of columns.
    """
    starts, ends = block.starts[rows], block.ends[rows]
    if not len(rows):
        nothing = _Column(np.zeros(0, np.int64), np.zeros(0, np.int64), None)
        return TupleColumns(index, messages.clear(), starts, types, (nothing,) * len(types), positions)
    octets = block.bytes
    int32 = unaligned(block.buffer, ">u4")
    try:
        counts = unaligned(block.buffer, ">u2")[positions]
        if (counts != len(types)).any():
            raise TornTuple
        position = positions + 2
        columns = []
        for _ in types:
            kinds = octets[position]
            is_text = kinds == _TEXT
            if is_text.all():
                lengths = int32[position + 1].astype(np.int64)
                columns.append(_Column(position + 5, lengths, None))
                position = position + 5 + lengths
                continue
            if not (is_text | (kinds == _NULL) | (kinds == _UNCHANGED)).all():
                raise TornTuple
            lengths = np.where(is_text, int32[np.where(is_text, position + 1, 0)], 0).astype(np.int64)
            columns.append(_Column(np.where(is_text, position + 5, starts), lengths, kinds))
            position = position + np.where(is_text, 5 + lengths, 1)
    except IndexError:
        raise TornTuple from None
    if (position > ends).any():
        raise TornTuple
    return TupleColumns(index, messages.gather(pl.Series(rows)), starts, types, tuple(columns), position)
