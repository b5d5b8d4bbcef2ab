"""Writes pgoutput messages, protocol version 1, for tests. Shares no code with the parser, on purpose.

Written from the PostgreSQL manual: "Logical Replication Message Formats", "Streaming Replication Protocol".
A row is a sequence of None (NULL), `UNCHANGED`, bytes (text format) or `BinaryValue` (binary format).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dbmazz_core.connectors.sources.postgres.parser.messages import BinaryValue
from dbmazz_core.model.unchanged import UNCHANGED, Unchanged

Value = None | Unchanged | bytes | BinaryValue
Row = Sequence[Value]


def unsigned(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def signed(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big", signed=True)


def string(text: str) -> bytes:
    return text.encode() + b"\0"


def counted(data: bytes) -> bytes:
    return signed(len(data), 4) + data


def value(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    if isinstance(value, BinaryValue):
        return b"b" + counted(value.data)
    assert isinstance(value, bytes)
    return b"t" + counted(value)


def tuple_data(row: Row) -> bytes:
    return signed(len(row), 2) + b"".join(value(v) for v in row)


def old_tuple(key: Row | None, old: Row | None) -> bytes:
    assert key is None or old is None, "a message carries the old key or the old row, never both"
    if key is not None:
        return b"K" + tuple_data(key)
    if old is not None:
        return b"O" + tuple_data(old)
    return b""


def begin(final_lsn: int, commit_time: int = 0, xid: int = 0) -> bytes:
    return b"B" + unsigned(final_lsn, 8) + signed(commit_time, 8) + unsigned(xid, 4)


def commit(commit_lsn: int, end_lsn: int, commit_time: int = 0, flags: int = 0) -> bytes:
    return b"C" + unsigned(flags, 1) + unsigned(commit_lsn, 8) + unsigned(end_lsn, 8) + signed(commit_time, 8)


def origin(origin_lsn: int, name: str) -> bytes:
    return b"O" + unsigned(origin_lsn, 8) + string(name)


def namespace(schema: str) -> bytes:
    return string("" if schema == "pg_catalog" else schema)


def relation(
    oid: int, schema: str, name: str, replica_identity: str, columns: Sequence[tuple[bool, str, int, int]]
) -> bytes:
    """`columns`: (is part of the replica identity, name, type OID, type modifier)."""
    head = b"R" + unsigned(oid, 4) + namespace(schema) + string(name) + replica_identity.encode()
    return head + signed(len(columns), 2) + b"".join(map(relation_column, columns))


def relation_column(column: tuple[bool, str, int, int]) -> bytes:
    is_key, name, type_oid, type_modifier = column
    return unsigned(is_key, 1) + string(name) + unsigned(type_oid, 4) + signed(type_modifier, 4)


def type_(oid: int, schema: str, name: str) -> bytes:
    return b"Y" + unsigned(oid, 4) + namespace(schema) + string(name)


def insert(oid: int, values: Row) -> bytes:
    return b"I" + unsigned(oid, 4) + b"N" + tuple_data(values)


def update(oid: int, values: Row, *, key: Row | None = None, old: Row | None = None) -> bytes:
    """`key`: the old values of the identity's columns, at full width; `old`: the old row, under FULL."""
    return b"U" + unsigned(oid, 4) + old_tuple(key, old) + b"N" + tuple_data(values)


def delete(oid: int, *, key: Row | None = None, old: Row | None = None) -> bytes:
    return b"D" + unsigned(oid, 4) + old_tuple(key, old)


def truncate(oids: Iterable[int], *, cascade: bool = False, restart_identity: bool = False) -> bytes:
    relations = [unsigned(oid, 4) for oid in oids]
    flags = (1 if cascade else 0) + (2 if restart_identity else 0)
    return b"T" + signed(len(relations), 4) + unsigned(flags, 1) + b"".join(relations)


def message(prefix: str, content: bytes, lsn: int = 0, *, transactional: bool = True) -> bytes:
    return b"M" + unsigned(transactional, 1) + unsigned(lsn, 8) + string(prefix) + counted(content)


def stream_abort(xid: int, subxid: int) -> bytes:
    return b"A" + unsigned(xid, 4) + unsigned(subxid, 4)


def xlogdata(start: int, end: int, payload: bytes, send_time: int = 0) -> bytes:
    return b"w" + unsigned(start, 8) + unsigned(end, 8) + signed(send_time, 8) + payload


def keepalive(wal_end: int, send_time: int = 0, *, reply_requested: bool = False) -> bytes:
    return b"k" + unsigned(wal_end, 8) + signed(send_time, 8) + unsigned(reply_requested, 1)
