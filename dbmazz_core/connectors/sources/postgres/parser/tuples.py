"""Row images whose values came as text.

The values of all columns are read in one polars query, from the places that `walk` has found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.arrow_series import series_of
from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.walk import Places
from dbmazz_core.connectors.sources.postgres.types.binary import read_texts as read_fields
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields
from dbmazz_core.connectors.sources.postgres.types.read import BadText, read_each, read_texts
from dbmazz_core.connectors.sources.postgres.types.scalars import to_carrier
from dbmazz_core.model.batch import Indexes, Mask, UnreadableText
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.masked_columns import masked, utf8
from dbmazz_core.model.masks import HIDDEN, Masker
from dbmazz_core.model.values import escaped

#: Average length in bytes from which texts stay where they are; `bin.slice` of polars copies them, and costs less for
#: shorter ones.
_LONG_BYTES = 32


class TupleColumns:
    """k tuples of one relation in one block. Implements `dbmazz_core.model.batch.RowImages`.

    Args:
        index: The batch's row of each image, int64, shape (k,).
        buffer: The block, uint8.
        messages: The k messages, dtype Binary.
        starts: Offset of each message in the block's buffer, int64, shape (k,).
        types: Types of the captured columns.
        maskers: Mask of each column, or None.
        columns: The places of each column's texts. They are forgotten once the values are read, unless
            `keep_unreadable`.
        keep_unreadable: Whether bad values are kept apart (`unreadable`, `texts`) instead of raising UnreadableText.
    """

    def __init__(
        self,
        index: Indexes,
        buffer: Bytes,
        messages: pl.Series,
        starts: Int64s,
        types: tuple[DataType, ...],
        maskers: tuple[Masker | None, ...],
        columns: Sequence[Places],
        keep_unreadable: bool = False,
    ) -> None:
        self._index = index
        self._buffer = buffer
        self._messages = messages
        self._starts = starts
        self._types = types
        self._maskers = maskers
        self._columns = [*columns]
        self._keep_unreadable = keep_unreadable
        self._values: dict[int, pl.Series] = {}
        self._unreadable: dict[int, Mask] = {}

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
        return self._columns[column].unknown

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`."""
        return self._keep_unreadable

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        self.values(column)
        return self._unreadable.get(column)

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        if not self._keep_unreadable:
            raise RuntimeError("texts are kept only where bad values are kept apart")
        raw, masker = self._raw_values(column), self._maskers[column]
        if masker is not None:
            return masked(masker, raw, self._types[column]).cast(pl.String)
        texts = utf8(raw)
        if texts.null_count() == raw.null_count():
            return texts
        shown = [None if value is None else escaped(value) for value in raw.to_list()]
        return pl.Series(texts.name, shown, dtype=pl.String)

    def take(self, places: Indexes) -> TupleColumns:
        """See `RowImages.take`."""
        return self._subset(self._index[places], places, lambda series: series.gather(places))

    def slice_rows(self, first: int, stop: int) -> TupleColumns:
        """Return the images of rows from `first` to before `stop`, renumbered from 0. They share this memory."""
        begin, end = np.searchsorted(self._index, [first, stop]).tolist()
        part = slice(begin, end)
        return self._subset(self._index[part] - first, part, lambda series: series.slice(begin, end - begin))

    def _subset(
        self, index: Indexes, places: Indexes | slice, chosen: Callable[[pl.Series], pl.Series]
    ) -> TupleColumns:
        """Return some images, for the rows `index`; `chosen` picks the same places of a series."""
        some = TupleColumns(
            index,
            self._buffer,
            chosen(self._messages),
            self._starts[places],
            self._types,
            self._maskers,
            [column.take(places) for column in self._columns],
            self._keep_unreadable,
        )
        some._values = {number: chosen(values) for number, values in self._values.items()}
        some._unreadable = {number: mask[places] for number, mask in self._unreadable.items()}
        return some

    def materialize(self, numbers: Sequence[int]) -> None:
        """Read the values of columns, all in one polars query.

        Long texts are not copied: they point into the block's buffer. Lists and maps are read from their texts
        afterwards.

        Raises:
            UnreadableText: A text is no value of its column's type, and `keep_unreadable` is false.
        """
        if not len(self._index):
            for number in numbers:
                self._values[number] = pl.Series(dtype=self._types[number].carrier)
            return
        inputs = {"m": self._messages}
        values: list[pl.Expr] = []
        for number in numbers:
            raw, type = self._slices(number, inputs), self._types[number]
            # Masks and lists need the whole text. They are applied behind the query.
            made = raw if type.is_nested or self._maskers[number] is not None else to_carrier(raw, type)
            values.append(made.alias(str(number)))
        try:
            found = _query(inputs, values)
        except pl.exceptions.ComputeError:  # bytes that are not UTF-8: from a database in SQL_ASCII, or damaged
            found = [self._values_of_valid_utf8(number) for number in numbers]
        columns = dict(zip(numbers, found, strict=True))
        columns |= self._nested_values(
            {n: s for n, s in columns.items() if self._types[n].is_nested and not self._maskers[n]}
        )
        for number, series in columns.items():
            self._store(number, series)

    def _store(self, number: int, series: pl.Series) -> None:
        """Keep the values of a column, after a check that each of its texts became a value."""
        present, masker = self._columns[number].present, self._maskers[number]
        if masker is not None:
            series = masked(masker, series, self._types[number])
        nulls = 0 if present is None else int(np.count_nonzero(~present))
        nulled = masker is not None and masker.mask.kind == "null"
        if not nulled and series.null_count() != nulls:
            wrong: Mask = series.is_null().to_numpy() & (True if present is None else present)
            if not self._keep_unreadable:
                place = int(wrong.argmax())
                raise UnreadableText(number, place, self._shown_text(number, place))
            self._unreadable[number] = wrong
        self._values[number] = series
        if not self._keep_unreadable:
            self._columns[number] = self._columns[number].read()

    def _nested_values(self, texts: dict[int, pl.Series]) -> dict[int, pl.Series]:
        """Read lists and maps from texts. Columns of one type are read together, as each call has a cost of its own."""
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
        if not self._keep_unreadable and wrong.any():
            place = int(wrong.arg_max() or 0)
            raise UnreadableText(number, place, self._shown_text(number, place))
        return values

    def _slices(self, number: int, inputs: dict[str, pl.Series]) -> pl.Expr:
        """Return a column's texts as a `Binary` expression, null where the value is no text; extend its `inputs`."""
        places = self._columns[number]
        if places.lengths.sum() >= _LONG_BYTES * len(places.lengths):
            fields = Fields(self._buffer, places.offsets, places.lengths, places.present)
            inputs[f"r{number}"] = read_fields(fields)
            return pl.col(f"r{number}")
        inputs[f"o{number}"] = pl.Series(np.maximum(places.offsets - self._starts, 0))
        inputs[f"l{number}"] = pl.Series(places.lengths)
        raw = pl.col("m").bin.slice(pl.col(f"o{number}"), pl.col(f"l{number}"))
        present = places.present
        if present is None:
            return raw
        inputs[f"t{number}"] = pl.Series(present)
        return pl.when(pl.col(f"t{number}")).then(raw)

    def _raw_values(self, number: int) -> pl.Series:
        inputs = {"m": self._messages}
        (raw,) = _query(inputs, [self._slices(number, inputs).alias(str(number))])
        return raw

    def _values_of_valid_utf8(self, number: int) -> pl.Series:
        """Return a column's values, with null where the bytes are not UTF-8."""
        raw = self._raw_values(number)
        if self._maskers[number] is not None or self._types[number].is_nested:
            return raw
        # To text and back to bytes: the next cast would also look at the bytes behind a null.
        texts = utf8(raw)
        if self._types[number].kind is Kind.BYTES:  # its text is ASCII, and `to_carrier` skips the first two bytes
            texts = texts.set(texts.str.len_bytes() != texts.str.len_chars(), None)
        valid = texts.cast(pl.Binary).alias("raw").to_frame()
        return valid.select(to_carrier(pl.col("raw"), self._types[number]).alias(str(number))).to_series()

    def _shown_text(self, column: int, place: int) -> str:
        if self._maskers[column] is not None:
            return HIDDEN
        return escaped(self._raw_value(column, place))

    def _raw_value(self, column: int, place: int) -> bytes:
        where = self._columns[column]
        offset, length = int(where.offsets[place] - self._starts[place]), int(where.lengths[place])
        return bytes(self._messages[place])[offset : offset + length]


def _query(inputs: dict[str, pl.Series], values: list[pl.Expr]) -> list[pl.Series]:
    """Return expressions over series. A single row gets nulls behind it: polars copies a single value at each step."""
    rows = len(inputs["m"])
    if rows == 1:
        inputs = {n: pl.concat([s, pl.Series([None], dtype=s.dtype)], rechunk=False) for n, s in inputs.items()}
    return [series.head(rows) for series in pl.DataFrame(inputs).select(values)]


def message_series(block: MessageBlock) -> pl.Series:
    """Return the block's messages as a `Binary` series, shape (n,), over the same memory."""
    bounds = np.append(block.starts, block.ends[-1:] if len(block) else np.zeros(1, np.int64))
    array = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(block), [None, pa.py_buffer(bounds), pa.py_buffer(block.buffer)]
    )
    return series_of(array)
