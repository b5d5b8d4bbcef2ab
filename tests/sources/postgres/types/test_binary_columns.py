"""Which columns a stream has in binary format, and what becomes of bytes that are no values."""

from __future__ import annotations

import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.types import BuiltinTypes, ColumnOfType
from dbmazz_core.connectors.sources.postgres.types.binary import Decoder
from dbmazz_core.connectors.sources.postgres.types.binary_columns import NoBinaryForm, stream_decoder
from dbmazz_core.connectors.sources.postgres.types.binary_fields import BEHIND, Fields, MalformedValue
from dbmazz_core.connectors.sources.postgres.types.resolve import BaseType
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.masks import Mask, Masker
from dbmazz_core.model.schema import ColumnDef
from dbmazz_core.model.stream import TextNeeded
from dbmazz_core.table_ref import TableRef
from tests.support.binary_values import binary
from tests.support.examples import examples

TYPES = BuiltinTypes()
INTEGERS, TEXTS, NUMERIC, INTERVAL = 1007, 1009, 1700, 1186


def decoder_of(oid: int, modifier: int = -1) -> tuple[Decoder, DataType]:
    (column,) = TYPES.columns(TableRef("public", "t"), 0, [ColumnOfType("c", oid, modifier)])
    decoder = stream_decoder(column, TYPES.base(oid), None)
    assert decoder is not None
    return decoder, column.type


def fields_of(*values: bytes | None) -> Fields:
    lengths = np.array([len(value or b"") for value in values], dtype=np.int64)
    valid = np.array([value is not None for value in values], dtype=np.bool_)
    offsets = np.where(valid, np.cumsum(lengths) - lengths, 0)
    buffer = np.frombuffer(b"".join(value or b"" for value in values) + bytes(BEHIND), dtype=np.uint8)
    return Fields(buffer, offsets, lengths, None if valid.all() else valid)


@pytest.mark.parametrize(
    ("type", "base", "mask"),
    [
        (DataType(Kind.STRING), BaseType(869), None),  # inet
        (DataType(Kind.STRING), BaseType(23), None),  # an integer that is kept as text
        (DataType(Kind.FLOAT64), BaseType(NUMERIC), None),  # a numeric that is kept as a double
        (DataType(Kind.MAP), BaseType(99_999), None),
        (DataType.list_of(DataType(Kind.INT32), depth=2), BaseType(INTEGERS, element=BaseType(23)), None),
        (DataType.list_of(DataType(Kind.STRING)), BaseType(1041, element=BaseType(869)), None),  # inet[]
        (DataType(Kind.STRING), BaseType(25), Mask("hash")),
        (DataType(Kind.STRING), BaseType(25), Mask("truncate", 3)),
    ],
)
def test_what_needs_text(type: DataType, base: BaseType, mask: Mask | None) -> None:
    masker = None if mask is None else Masker(mask, "a secret")
    with pytest.raises(NoBinaryForm):
        stream_decoder(ColumnDef("c", type, "a type"), base, masker)


def test_values_that_a_mask_makes_null_are_not_read() -> None:
    assert stream_decoder(ColumnDef("c", DataType(Kind.STRING), "inet"), BaseType(869), Masker(Mask("null"))) is None


def test_the_text_of_a_type_like_citext() -> None:
    decoder = stream_decoder(ColumnDef("c", DataType(Kind.STRING), "citext"), BaseType(99_999, sends_text=True), None)
    assert decoder is not None
    assert decoder(fields_of(b"Ab", None)).to_list() == [b"Ab", None]


