"""The plain parser of pgoutput's protocol version 1: bytes in, one dataclass per message out. No I/O, no state.

The two levels are those of the PostgreSQL manual:

- "Streaming Replication Protocol" (protocol-replication), the contents of a CopyData message: `parse_copy_data`
  reads `XLogData` and `PrimaryKeepalive`, `build_standby_status_update` writes the reply.
- "Logical Replication Message Formats" (protocol-logicalrep-message-formats), the payload of an XLogData:
  `parse` reads `Begin`, `Commit`, `Origin`, `Relation`, `Type`, `Insert`, `Update`, `Delete`, `Truncate`,
  `Message`.

All integers are big-endian. Names and text values are in the connection's `client_encoding`, which must be UTF8. A
message that does not fit its format exactly raises `ParseError`, because a message that is half understood would
silently lose a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any, Final, cast

from dbmazz_core.connectors.sources.postgres.parser.messages import (
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
    ReplicaIdentity,
    StreamAbort,
    Truncate,
    TupleData,
    TupleValue,
    Type,
    Update,
    XLogData,
)
from dbmazz_core.errors import ParseError
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.unchanged import UNCHANGED

Buffer = bytes | bytearray | memoryview

#: Times in the protocol are microseconds since midnight of 2000-01-01 UTC.
POSTGRES_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_NS: Final = int(POSTGRES_EPOCH.timestamp()) * 1_000_000_000

#: Most columns of a table: manual, appendix "PostgreSQL Limits" (limits).
MAX_COLUMNS: Final = 1600

# The messages are exported too, as every caller needs both. In columns, because one name a line would fill a screen.
__all__ = [
    "MAX_COLUMNS", "POSTGRES_EPOCH", "Begin", "BinaryValue", "Buffer", "CdcMessage", "Commit", "Delete",
    "Insert", "Message", "OldKey", "OldRow", "OldTuple", "Origin", "PrimaryKeepalive", "Relation",
    "RelationColumn", "ReplicaIdentity", "StreamAbort", "Truncate", "TupleData", "TupleValue", "Type",
    "Update", "XLogData", "build_standby_status_update", "parse", "parse_copy_data", "pg_now", "pg_time",
    "require_old_values",
]  # fmt: skip

_UINT8 = Struct(">B")
_UINT16 = Struct(">H")
_INT32 = Struct(">i")
_UINT32 = Struct(">I")
_UINT64 = Struct(">Q")
_XLOGDATA = Struct(">cQQq")
_KEEPALIVE = Struct(">cQqB")
_BEGIN = Struct(">QqI")
_COMMIT = Struct(">BQQq")
_COLUMN_TYPE = Struct(">Ii")
_TRUNCATE = Struct(">iB")
_MESSAGE = Struct(">BQ")
_STREAM_ABORT = Struct(">II")
_STATUS_UPDATE = Struct(">cQQQqB")

_NULL, _UNCHANGED, _TEXT, _BINARY = b"nutb"
_KEY, _NEW = b"KN"
_UNKNOWN = "unknown message type"

#: Versions of message types that protocol version 1 does not have, for the error.
_LATER_VERSIONS = dict.fromkeys(b"SEc", 2) | dict.fromkeys(b"bPKrp", 3)


class _MessageReader:
    """Reads one message from front to back, and keeps the offset for errors."""

    __slots__ = ("data", "lsn", "offset")

    def __init__(self, data: bytes, lsn: Lsn, offset: int = 1) -> None:
        self.data = data
        self.lsn = lsn
        self.offset = offset

    def error(self, detail: str, *, back: int = 0) -> ParseError:
        """Return the error at the current offset, or at `back` bytes before it."""
        message_type = chr(self.data[0]) if self.data else "?"
        return ParseError(detail, message_type=message_type, offset=self.offset - back, lsn=self.lsn)

    def require(self, size: int, what: str) -> None:
        left = len(self.data) - self.offset
        if size > left:
            raise self.error(f"truncated: {what} takes {size} bytes, {left} are left")

    def take(self, layout: Struct, what: str) -> tuple[Any, ...]:
        self.require(layout.size, what)
        fields = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return fields

    def flags(self, value: int, known: int, *, back: int = 1) -> int:
        # An unknown flag could change the meaning of the message.
        if value & ~known:
            raise self.error(f"unknown flags {value:#04x}", back=back)
        return value

    def string(self, what: str) -> str:
        end = self.data.find(0, self.offset)
        if end < 0:
            raise self.error(f"truncated: {what} has no terminating NUL")
        try:
            text = str(self.data[self.offset : end], "utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error.reason}", back=-error.start) from None
        self.offset = end + 1
        return text

    def counted_bytes(self, what: str) -> bytes:
        (length,) = self.take(_INT32, f"the length of {what}")
        if length < 0:
            raise self.error(f"negative length {length} of {what}", back=_INT32.size)
        self.require(length, what)
        self.offset += length
        return self.data[self.offset - length : self.offset]

    def column_count(self) -> int:
        (count,) = self.take(_UINT16, "the number of columns")
        if count > MAX_COLUMNS:
            raise self.error(f"{count} columns; a table has at most {MAX_COLUMNS}", back=_UINT16.size)
        return cast("int", count)

    def tuple_data(self) -> TupleData:
        data, size, unpack_length = self.data, len(self.data), _INT32.unpack_from
        values: list[TupleValue] = []
        for _ in range(self.column_count()):
            # The hot path is a text that fits. `tuple_value` reads everything else, and raises errors.
            start = self.offset + 5
            if start <= size and data[start - 5] == _TEXT:
                end = start + unpack_length(data, start - 4)[0]
                if start <= end <= size:
                    values.append(data[start:end])
                    self.offset = end
                    continue
            values.append(self.tuple_value())
        return tuple(values)

    def tuple_value(self) -> TupleValue:
        (kind,) = self.take(_UINT8, "the kind of a column value")
        if kind == _NULL:
            return None
        if kind == _UNCHANGED:
            return UNCHANGED
        if kind == _TEXT:
            return self.counted_bytes("a text value")
        if kind == _BINARY:
            return BinaryValue(self.counted_bytes("a binary value"))
        raise self.error(f"unknown kind {chr(kind)!r} of column value", back=1)

    def end(self) -> None:
        left = len(self.data) - self.offset
        if left:
            raise self.error(f"{left} bytes too many")


def require_old_values(values: TupleData, message: CdcMessage, lsn: Lsn) -> None:
    """Raise ParseError if an old tuple lacks a value: PostgreSQL sends all values of old tuples.

    The format allows the kind 'u', but the value could not be found anywhere, and taking it for NULL would lose it.
    """
    if any(value is UNCHANGED for value in values):
        name = type(message).__name__
        raise ParseError(f"{name} leaves a value out in its old tuple", message_type=name[0], offset=6, lsn=lsn)


def _begin(reader: _MessageReader) -> Begin:
    final_lsn, commit_time, xid = reader.take(_BEGIN, "Begin")
    return Begin(Lsn(final_lsn), commit_time, xid)


def _commit(reader: _MessageReader) -> Commit:
    flags, commit_lsn, end_lsn, commit_time = reader.take(_COMMIT, "Commit")
    # Manual: "Currently unused". PostgreSQL's own subscriber refuses any flag.
    reader.flags(flags, 0, back=_COMMIT.size)
    return Commit(flags, Lsn(commit_lsn), Lsn(end_lsn), commit_time)


def _origin(reader: _MessageReader) -> Origin:
    (origin_lsn,) = reader.take(_UINT64, "the origin's LSN")
    return Origin(Lsn(origin_lsn), reader.string("the origin's name"))


def _qualified_name(reader: _MessageReader) -> tuple[str, str]:
    # Manual: "Namespace (empty string for pg_catalog)".
    return reader.string("the namespace") or "pg_catalog", reader.string("the name")


def _relation(reader: _MessageReader) -> Relation:
    (oid,) = reader.take(_UINT32, "the relation's OID")
    schema, name = _qualified_name(reader)
    (identity,) = reader.take(_UINT8, "the replica identity")
    if identity not in b"dnfi":
        raise reader.error(f"unknown replica identity {chr(identity)!r}", back=1)
    columns = tuple(_relation_column(reader) for _ in range(reader.column_count()))
    return Relation(oid, schema, name, cast("ReplicaIdentity", chr(identity)), columns)


def _relation_column(reader: _MessageReader) -> RelationColumn:
    (flags,) = reader.take(_UINT8, "a column's flags")
    is_key = bool(reader.flags(flags, 1))
    name = reader.string("a column's name")
    if not name:
        raise reader.error("a column without a name", back=1)
    type_oid, type_modifier = reader.take(_COLUMN_TYPE, "a column's type")
    return RelationColumn(is_key, name, type_oid, type_modifier)


def _type(reader: _MessageReader) -> Type:
    (oid,) = reader.take(_UINT32, "the type's OID")
    return Type(oid, *_qualified_name(reader))


def _marker(reader: _MessageReader, expected: bytes) -> int:
    (marker,) = reader.take(_UINT8, "the kind of tuple")
    if marker not in expected:
        raise reader.error(f"unknown kind of tuple {chr(marker)!r}, not one of {expected.decode()}", back=1)
    return cast("int", marker)


def _insert(reader: _MessageReader) -> Insert:
    (relation_oid,) = reader.take(_UINT32, "the relation's OID")
    _marker(reader, b"N")
    return Insert(relation_oid, reader.tuple_data())


def _old_tuple(reader: _MessageReader, marker: int) -> OldTuple:
    return OldKey(reader.tuple_data()) if marker == _KEY else OldRow(reader.tuple_data())


def _update(reader: _MessageReader) -> Update:
    (relation_oid,) = reader.take(_UINT32, "the relation's OID")
    old = None
    marker = _marker(reader, b"KON")
    if marker != _NEW:
        old = _old_tuple(reader, marker)
        _marker(reader, b"N")
    return Update(relation_oid, old, reader.tuple_data())


def _delete(reader: _MessageReader) -> Delete:
    (relation_oid,) = reader.take(_UINT32, "the relation's OID")
    return Delete(relation_oid, _old_tuple(reader, _marker(reader, b"KO")))


def _truncate(reader: _MessageReader) -> Truncate:
    count, flags = reader.take(_TRUNCATE, "Truncate")
    if count < 0:
        raise reader.error(f"negative number {count} of relations", back=_TRUNCATE.size)
    reader.flags(flags, 3)
    reader.require(count * _UINT32.size, f"{count} relation OIDs")
    oids = tuple(reader.take(_UINT32, "a relation's OID")[0] for _ in range(count))
    return Truncate(oids, cascade=bool(flags & 1), restart_identity=bool(flags & 2))


def _message(reader: _MessageReader) -> Message:
    flags, lsn = reader.take(_MESSAGE, "Message")
    reader.flags(flags, 1, back=_MESSAGE.size)
    return Message(bool(flags), Lsn(lsn), reader.string("the prefix"), reader.counted_bytes("the content"))


def _stream_abort(reader: _MessageReader) -> StreamAbort:
    xid, subxid = reader.take(_STREAM_ABORT, "Stream Abort")
    return StreamAbort(xid, subxid)


_PARSERS: dict[int, Callable[[_MessageReader], CdcMessage]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("O"): _origin,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("M"): _message,
    ord("A"): _stream_abort,
}


def parse(payload: Buffer, lsn: Lsn) -> CdcMessage:
    """Parse the pgoutput message in an XLogData's payload.

    >>> parse(bytes.fromhex("49 00004001 4e 0003 74 00000001 37 6e 75"), Lsn.parse("0/16B3748"))
    Insert(relation_oid=16385, new=(b'7', None, UNCHANGED))

    Args:
        payload: The message.
        lsn: Its WAL position, for errors.

    Raises:
        ParseError: The message is truncated, has extra bytes, or is not of protocol version 1.
    """
    data = payload if isinstance(payload, bytes) else bytes(payload)
    if not data:
        raise _MessageReader(data, lsn, 0).error("empty message")
    parser = _PARSERS.get(data[0])
    if parser is None:
        version = _LATER_VERSIONS.get(data[0])
        detail = f"a message of protocol version {version}; version 1 was requested" if version else _UNKNOWN
        raise _MessageReader(data, lsn, 0).error(detail)
    reader = _MessageReader(data, lsn)
    message = parser(reader)
    reader.end()
    return message


def parse_copy_data(data: Buffer) -> XLogData | PrimaryKeepalive:
    """Parse the contents of a CopyData message of the replication stream.

    Raises:
        ParseError: It is neither an XLogData nor a primary keepalive, is truncated, or has extra bytes.
    """
    reader = _MessageReader(data if isinstance(data, bytes) else bytes(data), INVALID_LSN, 0)
    match reader.data[:1]:
        case b"w":
            _, wal_start, wal_end, send_time = reader.take(_XLOGDATA, "XLogData")
            return XLogData(Lsn(wal_start), Lsn(wal_end), send_time, reader.data[reader.offset :])
        case b"k":
            _, wal_end, send_time, reply = reader.take(_KEEPALIVE, "Primary keepalive")
            reader.lsn = Lsn(wal_end)
            reader.end()
            return PrimaryKeepalive(Lsn(wal_end), send_time, reply != 0)
        case b"":
            raise reader.error("empty message")
        case _:
            raise reader.error(_UNKNOWN)


def pg_time(us: int, *, lsn: Lsn = INVALID_LSN) -> datetime:
    """Convert a `send_time` or `commit_time` to a time in UTC.

    >>> pg_time(1)
    datetime.datetime(2000, 1, 1, 0, 0, 0, 1, tzinfo=datetime.timezone.utc)

    Args:
        us: Microseconds since `POSTGRES_EPOCH`.
        lsn: WAL position of the message, for the error.

    Raises:
        ParseError: The time is outside of the years 1 to 9999, which no server's clock shows.
    """
    try:
        return POSTGRES_EPOCH + timedelta(microseconds=us)
    except OverflowError:
        raise ParseError(f"{us} us is no time of a server", message_type="?", offset=0, lsn=lsn) from None


def pg_now() -> int:
    """Return the present time as the protocol counts: microseconds since `POSTGRES_EPOCH`."""
    return (time.time_ns() - _EPOCH_NS) // 1000


def build_standby_status_update(
    write: Lsn,
    *,
    flush: Lsn | None = None,
    apply: Lsn | None = None,
    reply_requested: bool = False,
    clock: Callable[[], int] = pg_now,
) -> bytes:
    """Build a "Standby status update" message, to send as CopyData.

    All positions are "the last byte + 1" in the manual's words, as a `Commit`'s `end_lsn` and a keepalive's `wal_end`.

    Args:
        write: Everything before this position was received.
        flush: Everything before this position is durable. The server moves the slot's `confirmed_flush_lsn` here and
            may remove the WAL before it for good. Default: `write`.
        apply: Everything before this position is visible in the destination. Default: `flush`.
        reply_requested: Whether the server shall send a keepalive at once.
        clock: Returns the time to send, as `pg_now` does.
    """
    flush = write if flush is None else flush
    apply = flush if apply is None else apply
    return _STATUS_UPDATE.pack(b"r", write, flush, apply, clock(), reply_requested)
