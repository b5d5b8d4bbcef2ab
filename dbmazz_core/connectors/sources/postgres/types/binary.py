"""Binary values to series: the form in which `COPY ... (FORMAT binary)` sends them, without any text.

A type is here only if its binary form gives exactly the value that DuckDB holds. Every other type arrives as the text
that its output function makes (`read`).

Some values of a type have no place in polars' dtype: NaN in a decimal, 24:00:00, times beyond the year 294246. A column
with such a value becomes PostgreSQL's texts, for this block of rows (docs/decisions/encoding-by-dtype.md), and DuckDB
reads or refuses them as it does those of the stream.

Sources: the send functions of PostgreSQL's types (numeric_send in numeric.c, timestamp_send in timestamp.c, jsonb_send
in jsonb.c, and so on), and the manual, "COPY", "Binary Format".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.arrow_series import series_of
from dbmazz_core.connectors.sources.postgres.octets import unaligned
from dbmazz_core.connectors.sources.postgres.types import date_texts
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields
from dbmazz_core.connectors.sources.postgres.types.binary_numeric import read_numerics
from dbmazz_core.connectors.sources.postgres.types.builtin import NUMERIC_OID
from dbmazz_core.model.datatypes import DataType, Kind

#: Days from 1970, where Arrow begins, to 2000, where PostgreSQL begins.
_EPOCH_DAYS = 10_957
_DAY_US = 86_400_000_000
_EPOCH_US = _EPOCH_DAYS * _DAY_US
_INT32, _INT64 = np.iinfo(np.int32), np.iinfo(np.int64)
_HEX_DIGITS = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), dtype="<u2")
#: By byte of a UUID: its place in the text, in bytes.
_UUID_PLACES = np.array([0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34])
_UUID_DASHES = [8, 13, 18, 23]


#: Reads the fields of a column.
Decoder = Callable[[Fields], pl.Series]


def decoder_of(type_oid: int, type: DataType, *, is_enum: bool = False, typed: bool = True) -> Decoder | None:
    """Return the function that reads the binary form of a type, or None if its text has to be sent.

    Args:
        type_oid: OID of the type; of the base type, for a domain.
        type: The core type of the column.
        is_enum: Whether the type is an enum, whose binary form is its label.
        typed: Whether dates, times and decimals may become series in their natural dtype.
    """
    if is_enum:
        return read_texts if type.kind is Kind.STRING else None
    if type_oid == NUMERIC_OID:
        return _decimals(type.precision or 0, type.scale or 0) if typed and type.kind is Kind.DECIMAL else None
    kind, decoder = _DECODERS.get(type_oid, (None, None))
    if kind is not type.kind or (not typed and type.natural != type.carrier):
        return None
    return decoder


def read_texts(fields: Fields) -> pl.Series:
    """Return the bytes of fields as texts, dtype `Binary`, shape (n,): they need not be UTF-8."""
    return _series(fields, pa.binary_view(), _views(fields), fields.buffer)


def _views(fields: Fields) -> npt.NDArray[np.uint32]:
    """Return Arrow's views of the fields (Arrow's columnar format, "Variable-size Binary View Layout")."""
    lengths, offsets = fields.lengths, fields.offsets
    words = unaligned(fields.buffer, "<u4")
    views = np.empty((len(offsets), 4), dtype=np.uint32)
    views[:, 0] = lengths
    is_short = lengths <= 12
    prefix = words[offsets]
    if not is_short.any():
        views[:, 1], views[:, 2], views[:, 3] = prefix, 0, offsets
        return views
    # A short field is held by its view, with zeros behind its end.
    for word in range(3):
        there = prefix if word == 0 else words[offsets + 4 * word]
        bits = np.clip(lengths - 4 * word, 0, 4).astype(np.uint64) * np.uint64(8)
        views[:, 1 + word] = there & ((np.uint64(1) << bits) - np.uint64(1)).astype(np.uint32)
    if not is_short.all():
        is_long = ~is_short
        views[is_long, 2], views[is_long, 3] = 0, offsets[is_long]
    return views


def _series(fields: Fields, type: pa.DataType, *buffers: npt.NDArray[np.generic]) -> pl.Series:
    """Return a series over buffers of values, with nulls where the fields are NULL."""
    nulls = None
    if fields.valid is not None:
        nulls = pa.py_buffer(np.packbits(fields.valid, bitorder="little"))
    array = pa.Array.from_buffers(type, len(fields.offsets), [nulls, *map(pa.py_buffer, buffers)])
    return series_of(array)


def _read_booleans(fields: Fields) -> pl.Series:
    fields.verify_length(1)
    return _series(fields, pa.bool_(), np.packbits(fields.buffer[fields.offsets] != 0, bitorder="little"))


def _numbers(dtype: str, type: pa.DataType) -> Decoder:
    """Return a decoder of numbers that are sent in network byte order."""
    size = np.dtype(dtype).itemsize

    def read(fields: Fields) -> pl.Series:
        fields.verify_length(size)
        return _series(fields, type, fields.numbers(dtype))

    return read


def _read_dates(fields: Fields) -> pl.Series:
    """Days since 2000, int32; the smallest and the largest are the infinities, in DuckDB too."""
    fields.verify_length(4)
    days = fields.numbers(">i4")
    found = days + np.int32(_EPOCH_DAYS)
    found[days == _INT32.max] = _INT32.max
    found[days == _INT32.min] = -_INT32.max
    return _series(fields, pa.date32(), found)


def _timestamps(type: pa.DataType, suffix: str) -> Decoder:
    """Return a decoder of microseconds since 2000, int64; the smallest and the largest are the infinities."""

    def read(fields: Fields) -> pl.Series:
        fields.verify_length(8)
        us = fields.numbers(">i8")
        endless, beginless = us == _INT64.max, us == _INT64.min
        if ((us >= _INT64.max - _EPOCH_US) & ~endless).any():
            return _as_texts(fields, [date_texts.timestamp(value, suffix) for value in us.tolist()])
        found = us + np.where(endless, 0, _EPOCH_US)
        found[beginless] = -_INT64.max
        return _series(fields, type, found)

    return read


def _read_times(fields: Fields) -> pl.Series:
    """Microseconds since midnight, int64."""
    fields.verify_length(8)
    us = fields.numbers(">i8")
    if (us >= _DAY_US).any():
        return _as_texts(fields, [date_texts.time(value) for value in us.tolist()])
    return _series(fields, pa.time64("us"), us)


def _read_uuids(fields: Fields) -> pl.Series:
    fields.verify_length(16)
    halves = unaligned(fields.buffer, "<u8")
    octets = np.stack([halves[fields.offsets], halves[fields.offsets + 8]], axis=1).view(np.uint8)
    texts = np.empty((len(octets), 36), dtype=np.uint8)
    texts[:, _UUID_DASHES] = ord("-")
    digits = _HEX_DIGITS[octets].view(np.uint8).reshape(-1, 16, 2)
    texts[:, _UUID_PLACES] = digits[:, :, 0]
    texts[:, _UUID_PLACES + 1] = digits[:, :, 1]
    ends = np.arange(0, 36 * (len(octets) + 1), 36, dtype=np.int64)
    return _series(fields, pa.large_string(), ends, texts.reshape(-1))


def _read_jsonb(fields: Fields) -> pl.Series:
    """A version, which is 1, and the text."""
    fields.verify((fields.buffer[fields.offsets] == 1) & (fields.lengths > 0), "jsonb of an unknown version")
    return read_texts(fields.without_first_byte())


def _decimals(precision: int, scale: int) -> Decoder:
    """Return a decoder of numerics with at most 38 digits."""

    def read(fields: Fields) -> pl.Series:
        halves, is_nan = read_numerics(fields, precision, scale)
        decimals = _series(fields, pa.decimal128(precision, scale), halves.reshape(-1))
        return decimals.cast(pl.String).set(pl.Series(is_nan), "NaN") if is_nan.any() else decimals

    return read


def _as_texts(fields: Fields, texts: list[str]) -> pl.Series:
    """Return texts as a series, with nulls where the fields are NULL."""
    series = pl.Series(texts, dtype=pl.String)
    return series if fields.valid is None else series.set(pl.Series(~fields.valid), None)


#: By OID: the kind of core type for which the decoder is right, and the decoder.
_DECODERS: dict[int, tuple[Kind, Decoder]] = {
    16: (Kind.BOOLEAN, _read_booleans),
    17: (Kind.BYTES, read_texts),
    19: (Kind.STRING, read_texts),  # name
    20: (Kind.INT64, _numbers(">i8", pa.int64())),
    21: (Kind.INT16, _numbers(">i2", pa.int16())),
    23: (Kind.INT32, _numbers(">i4", pa.int32())),
    25: (Kind.STRING, read_texts),  # text
    26: (Kind.UINT32, _numbers(">u4", pa.uint32())),  # oid
    28: (Kind.UINT32, _numbers(">u4", pa.uint32())),  # xid
    29: (Kind.UINT32, _numbers(">u4", pa.uint32())),  # cid
    114: (Kind.JSON, read_texts),
    700: (Kind.FLOAT32, _numbers(">f4", pa.float32())),
    701: (Kind.FLOAT64, _numbers(">f8", pa.float64())),
    1042: (Kind.STRING, read_texts),  # character
    1043: (Kind.STRING, read_texts),  # character varying
    1082: (Kind.DATE, _read_dates),
    1083: (Kind.TIME, _read_times),
    1114: (Kind.TIMESTAMP, _timestamps(pa.timestamp("us"), "")),
    1184: (Kind.TIMESTAMPTZ, _timestamps(pa.timestamp("us", "UTC"), "+00")),
    2950: (Kind.UUID, _read_uuids),
    3802: (Kind.JSONB, _read_jsonb),
}