@pytest.mark.parametrize(
    ("oid", "value", "detail"),
    [
        (INTEGERS, struct.pack(">iii", 0, 0, 23) + b"\0", "does not fit its dimensions"),
        (INTEGERS, struct.pack(">iii", 1, 0, 23), "does not fit its dimensions"),
        (INTEGERS, struct.pack(">iii", -1, 0, 23), "negative number of dimensions"),
        (INTEGERS, struct.pack(">iiiii", 1, 0, 23, -1, 1), "impossible number"),
        (INTEGERS, struct.pack(">iiiii", 1, 0, 23, 2**30, 1), "impossible number"),
        (INTEGERS, struct.pack(">iiiii", 1, 0, 23, 2, 1) + binary(INTEGERS, "{1}")[20:], "ends behind its array"),
        (INTEGERS, struct.pack(">iiiiiih", 1, 0, 23, 1, 1, 2, 7), "in an array, a value has not 4 bytes"),
        (INTEGERS, binary(INTEGERS, "{1,2}") + b"\0", "ends behind its array"),
        (TEXTS, struct.pack(">iiiiii", 1, 0, 25, 1, 1, -2), "ends behind its array"),
        (TEXTS, struct.pack(">iiiiii", 1, 0, 25, 1, 1, 9), "ends behind its array"),
        (NUMERIC, struct.pack(">HhHH", 2, 0, 0, 0), "does not fit its digits"),
        (NUMERIC, struct.pack(">HhHHH", 1, 0, 0x1000, 0, 1), "impossible sign"),
        (NUMERIC, struct.pack(">HhHHH", 1, 0, 0, 0, 0), "begins with a zero"),
        (NUMERIC, struct.pack(">HhHHH", 1, 0, 0, 0, 10_000), "impossible digit"),
        (INTERVAL, bytes(17), "has not 16 bytes"),
    ],
)
@pytest.mark.parametrize("beside", [0, 20], ids=["alone", "among others"])
def test_a_malformed_value_is_refused(oid: int, value: bytes, detail: str, beside: int) -> None:
    """Among others, elements are found for all arrays at once."""
    good = {INTEGERS: "{1,NULL}", TEXTS: "{a,b,NULL}", NUMERIC: "1.50"}.get(oid)
    others = [bytes(16) if good is None else binary(oid, good)] * beside
    decoder, _ = decoder_of(oid)
    with pytest.raises(MalformedValue, match=detail) as caught:
        decoder(fields_of(None, *others, value, None))
    assert caught.value.place == 1 + beside


@pytest.mark.parametrize("oid", [INTEGERS, TEXTS, NUMERIC, INTERVAL, 1182, 1231])
@examples(40)
@given(data=st.data())
def test_any_bytes_are_values_or_refused(oid: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | st.binary(max_size=40), min_size=1, max_size=12))
    decoder, type = decoder_of(oid)
    try:
        found = decoder(fields_of(*values))
    except (MalformedValue, TextNeeded):
        return
    assert len(found) == len(values)
    assert found.dtype in (type.natural, pl.Binary)


texts = st.sampled_from(["a", '"b, c"', '""', "NULL", '"NULL"', '"ä\\"\\\\"', '"' + "x" * 30 + '"'])


@examples(60)
@given(st.lists(st.none() | st.lists(texts, max_size=8), min_size=1, max_size=40))
def test_arrays_of_texts(rows: list[list[str] | None]) -> None:
    decoder, _ = decoder_of(TEXTS)
    sent = [None if row is None else binary(TEXTS, "{" + ",".join(row) + "}") for row in rows]
    unquoted = {"NULL": None} | {
        text: text.strip('"').replace('\\"', '"').replace("\\\\", "\\")
        for text in ("a", '"b, c"', '""', '"NULL"', '"ä\\"\\\\"', '"' + "x" * 30 + '"')
    }
    expected = [None if row is None else [unquoted[text] for text in row] for row in rows]
    found = decoder(fields_of(*sent))
    assert found.dtype == pl.List(pl.String)
    assert found.to_list() == expected


@examples(100)
@given(
    st.lists(
        st.none()
        | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
        | st.sampled_from(["NaN", "Infinity", "-Infinity"]),
        min_size=1,
        max_size=20,
    )
)
def test_numerics_without_precision(numbers: list[object]) -> None:
    shown = [
        None if number is None else str(number) if isinstance(number, str) else f"{number:f}" for number in numbers
    ]
    shown = [text if text is None or text.strip("-0.") else text.removeprefix("-") for text in shown]
    decoder, _ = decoder_of(NUMERIC)
    found = decoder(fields_of(*(None if text is None else binary(NUMERIC, text) for text in shown)))
    assert found.to_list() == shown


def test_what_polars_cannot_hold_needs_text() -> None:
    integers, _ = decoder_of(INTEGERS)
    with pytest.raises(TextNeeded, match="several dimensions"):
        integers(fields_of(struct.pack(">iiiiiii", 2, 0, 23, 1, 1, 1, 1) + struct.pack(">ii", 4, 7)))
    times, _ = decoder_of(1183)
    with pytest.raises(TextNeeded, match="an element"):
        times(fields_of(struct.pack(">iiiiiiq", 1, 0, 1083, 1, 1, 8, 86_400_000_000)))
    intervals, _ = decoder_of(INTERVAL)
    with pytest.raises(TextNeeded, match="infinite"):
        intervals(fields_of(struct.pack(">qii", 2**63 - 1, 2**31 - 1, 2**31 - 1)))


def test_a_long_array_beside_short_ones() -> None:
    """Its elements are found one by one once the others have ended."""
    decoder, _ = decoder_of(TEXTS)
    long = [f"t{number}" for number in range(3000)]
    rows = [["a"]] * 20 + [long]
    found = decoder(fields_of(*(binary(TEXTS, "{" + ",".join(row) + "}") for row in rows)))
    assert found.to_list() == rows
