"""The columnar decoder against the plain one: over generated streams both give the same records."""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.catalog.relation_description import RelationDescription
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.decoder import Decoder
from dbmazz_core.connectors.sources.postgres.parser.framing import frame
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.errors import BadValue, DataError, ParseError, UnknownValue
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.records import Delete, Insert, SchemaChange, Truncate, Update
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import NewSchema, Truncation
from dbmazz_core.model.unchanged import UNCHANGED
from dbmazz_core.table_ref import TableRef
from tests.support import pgoutput_encoder as encode
from tests.support.examples import examples
from tests.support.pgoutput_streams import Stream, Table, streams

#: By table, in stream order: what happened, each event as text (NaN is unequal to itself, 1 is equal to True).
Story = dict[TableRef, list[str]]


NOT_IN_THE_STREAM = Table(9999, "d", ())


class NoMoreBlocks(Exception):
    pass


def relations(stream: Stream) -> Relations:
    """Of all tables but the first; the key of those with REPLICA IDENTITY FULL comes from the catalog."""
    keys = {t.ref: tuple(name for is_key, name, _ in t.columns if is_key) for t in stream.tables[1:]}
    return Relations(captured=keys.__contains__, keys=keys)


def plain(stream: Stream, blocks: list[MessageBlock], start: Lsn, table_start: dict[TableRef, Lsn]) -> Story:
    story: Story = defaultdict(list)
    records = RecordStream(relations(stream), start, table_start)
    left = iter(blocks)

    def next_block() -> MessageBlock:
        for block in left:
            return block
        raise NoMoreBlocks

    with contextlib.suppress(NoMoreBlocks):
        for record in records.records(next_block):
            match record:
                case Insert() | Update() | Delete():
                    story[record.table].append(repr(record))
                case Truncate(tables, _, _, position):
                    for table in tables:
                        story[table].append(repr(Truncation(table, position)))
                case SchemaChange(table, _, new, position):
                    story[table].append(repr(NewSchema(new, position.commit_lsn, position.xid)))
    return story


def columnar(
    stream: Stream, blocks: list[MessageBlock], start: Lsn, table_start: dict[TableRef, Lsn], cuts: list[float]
) -> Story:
    story: Story = defaultdict(list)
    described: dict[int, TableSchema] = {}
    for event in events(stream, blocks, start, table_start, cuts):
        if isinstance(event, ChangeBatch):
            records = list(event.records())
            assert len(records) == len(event)
            story[event.table] += map(repr, records)
            assert_frame_agrees(event)
        elif isinstance(event, NewSchema):
            # Described again as it was: no record, but an event.
            assert isinstance(event.description, RelationDescription)
            relation = event.description.relation
            if described.get(relation) != event.schema:
                story[event.table].append(repr(event))
            described[relation] = event.schema
        else:
            story[event.table].append(repr(event))
    return story


def events(
    stream: Stream, blocks: list[MessageBlock], start: Lsn, table_start: dict[TableRef, Lsn], cuts: list[float]
) -> Iterator[ChangeBatch | Truncation | NewSchema]:
    decoder = Decoder(relations(stream), start_lsn=start, table_start=table_start)
    open_transaction = None
    for block in blocks:
        framed = frame(block, open_transaction)
        open_transaction = framed.open
        bounds = sorted({0, len(block), *(int(cut * len(block)) for cut in cuts)})
        while len(bounds) > 2:
            begin, cut, end, *_ = bounds
            for part in decoder.decode_split(framed, begin, cut, end):
                yield from part
            del bounds[:2]
        for begin, end in itertools.pairwise(bounds):
            yield from decoder.decode(framed, begin, end)


def assert_frame_agrees(batch: ChangeBatch) -> None:
    """The frame of a batch says what its columns say."""
    frame = batch.frame()
    assert frame.height == len(batch)
    assert frame["commit_lsn"].to_list() == batch.commit_lsn.tolist()
    assert frame["ordinal"].to_list() == batch.ordinal.tolist()
    for name, images in (("new", batch.new), ("old", batch.old)):
        struct = frame[name]
        assert np.flatnonzero(struct.is_not_null().to_numpy()).tolist() == images.index.tolist()
        for number, column in enumerate(batch.schema.columns):
            values = struct.struct.field(column.name).gather(images.index)
            assert values.dtype == column.type.carrier
            assert values.equals(batch.values(images, number).alias(column.name), null_equal=True)
    unchanged = [
        [name for name, value in record.new_columns.items() if value is UNCHANGED] if isinstance(record, Update) else []
        for record in batch.records()
    ]
    assert frame["unchanged"].to_list() == unchanged
    assert frame.schema["unchanged"] == pl.List(pl.String)


block_sizes = st.lists(st.integers(1, 12), max_size=6)
cuts = st.lists(st.floats(0, 1), max_size=3)


