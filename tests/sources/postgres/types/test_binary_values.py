"""Binary values that are not what their type sends: an error, not another value."""

from __future__ import annotations

import struct
from datetime import date
from decimal import Context, Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.types.binary import decoder_of
from dbmazz_core.connectors.sources.postgres.types.binary_fields import BEHIND, Fields, MalformedValue
from dbmazz_core.model.datatypes import DataType, Kind

NUMERIC, JSONB, UUID = 1700, 3802, 2950


def fields_of(values: list[bytes | None]) -> Fields:
    lengths = np.array([len(value or b"") for value in values], dtype=np.int64)
    ends = np.cumsum(lengths)
    valid = np.array([value is not None for value in values], dtype=np.bool_)
    buffer = np.frombuffer(b"".join(value or b"" for value in values) + bytes(BEHIND), dtype=np.uint8)
    offsets = np.where(valid, ends - lengths, 0)
    return Fields(buffer, offsets, lengths, None if valid.all() else valid)


def decoded(oid: int, type: DataType, *values: bytes | None) -> pl.Series:
    decoder = decoder_of(oid, type)
    assert decoder is not None
    return decoder(fields_of(list(values)))


def numeric(*digits: int, weight: int = 0, sign: int = 0, scale: int = 2) -> bytes:
    return struct.pack(f">hhHH{len(digits)}H", len(digits), weight, sign, scale, *digits)


DECIMAL = DataType(Kind.DECIMAL, 6, 2)


@pytest.mark.parametrize(
    ("oid", "type", "value", "detail"),
    [
        (16, DataType(Kind.BOOLEAN), b"\1\1", "1 bytes"),
        (21, DataType(Kind.INT16), b"\0\0\0", "2 bytes"),
        (23, DataType(Kind.INT32), b"", "4 bytes"),
        (20, DataType(Kind.INT64), b"\0\0\0\0", "8 bytes"),
        (701, DataType(Kind.FLOAT64), bytes(9), "8 bytes"),
        (1082, DataType(Kind.DATE), bytes(8), "4 bytes"),
        (1083, DataType(Kind.TIME), bytes(12), "8 bytes"),
        (1114, DataType(Kind.TIMESTAMP), bytes(4), "8 bytes"),
        (1184, DataType(Kind.TIMESTAMPTZ), bytes(7), "8 bytes"),
        (UUID, DataType(Kind.UUID), bytes(15), "16 bytes"),
        (JSONB, DataType(Kind.JSONB), b"\2{}", "unknown version"),
        (JSONB, DataType(Kind.JSONB), b"", "unknown version"),
        (NUMERIC, DECIMAL, numeric(1)[:-1], "does not fit its digits"),
        (NUMERIC, DECIMAL, numeric(1) + b"\0\0", "does not fit its digits"),
        (NUMERIC, DECIMAL, struct.pack(">hhHH", -4, 0, 0, 0), "does not fit its digits"),
        (NUMERIC, DECIMAL, numeric(10_000), "more digits than its type"),
        (NUMERIC, DECIMAL, numeric(1, weight=9), "more digits than its type"),
        (NUMERIC, DECIMAL, numeric(1, weight=-3), "more digits than its type"),
        (NUMERIC, DataType(Kind.DECIMAL, 38, 0), numeric(100, weight=9), "more digits than its type"),
        (NUMERIC, DECIMAL, numeric(2, 0, weight=1), "more digits than its type"),
        (NUMERIC, DECIMAL, numeric(1, sign=0x1234), "impossible sign"),
        (NUMERIC, DECIMAL, b"", "does not fit its digits"),
    ],
)
def test_a_malformed_value_is_refused(oid: int, type: DataType, value: bytes, detail: str) -> None:
    good = numeric(1) if oid == NUMERIC else b"\1{}" if oid == JSONB else None
    with pytest.raises(MalformedValue, match=detail) as caught:
        decoded(oid, type, None, good, value)
    assert caught.value.place == 2


