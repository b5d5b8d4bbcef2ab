"""Walking through many tuples at once, column by column, without Python per row.

Values of columns that are not captured are passed over; nothing is made of them.

A TupleData is a column count (int16), then for each column a kind byte: 'n' NULL, 'u' unchanged TOAST value that was
not sent, or 't' with a length (int32) and that many bytes of text. All tuples of a relation have as many columns, so
one pass a column moves every tuple's position forward together.

Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import Projection
from dbmazz_core.connectors.sources.postgres.parser.block import Int64s, MessageBlock, unaligned
from dbmazz_core.connectors.sources.postgres.types import BadText, read_each, read_texts, to_carrier
from dbmazz_core.model.batch import Indexes, Mask, UnreadableText
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.masks import HIDDEN, Masker, utf8
from dbmazz_core.model.values import escaped

_NULL, _UNCHANGED, _TEXT = ord("n"), ord("u"), ord("t")


class MalformedTuple(Exception):
    """Some tuple is not what the format says; the plain parser tells which one and why."""


#: Kind bytes of a column, shape (k,); None: all values are text.
_Kinds = npt.NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True, eq=False)
class _Texts:
    """Where one column's texts lie, arrays of shape (k,); anywhere for what is no text."""

    offsets: Int64s
    lengths: Int64s