@examples(70)
@given(streams(), block_sizes, cuts)
def test_both_decoders_tell_the_same_story(stream: Stream, sizes: list[int], cuts: list[float]) -> None:
    blocks = stream.blocks(sizes)
    told = plain(stream, blocks, INVALID_LSN, {})
    assert columnar(stream, blocks, INVALID_LSN, {}, cuts) == told
    assert stream.tables[0].ref not in told


@examples(70)
@given(streams(), block_sizes, cuts, st.data())
def test_both_leave_out_what_a_checkpoint_or_a_snapshot_has(
    stream: Stream, sizes: list[int], cuts: list[float], data: st.DataObject
) -> None:
    blocks = stream.blocks(sizes)
    start = Lsn(data.draw(st.integers(0, stream.end)))
    table_start = {stream.tables[-1].ref: Lsn(data.draw(st.integers(0, stream.end)))}
    assert columnar(stream, blocks, start, table_start, cuts) == plain(stream, blocks, start, table_start)


@examples(150)
@given(streams(max_transactions=2, max_changes=4), block_sizes, st.data())
def test_corrupted_bytes_are_refused_or_understood_alike(stream: Stream, sizes: list[int], data: st.DataObject) -> None:
    stream.tables.insert(0, NOT_IN_THE_STREAM)  # all of the others are captured, so that both look at every message
    number = data.draw(st.integers(0, len(stream.messages) - 1))
    stream.messages[number] = data.draw(corrupted(stream.messages[number]))
    blocks = stream.blocks(sizes)
    outcomes: list[Story | DataError] = []
    for decode in (plain, lambda *arguments: columnar(*arguments, [])):
        try:
            outcomes.append(decode(stream, blocks, INVALID_LSN, {}))
        except (ParseError, BadValue, UnknownValue) as error:
            outcomes.append(error)
    told, columns = outcomes
    if isinstance(told, ParseError | UnknownValue) or isinstance(columns, ParseError | UnknownValue):
        # A message may be torn and a value unreadable at once; which is said first depends on who looks.
        assert isinstance(told, DataError)
        assert isinstance(columns, DataError)
    elif not isinstance(told, BadValue) and not isinstance(columns, BadValue):
        if stream.messages[number][:1] == b"R":
            # Another oid: two tables of one name, which no server has at once; either has an order of its own.
            told, columns = ({table: sorted(lines) for table, lines in story.items()} for story in (told, columns))
        assert columns == told


@st.composite
def corrupted(draw: st.DrawFn, payload: bytes) -> bytes:
    size = draw(st.integers(1, len(payload)))
    match draw(st.sampled_from(["flip", "flip", "truncate", "extend"])):
        case "truncate":
            return payload[:size]
        case "extend":
            return payload + draw(st.binary(min_size=1, max_size=8))
        case _:
            broken = bytearray(payload)
            broken[draw(st.integers(0, len(payload) - 1))] = draw(st.integers(0, 255))
            return bytes(broken)


@pytest.mark.parametrize("kind", ["insert", "old row", "old key", "delete"])
def test_a_value_left_out_where_nobody_has_it_is_refused_by_both(kind: str) -> None:
    """An update's new tuple leaves values out, and an insert's that was an update before a row filter looked at it."""
    table = Table(1, "d", ((True, "id", (23, -1)), (False, "note", (25, -1))))
    message = {
        "insert": encode.insert(1, [b"1", UNCHANGED]),
        "old row": encode.update(1, [b"1", b"x"], old=[b"1", UNCHANGED]),
        "old key": encode.update(1, [b"2", b"x"], key=[UNCHANGED, None]),
        "delete": encode.delete(1, old=[b"1", UNCHANGED]),
    }[kind]
    stream = Stream([NOT_IN_THE_STREAM, table])
    for payload in (encode.begin(100, 0, 7), table.description, message, encode.commit(100, 101, 0)):
        stream.add(100, payload)
    for decode in (plain, lambda *arguments: columnar(*arguments, [])):
        with pytest.raises(UnknownValue if kind == "insert" else ParseError, match=r"leaves a value out|left out"):
            decode(stream, stream.blocks([]), INVALID_LSN, {})


@pytest.mark.parametrize("type_oid", [20, 25, 1700])
def test_bytes_that_are_no_text_among_others_are_a_bad_value_to_both(type_oid: int) -> None:
    table = Table(1, "d", ((True, "id", (type_oid, -1)),))
    stream = Stream([NOT_IN_THE_STREAM, table])
    inserts = [encode.insert(1, [value]) for value in (b"1", b"\x80", b"2")]
    for payload in (encode.begin(100, 0, 7), table.description, *inserts, encode.commit(100, 101, 0)):
        stream.add(100, payload)
    for decode in (plain, lambda *arguments: columnar(*arguments, [])):
        with pytest.raises(BadValue, match=r"\\x80"):
            decode(stream, stream.blocks([]), INVALID_LSN, {})
