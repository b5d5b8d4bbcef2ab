"""pgoutput messages, written by hand from the PostgreSQL manual, and what the parser makes of them."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import pickle
import struct
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from dbmazz_core.connectors.sources.postgres.parser import parser
from dbmazz_core.connectors.sources.postgres.parser.parser import (
    MAX_COLUMNS,
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
    Origin,
    PrimaryKeepalive,
    Relation,
    RelationColumn,
    StreamAbort,
    Truncate,
    Type,
    Update,
    XLogData,
    build_standby_status_update,
    parse,
    parse_copy_data,
    pg_now,
    pg_time,
)
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.unchanged import UNCHANGED
from tests.support import pgoutput_encoder as encode

LSN = Lsn.parse("16/B374D848")

#: Messages as bytes in hex, a field a group, beside what they mean.
FIXTURES: dict[str, tuple[str, CdcMessage]] = {
    "begin": (
        "42 00000016b374d848 0002deadbeef0001 000002e6",
        Begin(final_lsn=LSN, commit_time=0x2DEADBEEF0001, xid=742),
    ),
    "begin before 2000": ("42 0000000000000001 ffffffffffffffff ffffffff", Begin(Lsn(1), -1, 2**32 - 1)),
    "commit": (
        "43 00 00000016b374d848 00000016b374d878 0002deadbeef0001",
        Commit(flags=0, commit_lsn=LSN, end_lsn=Lsn.parse("16/B374D878"), commit_time=0x2DEADBEEF0001),
    ),
    "origin": ("4f 0000000000000100 6e6f64655f61 00", Origin(Lsn(256), "node_a")),
    "origin without a name": ("4f 0000000000000000 00", Origin(Lsn(0), "")),
    "relation": (
        "52 00004001 7075626c6963 00 6f7264657273 00 64 0002"
        " 01 6964 00 00000014 ffffffff"
        " 00 616d6f756e74 00 000006a4 000a0006",
        Relation(
            oid=16385,
            schema="public",
            name="orders",
            replica_identity="d",
            columns=(
                RelationColumn(is_key=True, name="id", type_oid=20, type_modifier=-1),
                RelationColumn(is_key=False, name="amount", type_oid=1700, type_modifier=0xA0006),
            ),
        ),
    ),
    "relation of pg_catalog": ("52 00000001 00 74 00 66 0000", Relation(1, "pg_catalog", "t", "f", ())),
    "relation with multibyte names": (
        "52 ffffffff c3a9 00 e69cac 22 00 69 0001 00 f09f9880 20 00 00000019 00000000",
        Relation(2**32 - 1, "é", '本"', "i", (RelationColumn(False, "😀 ", 25, 0),)),
    ),
    "type": ("59 00004007 7075626c6963 00 6d6f6f64 00", Type(16391, "public", "mood")),
    "type of pg_catalog": ("59 00000017 00 696e7434 00", Type(23, "pg_catalog", "int4")),
    "insert": (
        "49 00004001 4e 0005 74 00000002 3432 74 00000000 6e 75 62 00000004 0000002a",
        Insert(16385, (b"42", b"", None, UNCHANGED, BinaryValue(b"\0\0\0*"))),
    ),
    "insert of no columns": ("49 00004001 4e 0000", Insert(16385, ())),
    "update": (
        "55 00004001 4e 0002 74 00000001 31 74 00000001 61",
        Update(16385, old=None, new=(b"1", b"a")),
    ),
    "update of the key": (
        "55 00004001 4b 0002 74 00000001 31 6e 4e 0002 74 00000001 32 75",
        Update(16385, old=OldKey((b"1", None)), new=(b"2", UNCHANGED)),
    ),
    "update under identity full": (
        "55 00004001 4f 0002 74 00000001 31 74 00000002 4b4e 4e 0002 74 00000001 31 6e",
        Update(16385, old=OldRow((b"1", b"KN")), new=(b"1", None)),
    ),
    "delete by key": ("44 00004001 4b 0002 74 00000001 31 6e", Delete(16385, OldKey((b"1", None)))),
    "delete under identity full": (
        "44 00004001 4f 0002 74 00000001 31 6e",
        Delete(16385, OldRow((b"1", None))),
    ),
    "truncate": ("54 00000001 00 00004001", Truncate((16385,), cascade=False, restart_identity=False)),
    "truncate cascade": ("54 00000002 01 00004001 00004002", Truncate((16385, 16386), True, False)),
    "truncate restart identity": ("54 00000001 02 00004001", Truncate((16385,), False, True)),
    "truncate both": ("54 00000001 03 00004001", Truncate((16385,), True, True)),
    "message": (
        "4d 01 00000016b374d848 6170702e6f7574626f78 00 00000003 00ff0a",
        Message(transactional=True, lsn=LSN, prefix="app.outbox", content=b"\0\xff\n"),
    ),
    "message outside of a transaction": (
        "4d 00 00000016b374d848 00 00000000",
        Message(transactional=False, lsn=LSN, prefix="", content=b""),
    ),
    "stray stream abort": ("41 000002f9 000002fa", StreamAbort(xid=761, subxid=762)),
}

#: Malformed messages: in hex, the offset at which reading fails, a word of the error.
MALFORMED: dict[str, tuple[str, int, str]] = {
    "empty": ("", 0, "empty"),
    "unknown message type": ("5a 00", 0, "unknown message type"),
    "unprintable message type": ("ff", 0, "unknown message type"),
    "stream start": ("53 000002e6 01", 0, "protocol version 2"),
    "stream stop": ("45", 0, "protocol version 2"),
    "stream commit": ("63 000002e6 00" + "00" * 24, 0, "protocol version 2"),
    "begin prepare": ("62" + "00" * 28 + "6700", 0, "protocol version 3"),
    "stream abort of version 4": ("41 000002f9 000002fa" + "00" * 16, 9, "16 bytes too many"),
    "bytes behind the message": ("42" + "00" * 20 + "ff", 21, "1 bytes too many"),
    "commit with flags": ("43 01" + "00" * 24, 1, "flags 0x01"),
    "truncate with unknown flags": ("54 00000001 04 00004001", 5, "flags 0x04"),
    "message with unknown flags": ("4d 03 0000000000000000 00 00000000", 1, "flags 0x03"),
    "column with unknown flags": (
        "52 00000001 00 74 00 64 0001 02 61 00 00000017 ffffffff",
        11,
        "flags 0x02",
    ),
    "name without NUL": ("4f 0000000000000000 6e6f6465", 9, "NUL"),
    "name not UTF-8": ("4f 0000000000000000 6ec328 00", 10, "UTF-8"),
    "surrogate in a name": ("59 00000001 00 eda080 00", 6, "UTF-8"),
    "unknown replica identity": ("52 00000001 00 74 00 78 0000", 8, "replica identity 'x'"),
    "column without a name": ("52 00000001 00 74 00 64 0001 00 00 00000017 ffffffff", 12, "without a name"),
    "relation with 65535 columns": ("52 00000001 00 74 00 64 ffff", 9, "65535 columns"),
    "tuple with 1601 columns": ("49 00000001 4e 0641" + "6e" * 1601, 6, "1601 columns"),
    "tuple shorter than its count": ("49 00000001 4e 0002 6e", 9, "truncated"),
    "unknown kind of value": ("49 00000001 4e 0001 78", 8, "kind 'x'"),
    "value of negative length": ("49 00000001 4e 0001 74 ffffffff", 9, "negative length -1"),
    "value of absurd length": (
        "49 00000001 4e 0001 74 7fffffff 00",
        13,
        "takes 2147483647 bytes, 1 are left",
    ),
    "binary value of absurd length": ("49 00000001 4e 0001 62 7fffffff", 13, "takes 2147483647 bytes"),
    "binary value of negative length": ("49 00000001 4e 0001 62 80000000", 9, "negative length"),
    "message of negative length": ("4d 00 0000000000000000 00 fffffffe", 11, "negative length -2"),
    "insert of an old tuple": ("49 00000001 4f 0000", 5, "kind of tuple 'O'"),
    "update of an unknown tuple": ("55 00000001 58 0000", 5, "kind of tuple 'X'"),
    "update with two old tuples": ("55 00000001 4b 0000 4f 0000", 8, "kind of tuple 'O'"),
    "delete of a new tuple": ("44 00000001 4e 0000", 5, "kind of tuple 'N'"),
    "truncate of -1 tables": ("54 ffffffff 00", 1, "negative number -1"),
    "truncate of two billion tables": ("54 7fffffff 00 00004001", 6, "truncated"),
}


@pytest.mark.parametrize(("hexadecimal", "expected"), FIXTURES.values(), ids=FIXTURES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_message(hexadecimal: str, expected: CdcMessage, kind: Callable[[bytes], bytes]) -> None:
    assert parse(kind(bytes.fromhex(hexadecimal)), LSN) == expected


@pytest.mark.parametrize(("hexadecimal", "offset", "word"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_message_says_what_and_where(hexadecimal: str, offset: int, word: str) -> None:
    payload = bytes.fromhex(hexadecimal)
    with pytest.raises(ParseError) as caught:
        parse(payload, LSN)
    assert caught.value.message_type == (chr(payload[0]) if payload else "?")
    assert caught.value.offset == offset
    assert caught.value.lsn == LSN
    assert word in str(caught.value)
    assert "16/B374D848" in str(caught.value)


@pytest.mark.parametrize("hexadecimal", [message for message, _ in FIXTURES.values()], ids=FIXTURES)
def test_every_strict_prefix_of_a_fixture_is_refused(hexadecimal: str) -> None:
    payload = bytes.fromhex(hexadecimal)
    for size in range(len(payload)):
        with pytest.raises(ParseError) as caught:
            parse(payload[:size], LSN)
        assert 0 <= caught.value.offset <= size


def test_widest_table() -> None:
    row = [b"%d" % i for i in range(MAX_COLUMNS)]
    assert parse(encode.insert(1, row), LSN) == Insert(1, tuple(row))


def test_fixtures_cover_every_message() -> None:
    assert {type(message) for _, message in FIXTURES.values()} == set(CdcMessage.__args__)


def test_messages_are_frozen_values() -> None:
    for _, message in FIXTURES.values():
        assert pickle.loads(pickle.dumps(message)) == message
        assert hash(message) == hash(copy.deepcopy(message))
        field = dataclasses.fields(message)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, field, None)


def test_unchanged_is_neither_null_nor_a_value() -> None:
    assert UNCHANGED is not None
    assert repr(UNCHANGED) == str(UNCHANGED) == "UNCHANGED"
    assert pickle.loads(pickle.dumps(UNCHANGED)) is UNCHANGED
    assert copy.deepcopy(UNCHANGED) is UNCHANGED


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_xlogdata(kind: Callable[[bytes], bytes]) -> None:
    data = bytes.fromhex("77 00000016b374d848 00000016b374d878 0002deadbeef0001 4200")
    assert parse_copy_data(kind(data)) == XLogData(
        wal_start=LSN, wal_end=Lsn.parse("16/B374D878"), send_time=0x2DEADBEEF0001, payload=b"B\0"
    )


@pytest.mark.parametrize(("reply", "requested"), [("00", False), ("01", True)])
def test_primary_keepalive(reply: str, requested: bool) -> None:
    data = bytes.fromhex("6b 00000016b374d848 0002deadbeef0001" + reply)
    assert parse_copy_data(data) == PrimaryKeepalive(LSN, 0x2DEADBEEF0001, reply_requested=requested)


@pytest.mark.parametrize(
    ("data", "offset", "word"),
    [
        (b"", 0, "empty"),
        (b"z", 0, "unknown message type"),
        (b"w", 0, "truncated"),
        (b"w" + bytes(23), 0, "truncated"),
        (b"k" + bytes(16), 0, "truncated"),
        (b"k" + bytes(18), 18, "1 bytes too many"),
    ],
)
def test_malformed_copy_data(data: bytes, offset: int, word: str) -> None:
    with pytest.raises(ParseError, match=word) as caught:
        parse_copy_data(data)
    assert caught.value.message_type == (chr(data[0]) if data else "?")
    assert caught.value.offset == offset
    assert caught.value.lsn == INVALID_LSN


def test_standby_status_update_of_one_position() -> None:
    update = build_standby_status_update(LSN, clock=lambda: 0x2DEADBEEF0001)
    lsn = "00000016b374d848"
    assert update == bytes.fromhex(f"72 {lsn} {lsn} {lsn} 0002deadbeef0001 00")


def test_standby_status_update_in_full() -> None:
    update = build_standby_status_update(Lsn(3), flush=Lsn(2), apply=Lsn(1), reply_requested=True, clock=lambda: -1)
    assert update == bytes.fromhex("72 0000000000000003 0000000000000002 0000000000000001 ffffffffffffffff 01")


def test_standby_status_update_never_applies_beyond_the_flush() -> None:
    update = build_standby_status_update(Lsn(3), flush=Lsn(0), clock=lambda: 0)
    assert struct.unpack(">cQQQqB", update) == (b"r", 3, 0, 0, 0, 0)


def test_standby_status_update_carries_the_time() -> None:
    before = datetime.now(UTC)
    (sent,) = struct.unpack_from(">q", build_standby_status_update(LSN), 25)
    assert before <= pg_time(sent + 1)
    assert pg_time(sent) <= datetime.now(UTC)


def test_pg_time() -> None:
    assert pg_time(0) == POSTGRES_EPOCH == datetime(2000, 1, 1, tzinfo=UTC)
    assert pg_time(-1) == datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    assert pg_time(820540800_123456) == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
    assert abs((pg_time(pg_now()) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("us", [2**63 - 1, -(2**63), 10**18])
def test_pg_time_beyond_any_clock(us: int) -> None:
    with pytest.raises(ParseError, match=str(us)) as caught:
        pg_time(us, lsn=LSN)
    assert caught.value.lsn == LSN


def test_docstrings() -> None:
    assert doctest.testmod(parser).failed == 0
