"""The messages of pgoutput's protocol version 1, and of the replication stream around them.

`parser` reads them from bytes. Each message has a dataclass, named as in the PostgreSQL manual: "Streaming Replication
Protocol" (protocol-replication) and "Logical Replication Message Formats" (protocol-logicalrep-message-formats). Times
are microseconds since 2000-01-01 UTC, see `parser.pg_time`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.unchanged import Unchanged

#: `pg_class.relreplident`: (d)efault, (n)othing, (f)ull, (i)ndex.
ReplicaIdentity = Literal["d", "n", "f", "i"]


@dataclass(frozen=True, slots=True)
class BinaryValue:
    """A column value in binary format, kind 'b'. The server sends it only if START_REPLICATION has option `binary`."""

    data: bytes


#: A column value: None is NULL ('n'), `UNCHANGED` a value that was not sent ('u'), bytes are the value's text ('t').
TupleValue = None | Unchanged | bytes | BinaryValue

#: The values of one row, one for each column of the last `Relation` with the OID `relation_oid`, in its order.
TupleData = tuple[TupleValue, ...]


@dataclass(frozen=True, slots=True)
class OldKey:
    """An old tuple with the values of the replica identity's columns ('K').

    `values` has the relation's full width. Where `RelationColumn.is_key` is false it holds None, as the message does:
    the value was not sent and is unknown. That None is *not* NULL.
    """

    values: TupleData


@dataclass(frozen=True, slots=True)
class OldRow:
    """An old tuple with the whole row, under REPLICA IDENTITY FULL ('O'). None is NULL; TOASTed values are present."""

    values: TupleData


OldTuple = OldKey | OldRow


@dataclass(frozen=True, slots=True)
class XLogData:
    """A part of the stream. `payload` is one pgoutput message, `send_time` the server's clock."""

    wal_start: Lsn
    wal_end: Lsn
    send_time: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """A keepalive: the server has sent everything up to `wal_end`. With `reply_requested`, no reply ends the stream."""

    wal_end: Lsn
    send_time: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class Begin:
    """The begin of a transaction. `final_lsn` is the LSN of its commit record: the `commit_lsn` of its `Commit`."""

    final_lsn: Lsn
    commit_time: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a transaction. `end_lsn` is the position behind its commit record: the one to confirm and resume at.

    The manual calls `flags` "currently unused"; it is always 0.
    """

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a transaction that was replicated from elsewhere: the origin's name, and the commit LSN there."""

    origin_lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A published column. `is_key`: whether it is part of the replica identity (under FULL, every column is)."""

    is_key: bool
    name: str
    type_oid: int
    type_modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the next rows have it. It is sent again after every change. Its XLogData can carry LSN 0/0."""

    oid: int
    schema: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """A type that is not built in, ahead of the `Relation` that uses it. A domain has its base type's name."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Insert:
    """An inserted row."""

    relation_oid: int
    new: TupleData


@dataclass(frozen=True, slots=True)
class Update:
    """An updated row. `old` is sent under identity FULL, or if an identity column changed or is TOASTed; else None."""

    relation_oid: int
    old: OldTuple | None
    new: TupleData


@dataclass(frozen=True, slots=True)
class Delete:
    """A deleted row."""

    relation_oid: int
    old: OldTuple


@dataclass(frozen=True, slots=True)
class Truncate:
    """A TRUNCATE of one or more tables."""

    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A logical message of `pg_logical_emit_message`; unless `transactional`, it is outside of any transaction."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class StreamAbort:
    """A message of protocol version 2 that PostgreSQL 18 sends by mistake; no row of its transaction was sent.

    PostgreSQL 18 discards the decoded changes of an aborted transaction once they outgrow `logical_decoding_work_mem`
    (commit 072ee847ad4c), and marks its subtransactions as streamed. Decoding their abort then sends this message (bug
    #19616, fixed by commit aa4c52b808f7; 18.6 still sends it). It comes between transactions, never within one, and
    without the LSN and time that protocol version 4 adds.
    """

    xid: int
    subxid: int


CdcMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message | StreamAbort
