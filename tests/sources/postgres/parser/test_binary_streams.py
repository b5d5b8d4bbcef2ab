"""One stream as text and in binary format: both decoders read it, and the values are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.decoder import Decoder
from dbmazz_core.connectors.sources.postgres.parser.framing import frame
from dbmazz_core.connectors.sources.postgres.parser.messages import BinaryValue, OldKey, Relation
from dbmazz_core.connectors.sources.postgres.parser.parser import parse
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import ChangeBatch, RowImages
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.stream import StreamFormat, TableEvent, TextNeeded
from dbmazz_core.model.unchanged import UNCHANGED
from tests.support import pgoutput_encoder as encode
from tests.support.binary_values import binary, days, time_us, timestamp_us
from tests.support.examples import examples
from tests.support.pgoutput_streams import Stream, Table, streams

TEXT = StreamFormat("a test")
#: Types that come as text (the first), and one whose text is written otherwise in binary format.
AS_TEXT = {(790, -1), (1266, -1), (1186, -1)}
#: Texts of values that polars' dtype cannot hold.
NEED_TEXT = {(1083, -1): "24:00:00", (1700, ((12 << 16) | 2) + 4): "NaN", (1114, -1): "294276-12-31 23:59:59.999999"}
_EPOCH_DAYS, _EPOCH_US = 10_957, 10_957 * 86_400_000_000


def in_both_formats(stream: Stream) -> tuple[Stream, Stream, bool]:
    """The stream as text and in binary format, and whether it has a value that needs text."""
    text, other = replace(stream, messages=[], positions=[]), replace(stream, messages=[], positions=[])
    kinds: dict[int, list[tuple[int, int]]] = {}
    needed = False
    for position, payload in zip(stream.positions, stream.messages, strict=True):
        message: Any = parse(payload, Lsn(position))
        forms = payload, payload
        if isinstance(message, Relation):
            columns = [
                replace(column, type_oid=25, type_modifier=-1)
                if (column.type_oid, column.type_modifier) in AS_TEXT
                else column
                for column in message.columns
            ]
            kinds[message.oid] = [(column.type_oid, column.type_modifier) for column in columns]
            described = [(c.is_key, c.name, c.type_oid, c.type_modifier) for c in columns]
            forms = (
                encode.relation(message.oid, message.schema, message.name, message.replica_identity, described),
            ) * 2
        elif payload[:1] in b"IUD":
            of = kinds[message.relation_oid]
            new, old = getattr(message, "new", None), getattr(message, "old", None)
            rows = [
                [plain_text(kind, value) for kind, value in zip(of, row, strict=True)]
                for row in (new, old and old.values)
                if row
            ]
            needed |= any(
                NEED_TEXT.get(kind, "").encode() == value for row in rows for kind, value in zip(of, row, strict=True)
            )
            key = isinstance(old, OldKey)
            forms = tuple(
                row_message(message, key, of, new and rows[0], old and rows[-1], sent) for sent in (as_text, as_binary)
            )
            parsed: Any = parse(forms[1], Lsn(position))  # the plain parser reads both
            if new:
                assert parsed.new == tuple(as_binary(kind, value) for kind, value in zip(of, rows[0], strict=True))
        text.add(position, forms[0])
        other.add(position, forms[1])
    return text, other, needed


def plain_text(kind: tuple[int, int], value: encode.Value) -> encode.Value:
    """Numerics as PostgreSQL writes them, without exponents."""
    if kind != (1700, -1) or not isinstance(value, bytes) or value in (b"NaN", b"Infinity"):
        return value
    number = Decimal(value.decode())
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)
    text = f"{number:f}" if abs(exponent) < 100 else "0"
    return (text.removeprefix("-") if not number else text).encode()


def as_text(kind: tuple[int, int], value: encode.Value) -> encode.Value:
    return value


def as_binary(kind: tuple[int, int], value: encode.Value) -> encode.Value:
    return BinaryValue(binary(kind[0], value.decode())) if isinstance(value, bytes) else value


def row_message(message: Any, key: bool, kinds: list[tuple[int, int]], new: Any, old: Any, sent: Any) -> bytes:
    new, old = (
        [sent(kind, value) for kind, value in zip(kinds, row, strict=True)] if row else None for row in (new, old)
    )
    oid, images = message.relation_oid, {"key" if key else "old": old}
    match type(message).__name__:
        case "Insert":
            return encode.insert(oid, new)
        case "Update":
            return encode.update(oid, new, **images)
        case _:
            return encode.delete(oid, **images)


def events(stream: Stream, blocks: list[MessageBlock], format: StreamFormat) -> Iterator[TableEvent]:
    keys = {t.ref: tuple(name for is_key, name, _ in t.columns if is_key) for t in stream.tables[1:]}
    decoder = Decoder(Relations(captured=keys.__contains__, keys=keys, format=format), start_lsn=INVALID_LSN)
    opened = None
    for block in blocks:
        framed = frame(block, opened)
        opened = framed.open
        yield from decoder.decode(framed, 0, len(block))


def assert_same_values(text: pl.Series, typed: pl.Series, type: DataType) -> None:
    assert typed.dtype == type.natural
    if type.natural == type.carrier:
        assert text.equals(typed, null_equal=True), (text, typed)
        return
    if type.kind is Kind.LIST:
        expected = [None if row is None else [physical(item, type.leaf) for item in row] for row in text.to_list()]
        assert typed.cast(pl.List(pl.Int32)).to_list() == expected
        return
    found = typed.to_list() if type.kind is Kind.DECIMAL else typed.to_physical().to_list()
    assert found == [physical(value, type) for value in text.to_list()]


def physical(text: str | None, type: DataType) -> int | Decimal | None:
    """What polars holds for a text; an infinity is the largest number, with its sign."""
    if text is None:
        return None
    match type.kind:
        case Kind.DECIMAL:
            return Decimal(text)
        case Kind.TIME:
            return time_us(text) * 1000
        case Kind.DATE:
            limit, value, epoch = 2**31 - 1, days(text), _EPOCH_DAYS
        case _:
            limit, epoch = 2**63 - 1, _EPOCH_US
            value = timestamp_us(text.removesuffix("+00").replace("+00 BC", " BC"))
    return max(min(value + epoch, limit), -limit) if abs(value) < limit else limit if value > 0 else -limit


@examples(100)
@given(streams(), st.lists(st.integers(1, 12), max_size=6))
def test_text_and_binary_format_bring_the_same_values(stream: Stream, sizes: list[int]) -> None:
    text, other, needed = in_both_formats(stream)
    told = list(events(text, text.blocks(sizes), TEXT))
    try:
        typed = list(events(other, other.blocks(sizes), StreamFormat()))
        assert len(told) == len(typed)
        for one, two in zip(told, typed, strict=True):
            if not isinstance(one, ChangeBatch):
                assert one == two
                continue
            assert isinstance(two, ChangeBatch)
            assert (one.is_typed, two.is_typed, one.schema) == (False, True, two.schema)
            assert one.ops.tolist() == two.ops.tolist()
            assert one.old_is_key.tolist() == two.old_is_key.tolist()
            images: list[tuple[RowImages, RowImages]] = [(one.new, two.new), (one.old, two.old)]
            for mine, theirs in images:
                assert mine.index.tolist() == theirs.index.tolist()
                for number, column in enumerate(one.schema.columns):
                    unknown = [
                        None if mask is None else mask.tolist()
                        for mask in (mine.unknown(number), theirs.unknown(number))
                    ]
                    assert unknown[0] == unknown[1]
                    assert_same_values(mine.values(number), theirs.values(number), column.type)
    except TextNeeded:
        assert needed


def one_row(kind: tuple[int, int], *values: encode.Value) -> Stream:
    table = Table(1, "d", ((True, "id", (23, -1)), (False, "v", kind)))
    stream = Stream([Table(9999, "d", ()), table])
    rows = [encode.insert(1, [BinaryValue(number.to_bytes(4, "big")), value]) for number, value in enumerate(values)]
    for payload in (encode.begin(100, 0, 7), table.description, *rows, encode.commit(100, 101, 0)):
        stream.add(100, payload)
    return stream


@pytest.mark.parametrize(
    ("kind", "value", "detail"),
    [
        ((23, -1), b"\0\0\0", "has not 4 bytes"),
        ((1700, ((12 << 16) | 2) + 4), b"\0\1\0\0\x12\x34\0\0\0\1", "impossible sign"),
        ((3802, -1), b"\2{}", "unknown version"),
        ((1007, -1), bytes(11), "ends within its header"),
        ((1700, -1), b"\0\1\0\0\0\0\0\0\x27\x10", "impossible digit"),
        ((1186, -1), bytes(15), "has not 16 bytes"),
    ],
)
def test_a_malformed_value_names_its_message_and_its_column(kind: tuple[int, int], value: bytes, detail: str) -> None:
    stream = one_row(kind, None, BinaryValue(value))
    with pytest.raises(ParseError, match=detail) as caught:
        list(events(stream, stream.blocks([]), StreamFormat()))
    assert "column v of public.t1" in caught.value.what
    assert (caught.value.message_type, caught.value.lsn) == ("I", Lsn(100))
    assert caught.value.offset == 1 + 4 + 1 + 2 + 9 + 5


@pytest.mark.parametrize("format", [TEXT, StreamFormat()])
def test_a_value_in_the_other_format_is_refused(format: StreamFormat) -> None:
    value: encode.Value = BinaryValue(b"\0\0\0\1") if format == TEXT else b"1"
    table = Table(1, "d", ((True, "id", (23, -1)),))
    stream = Stream([Table(9999, "d", ()), table])
    for payload in (encode.begin(100, 0, 7), table.description, encode.insert(1, [value]), encode.commit(100, 101, 0)):
        stream.add(100, payload)
    with pytest.raises(ParseError):
        list(events(stream, stream.blocks([]), format))


def test_values_that_were_not_sent_are_unknown() -> None:
    table = Table(1, "d", ((True, "id", (23, -1)), (False, "v", (1184, -1))))
    stream = Stream([Table(9999, "d", ()), table])
    update = encode.update(1, [BinaryValue(b"\0\0\0\1"), UNCHANGED])
    for payload in (encode.begin(100, 0, 7), table.description, update, encode.commit(100, 101, 0)):
        stream.add(100, payload)
    _, batch = events(stream, stream.blocks([]), StreamFormat())
    assert isinstance(batch, ChangeBatch)
    mask = batch.new.unknown(1)
    assert mask is not None
    assert mask.tolist() == [True]
    assert batch.new.values(1).to_list() == [None]
    assert batch.new.values(1).dtype == pl.Datetime("us", "UTC")