@st.composite
def columns_of_decimals(draw: st.DrawFn) -> tuple[DataType, list[Decimal | None]]:
    precision = draw(st.integers(1, 38))
    scale = draw(st.integers(0, precision))
    most = 10**precision - 1
    numbers = st.one_of(st.none(), st.integers(-most, most), st.sampled_from([most, -most, 0, 1, most // 7]))
    values = draw(st.lists(numbers, min_size=1, max_size=30))
    context = Context(prec=38)
    type = DataType(Kind.DECIMAL, precision, scale)
    return type, [None if value is None else Decimal(value).scaleb(-scale, context) for value in values]


def sent(value: Decimal) -> bytes:
    """As numeric_send writes a value: groups of four digits around the decimal point, without zeros at either end."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    number = int("".join(map(str, digits))) * 10 ** (40 + exponent)  # forty decimal places
    groups = [number // 10_000**power % 10_000 for power in range(20, -1, -1)]
    weight = 10
    while groups and not groups[0]:
        groups, weight = groups[1:], weight - 1
    while groups and not groups[-1]:
        groups.pop()
    return numeric(*groups, weight=weight if groups else 0, sign=0x4000 if sign else 0)


@settings(deadline=None)
@given(columns_of_decimals())
def test_decimals(column: tuple[DataType, list[Decimal | None]]) -> None:
    type, values = column
    found = decoded(NUMERIC, type, *(None if value is None else sent(value) for value in values))
    assert found.to_list() == values
    assert found.dtype == type.natural


def test_values_that_polars_cannot_hold_are_texts() -> None:
    end = 9_223_371_331_200_000_000 - 1
    timestamps = decoded(1184, DataType(Kind.TIMESTAMPTZ), struct.pack(">q", end), None, struct.pack(">q", 0))
    assert timestamps.to_list() == ["294276-12-31 23:59:59.999999+00", None, "2000-01-01 00:00:00+00"]
    times = decoded(1083, DataType(Kind.TIME), struct.pack(">q", 86_400_000_000), struct.pack(">q", 1), None)
    assert times.to_list() == ["24:00:00", "00:00:00.000001", None]
    decimals = decoded(NUMERIC, DECIMAL, numeric(sign=0xC000), numeric(12, 3400), None)
    assert decimals.to_list() == ["NaN", "12.34", None]
    assert {timestamps.dtype, times.dtype, decimals.dtype} == {pl.String}


@pytest.mark.parametrize(
    ("oid", "type"),
    [(1083, DataType(Kind.TIME)), (1114, DataType(Kind.TIMESTAMP)), (1184, DataType(Kind.TIMESTAMPTZ))],
)
def test_bytes_of_others_where_a_field_is_null_mean_nothing(oid: int, type: DataType) -> None:
    """The offset of a NULL points to the beginning of the block, where there is something else."""
    buffer = np.frombuffer(b"\x7f" + b"\xff" * 7 + struct.pack(">q", 1) + bytes(BEHIND), dtype=np.uint8)
    valid = np.array([False, True])
    decoder = decoder_of(oid, type)
    assert decoder is not None
    found = decoder(Fields(buffer, np.array([0, 8]), np.array([0, 8]), valid))
    assert found.dtype == type.natural
    assert found.null_count() == 1


def test_ordinary_values_are_typed() -> None:
    assert decoded(1082, DataType(Kind.DATE), struct.pack(">i", 1), None).to_list() == [date(2000, 1, 2), None]
    (uuid,) = decoded(UUID, DataType(Kind.UUID), bytes(range(16)))
    assert uuid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    assert decoded(JSONB, DataType(Kind.JSONB), b'\1{"a": 1}', None).to_list() == [b'{"a": 1}', None]


@pytest.mark.parametrize("typed", [True, False])
def test_a_type_with_another_core_type_is_sent_as_text(typed: bool) -> None:
    """An integer that is kept as text, a numeric without precision, a type that has no decoder."""
    assert decoder_of(23, DataType(Kind.STRING), typed=typed) is None
    assert decoder_of(NUMERIC, DataType(Kind.STRING), typed=typed) is None
    assert decoder_of(869, DataType(Kind.STRING), typed=typed) is None
    assert (decoder_of(1082, DataType(Kind.DATE), typed=typed) is not None) is typed
