"""The parser against an independent encoder: it reads back what was written, or refuses."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbmazz_core.connectors.sources.postgres.parser.parser import (
    POSTGRES_EPOCH,
    Begin,
    BinaryValue,
    CdcMessage,
    Commit,
    Delete,
    Insert,
    Message,
    OldKey,
    OldRow,
    OldTuple,
    Origin,
    PrimaryKeepalive,
    Relation,
    RelationColumn,
    StreamAbort,
    Truncate,
    Type,
    Update,
    XLogData,
    parse,
    parse_copy_data,
    pg_time,
)
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.unchanged import UNCHANGED
from tests.support import pgoutput_encoder as encode

LSN = Lsn.parse("16/B374D848")

uint32 = st.integers(0, 2**32 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
lsns = st.integers(0, 2**64 - 1).map(Lsn)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
namespaces = st.just("pg_catalog") | names.filter(bool)
rows = st.lists(
    st.none() | st.just(UNCHANGED) | st.binary(max_size=20) | st.binary(max_size=20).map(BinaryValue),
    max_size=8,
).map(tuple)
old_tuples = rows.map(OldKey) | rows.map(OldRow)
columns = st.builds(RelationColumn, st.booleans(), names.filter(bool), uint32, st.integers(-(2**31), 2**31 - 1))
messages: st.SearchStrategy[CdcMessage] = st.one_of(
    st.builds(Begin, lsns, int64, uint32),
    st.builds(Commit, st.just(0), lsns, lsns, int64),
    st.builds(Origin, lsns, names),
    st.builds(Relation, uint32, namespaces, names, st.sampled_from("dnfi"), st.lists(columns, max_size=5).map(tuple)),
    st.builds(Type, uint32, namespaces, names),
    st.builds(Insert, uint32, rows),
    st.builds(Update, uint32, st.none() | old_tuples, rows),
    st.builds(Delete, uint32, old_tuples),
    st.builds(Truncate, st.lists(uint32, max_size=5).map(tuple), st.booleans(), st.booleans()),
    st.builds(Message, st.booleans(), lsns, names, st.binary(max_size=40)),
    st.builds(StreamAbort, uint32, uint32),
)


def old_as_arguments(old: OldTuple | None) -> dict[str, encode.Row]:
    match old:
        case OldKey(values):
            return {"key": values}
        case OldRow(values):
            return {"old": values}
        case None:
            return {}


def encoded(message: CdcMessage) -> bytes:
    match message:
        case Begin(lsn, commit_time, xid):
            return encode.begin(lsn, commit_time, xid)
        case Commit(flags, commit_lsn, end_lsn, commit_time):
            return encode.commit(commit_lsn, end_lsn, commit_time, flags)
        case Origin(lsn, name):
            return encode.origin(lsn, name)
        case Relation(oid, schema, name, identity, columns):
            return encode.relation(oid, schema, name, identity, [dataclasses.astuple(c) for c in columns])
        case Type(oid, schema, name):
            return encode.type_(oid, schema, name)
        case Insert(oid, new):
            return encode.insert(oid, new)
        case Update(oid, old, new):
            return encode.update(oid, new, **old_as_arguments(old))
        case Delete(oid, old):
            return encode.delete(oid, **old_as_arguments(old))
        case Truncate(oids, cascade, restart_identity):
            return encode.truncate(oids, cascade=cascade, restart_identity=restart_identity)
        case Message(transactional, lsn, prefix, content):
            return encode.message(prefix, content, lsn, transactional=transactional)
        case StreamAbort(xid, subxid):
            return encode.stream_abort(xid, subxid)


@given(messages)
def test_round_trip(message: CdcMessage) -> None:
    assert parse(encoded(message), LSN) == message


@given(messages, st.data())
def test_a_strict_prefix_is_refused(message: CdcMessage, data: st.DataObject) -> None:
    payload = encoded(message)
    size = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ParseError):
        parse(payload[:size], LSN)


@given(messages, st.binary(min_size=1, max_size=30))
def test_bytes_too_many_are_refused(message: CdcMessage, rest: bytes) -> None:
    with pytest.raises(ParseError, match="too many"):
        parse(encoded(message) + rest, LSN)


@given(messages, st.data())
def test_a_flipped_byte_parses_or_is_refused(message: CdcMessage, data: st.DataObject) -> None:
    payload = bytearray(encoded(message))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    parse_or_refuse(bytes(payload))


@given(st.sampled_from(b"BCORYIUDTMA").map(lambda kind: bytes([kind])), st.binary(max_size=100))
def test_random_bytes_parse_or_are_refused(kind: bytes, rest: bytes) -> None:
    parse_or_refuse(kind + rest)
    parse_or_refuse(rest)


def parse_or_refuse(payload: bytes) -> None:
    try:
        message = parse(payload, LSN)
    except ParseError:
        return  # anything else, an IndexError or a struct.error, is a failure
    # What was accepted was understood in full: it can be written again, byte for byte.
    assert encoded(message) == payload


@given(lsns, lsns, int64, st.binary(max_size=40))
def test_xlogdata_round_trip(start: Lsn, end: Lsn, send_time: int, payload: bytes) -> None:
    data = encode.xlogdata(start, end, payload, send_time)
    assert parse_copy_data(data) == XLogData(start, end, send_time, payload)


@given(lsns, int64, st.booleans())
def test_keepalive_round_trip(end: Lsn, send_time: int, reply_requested: bool) -> None:
    data = encode.keepalive(end, send_time, reply_requested=reply_requested)
    assert parse_copy_data(data) == PrimaryKeepalive(end, send_time, reply_requested)
    for size in range(len(data)):
        with pytest.raises(ParseError):
            parse_copy_data(data[:size])


@given(int64)
def test_pg_time_is_exact_or_refused(us: int) -> None:
    try:
        at = pg_time(us)
    except ParseError:
        return
    delta = at - POSTGRES_EPOCH
    assert (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds == us
