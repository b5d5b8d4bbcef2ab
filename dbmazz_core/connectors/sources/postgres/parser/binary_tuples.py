"""Row images whose values came in binary form, which needs no parsing of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s
from dbmazz_core.connectors.sources.postgres.parser.block import HEADER
from dbmazz_core.connectors.sources.postgres.parser.walk import Places
from dbmazz_core.connectors.sources.postgres.types.binary import Decoder
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields, MalformedValue
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import Indexes, Mask
from dbmazz_core.model.masked_columns import utf8
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import TextNeeded


class BinaryColumns:
    """k tuples of one relation in one block, with natural dtypes. Implements `dbmazz_core.model.batch.RowImages`.

    Args:
        index: The batch's row of each image, int64, shape (k,).
        buffer: The block, uint8.
        starts: Offset of each message in `buffer`, int64, shape (k,).
        schema: The table and its captured columns.
        decoders: Reads the values of each column; None: the column is NULL, whatever its values are.
        columns: The places of each column's values. They are forgotten once the values are read.
    """

    def __init__(
        self,
        index: Indexes,
        buffer: Bytes,
        starts: Int64s,
        schema: TableSchema,
        decoders: Sequence[Decoder | None],
        columns: Sequence[Places],
    ) -> None:
        self._index = index
        self._buffer = buffer
        self._starts = starts
        self._schema = schema
        self._decoders = decoders
        self._columns = [*columns]
        self._values: dict[int, pl.Series] = {}

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`.

        Raises:
            TextNeeded: The column's dtype cannot hold a value.
            ParseError: A value does not have the binary form of its type.
        """
        if column not in self._values:
            self._values[column] = self._read(column)
            self._columns[column] = self._columns[column].read()
        return self._values[column]

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        return self._columns[column].unknown

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`. A stream in binary form is not opened for tables with quarantine."""
        return False

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        return None

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        raise RuntimeError("texts are kept only where bad values are kept apart")

    def take(self, places: Indexes) -> BinaryColumns:
        """See `RowImages.take`."""
        return self._subset(self._index[places], places, lambda series: series.gather(places))

    def slice_rows(self, first: int, stop: int) -> BinaryColumns:
        """Return the images of rows from `first` to before `stop`, renumbered from 0. They share this memory."""
        begin, end = self._index.searchsorted([first, stop]).tolist()
        part = slice(begin, end)
        return self._subset(self._index[part] - first, part, lambda series: series.slice(begin, end - begin))

    def materialize(self, numbers: Sequence[int]) -> None:
        """Read the values of columns.

        Raises:
            TextNeeded: See `values`.
            ParseError: See `values`.
        """
        for number in numbers:
            self.values(number)

    def _subset(
        self, index: Indexes, places: Indexes | slice, chosen: Callable[[pl.Series], pl.Series]
    ) -> BinaryColumns:
        """Return some images, for the rows `index`; `chosen` picks the same places of a series."""
        columns = [column.take(places) for column in self._columns]
        some = BinaryColumns(index, self._buffer, self._starts[places], self._schema, self._decoders, columns)
        some._values = {number: chosen(values) for number, values in self._values.items()}
        return some

    def _read(self, column: int) -> pl.Series:
        definition, decoder, places = self._schema.columns[column], self._decoders[column], self._columns[column]
        dtype = definition.type.natural
        if decoder is None or not len(self._index):
            return pl.repeat(None, len(self._index), dtype=dtype, eager=True)
        try:
            series = decoder(Fields(self._buffer, places.offsets, places.lengths, places.present))
        except MalformedValue as error:
            raise self._malformed(column, error) from None
        if dtype == pl.String:
            values = utf8(series)
            if values.null_count() == series.null_count():
                return values
        elif series.dtype == dtype:
            return series
        raise TextNeeded(f"column {definition.name} of {self._schema.table} has a value that {dtype} cannot hold")

    def _malformed(self, column: int, error: MalformedValue) -> ParseError:
        start, at = int(self._starts[error.place]), int(self._columns[column].offsets[error.place])
        message = bytes(self._buffer[start : start + HEADER + 1])
        return ParseError(
            f"column {self._schema.columns[column].name} of {self._schema.table}: {error.detail}",
            message_type=chr(message[HEADER]),
            offset=at - start - HEADER,
            lsn=Lsn(int.from_bytes(message[1:9], "big")),
        )