class TupleColumns:
    """k tuples of one relation in one block. Implements `dbmazz_core.model.batch.RowImages`.

    Args:
        index: Rows of the batch that these are the images of, shape (k,).
        messages: Binary series of the k messages.
        starts: Offset of each message in the block's buffer, shape (k,).
        types: The columns' types.
        maskers: How each is masked.
        kinds: By column.
        texts: By column; dropped once its values are made.
        end: Offset behind each tuple, shape (k,).
        lenient: Whether bad values are kept apart (`unreadable`, `texts`) instead of raising UnreadableText.
    """

    def __init__(
        self,
        index: Indexes,
        messages: pl.Series,
        starts: Int64s,
        types: tuple[DataType, ...],
        maskers: tuple[Masker | None, ...],
        kinds: list[_Kinds],
        texts: dict[int, _Texts],
        end: Int64s,
        lenient: bool = False,
    ) -> None:
        self._index = index
        self._messages = messages
        self._starts = starts
        self._types = types
        self._maskers = maskers
        self._kinds = kinds
        self._texts = texts
        self._lenient = lenient
        self._values: dict[int, pl.Series] = {}
        self._unreadable: dict[int, Mask] = {}
        self.end = end

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        if column not in self._values:
            self.materialize([column])
        return self._values[column]

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        kinds = self._kinds[column]
        if kinds is None:
            return None
        mask: Mask = kinds == _UNCHANGED
        return mask if mask.any() else None

    @property
    def lenient(self) -> bool:
        """See `RowImages.lenient`."""
        return self._lenient

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        self.values(column)
        return self._unreadable.get(column)

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        if not self._lenient:
            raise RuntimeError("texts are kept only where bad values are kept apart")
        raw, masker = self._raw_values(column), self._maskers[column]
        if masker is not None:
            return masker.column(raw, self._types[column]).cast(pl.String)
        texts = utf8(raw)
        if texts.null_count() == raw.null_count():
            return texts
        shown = [None if value is None else escaped(value) for value in raw.to_list()]
        return pl.Series(texts.name, shown, dtype=pl.String)

    def has_unsent_values(self, among: Mask | None = None) -> bool:
        """Whether any value was not sent, in the tuples where `among` is true (None: in all)."""
        masks = (self.unknown(number) for number, kinds in enumerate(self._kinds) if kinds is not None)
        return any(mask is not None and bool(mask[among].any()) for mask in masks)

    def take(self, places: Indexes) -> TupleColumns:
        """See `RowImages.take`."""
        return self._subset(self._index[places], places, lambda series: series.gather(places))

    def slice_rows(self, first: int, stop: int) -> TupleColumns:
        """Only the images of rows from `first` to before `stop`, which then are the rows from 0 on. Shares memory."""
        begin, end = np.searchsorted(self._index, [first, stop]).tolist()
        part = slice(begin, end)
        return self._subset(self._index[part] - first, part, lambda series: series.slice(begin, end - begin))

    def _subset(
        self, index: Indexes, places: Indexes | slice, chosen: Callable[[pl.Series], pl.Series]
    ) -> TupleColumns:
        """Some of the images, for the rows `index`; `chosen` picks the same places of a series."""
        some = TupleColumns(
            index,
            chosen(self._messages),
            self._starts[places],
            self._types,
            self._maskers,
            [None if kinds is None else kinds[places] for kinds in self._kinds],
            {n: _Texts(where.offsets[places], where.lengths[places]) for n, where in self._texts.items()},
            self.end[places],
            self._lenient,
        )
        some._values = {number: chosen(values) for number, values in self._values.items()}
        some._unreadable = {number: mask[places] for number, mask in self._unreadable.items()}
        return some

    def materialize(self, numbers: Sequence[int]) -> None:
        """Make the values of columns, all in one polars query. Texts point into the block's buffer, nothing is copied.

        Lists and maps are read from their texts afterwards, column by column.

        Raises:
            UnreadableText: If a text is none of its column's type.
        """
        if not len(self._index):
            for number in numbers:
                self._values[number] = pl.Series(dtype=self._types[number].carrier)
            return
        inputs = {"m": self._messages}
        values: list[pl.Expr] = []
        for number in numbers:
            raw, type = self._slices(number, inputs), self._types[number]
            # What is masked is masked whole, and what is nested read, behind the query.
            made = raw if type.is_nested or self._maskers[number] is not None else to_carrier(raw, type)
            values.append(made.alias(str(number)))
        try:
            frame = pl.DataFrame(inputs).select(values)
        except pl.exceptions.ComputeError:  # bytes that are not UTF-8: from a database in SQL_ASCII, or damaged
            frame = pl.DataFrame([self._values_of_valid_utf8(number) for number in numbers])
        columns = dict(zip(numbers, frame, strict=True))
        columns |= self._nested_values(
            {n: s for n, s in columns.items() if self._types[n].is_nested and not self._maskers[n]}
        )
        for number, series in columns.items():
            self._store(number, series)

    def _store(self, number: int, series: pl.Series) -> None:
        """Keep the values of a column, after a look at whether all of its texts became one."""
        kinds, masker = self._kinds[number], self._maskers[number]
        if masker is not None:
            series = masker.column(series, self._types[number])
        nulls = 0 if kinds is None else int(np.count_nonzero(kinds != _TEXT))
        nulled = masker is not None and masker.mask.kind == "null"
        if not nulled and series.null_count() != nulls:
            wrong: Mask = series.is_null().to_numpy() & (True if kinds is None else kinds == _TEXT)
            if not self._lenient:
                place = int(wrong.argmax())
                raise UnreadableText(number, place, self._shown_text(number, place))
            self._unreadable[number] = wrong
        self._values[number] = series
        if not self._lenient:
            del self._texts[number]

    def _nested_values(self, texts: dict[int, pl.Series]) -> dict[int, pl.Series]:
        """Lists and maps from the texts of columns; of columns of one type together: each call has a cost of its
        own, whatever it reads."""
        values: dict[int, pl.Series] = {}
        for type in {self._types[number] for number in texts}:
            numbers = [number for number in texts if self._types[number] == type]
            try:
                together = read_texts(pl.concat([texts[number] for number in numbers]), type)
            except BadText:
                values |= {number: self._nested_values_one_by_one(number, texts[number]) for number in numbers}
                continue
            size = len(self._index)
            values |= {number: together.slice(place * size, size) for place, number in enumerate(numbers)}
        return values

    def _nested_values_one_by_one(self, number: int, texts: pl.Series) -> pl.Series:
        values, wrong = read_each(texts, self._types[number])
        if not self._lenient and wrong.any():
            place = int(wrong.arg_max() or 0)
            raise UnreadableText(number, place, self._shown_text(number, place))
        return values

    def _slices(self, number: int, inputs: dict[str, pl.Series]) -> pl.Expr:
        """A column's texts as an expression, `Binary`, null for what is no text; adds what it needs to `inputs`."""
        where, kinds = self._texts[number], self._kinds[number]
        inputs[f"o{number}"] = pl.Series(where.offsets - self._starts)
        inputs[f"l{number}"] = pl.Series(where.lengths)
        raw = pl.col("m").bin.slice(pl.col(f"o{number}"), pl.col(f"l{number}"))
        if kinds is None:
            return raw
        inputs[f"t{number}"] = pl.Series(kinds == _TEXT)
        return pl.when(pl.col(f"t{number}")).then(raw)

    def _raw_values(self, number: int) -> pl.Series:
        inputs = {"m": self._messages}
        raw = self._slices(number, inputs).alias(str(number))
        return pl.DataFrame(inputs).select(raw).to_series()

    def _values_of_valid_utf8(self, number: int) -> pl.Series:
        """A column's values where bytes may be no UTF-8; null for those."""
        raw = self._raw_values(number)
        if self._maskers[number] is not None or self._types[number].is_nested:
            return raw
        # To text and back: a null that hides bytes would be looked at by the next cast.
        texts = utf8(raw)
        if self._types[number].kind is Kind.BYTES:  # written in ASCII; read from the third byte on
            texts = texts.set(texts.str.len_bytes() != texts.str.len_chars(), None)
        valid = texts.cast(pl.Binary).alias("raw").to_frame()
        return valid.select(to_carrier(pl.col("raw"), self._types[number]).alias(str(number))).to_series()

    def _shown_text(self, column: int, place: int) -> str:
        if self._maskers[column] is not None:
            return HIDDEN
        return escaped(self._raw_value(column, place))

    def _raw_value(self, column: int, place: int) -> bytes:
        where = self._texts[column]
        offset, length = int(where.offsets[place] - self._starts[place]), int(where.lengths[place])
        return bytes(self._messages[place])[offset : offset + length]


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
    projection: Projection,
    index: Indexes,
    lenient: bool = False,
) -> TupleColumns:
    """Walk through the tuples that begin at `positions`, one of each message in `rows`.

    Args:
        block: The messages.
        messages: `message_series(block)`.
        rows: Numbers of messages in the block, shape (k,).
        positions: Offset in the block's buffer of each tuple's column count, shape (k,).
        types: Types of the wanted columns.
        projection: Which columns these are.
        index: What `TupleColumns.index` shall be, shape (k,).
        lenient: See `TupleColumns`.

    Raises:
        MalformedTuple: If a tuple runs past its message, or has other kinds or another number of columns.
    """
    starts, ends = block.starts[rows], block.ends[rows]
    kinds: list[_Kinds] = []
    texts: dict[int, _Texts] = {}
    if not len(rows):  # many batches have no old rows
        texts = {place: _Texts(starts, starts) for place in range(len(types))}
        none = messages.clear()
        return TupleColumns(
            index, none, starts, types, projection.maskers, [None] * len(types), texts, positions, lenient
        )
    # One read a value: the kind byte and the length behind it are the upper five bytes of eight.
    eight = unaligned(block.buffer, ">u8")
    try:
        counts = unaligned(block.buffer, ">u2")[positions]
        if (counts != projection.width).any():
            raise MalformedTuple
        position = positions + 2
        wanted = {number: place for place, number in enumerate(projection.numbers)}
        for number in range(projection.width):
            place = wanted.get(number)
            head = eight[position]
            kind = (head >> 56).astype(np.uint8)
            lengths = (head >> 24 & 0xFFFFFFFF).astype(np.int64)
            is_text = kind == _TEXT
            if is_text.all():
                if place is not None:
                    kinds.append(None)
                    texts[place] = _Texts(position + 5, lengths)
                position = position + lengths + 5
                continue
            if not (is_text | (kind == _NULL) | (kind == _UNCHANGED)).all():
                raise MalformedTuple
            lengths[~is_text] = 0
            if place is not None:
                kinds.append(kind)
                texts[place] = _Texts(np.where(is_text, position + 5, starts), lengths)
            position = position + lengths + np.where(is_text, 5, 1)
    except IndexError:
        raise MalformedTuple from None
    if (position > ends).any():
        raise MalformedTuple
    return TupleColumns(
        index, messages.gather(pl.Series(rows)), starts, types, projection.maskers, kinds, texts, position, lenient
    )
