"""The messages of pgoutput protocol version 1, and of the replication stream around them.

`parser` reads them from bytes. One dataclass per message, named as in the PostgreSQL manual: "Streaming
Replication Protocol" (protocol-replication) and "Logical Replication Message Formats"
(protocol-logicalrep-message-formats). Times are microseconds since 2000-01-01 UTC, see `parser.pg_time`.
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
    """A column value in binary format, kind 'b'; sent only if START_REPLICATION asked for `binary`."""

    data: bytes


#: A column value: None is NULL ('n'), `UNCHANGED` was not sent ('u'), bytes are the value's text ('t').
TupleValue = None | Unchanged | bytes | BinaryValue

#: The values of one row: one for each column of the `Relation` that `relation_oid` last named, in its order.
TupleData = tuple[TupleValue, ...]


@dataclass(frozen=True, slots=True)
class OldKey:
    """Old values of the replica identity's columns ('K').

    `values` has the relation's full width. Where `RelationColumn.is_key` is false it holds None, as the wire
    does, because nothing was sent: that None is *not* NULL, and nothing is known of the old value.
    """

    values: TupleData


@dataclass(frozen=True, slots=True)
class OldRow:
    """The whole old row, under REPLICA IDENTITY FULL ('O'). None is NULL; TOASTed values are present."""

    values: TupleData


OldTuple = OldKey | OldRow


@dataclass(frozen=True, slots=True)
class XLogData:
    """A piece of the stream: `payload` is one pgoutput message, `send_time` the server's clock."""

    wal_start: Lsn
    wal_end: Lsn
    send_time: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PrimaryKeepalive:
    """The server has sent everything up to `wal_end`; if `reply_requested`, answer or be disconnected."""

    wal_end: Lsn
    send_time: int
    reply_requested: bool


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction starts. `final_lsn` is its commit record's LSN: the `commit_lsn` of its `Commit`."""

    final_lsn: Lsn
    commit_time: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction ends. `end_lsn` is the position behind it: what to confirm, where to resume.

    `flags` is "currently unused" and always 0.
    """

    flags: int
    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction was replicated to this server from `name`, where it committed at `origin_lsn`."""

    origin_lsn: Lsn
    name: str


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A published column. `is_key`: part of the replica identity (every column, under FULL)."""

    is_key: bool
    name: str
    type_oid: int
    type_modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the rows after it see it; sent again after every change. Its XLogData can carry LSN 0/0."""

    oid: int
    schema: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[RelationColumn, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """A type that is not built in, before the `Relation` that uses it. Of a domain: its base type's name."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class Insert:
    """A row came."""

    relation_oid: int
    new: TupleData


@dataclass(frozen=True, slots=True)
class Update:
    """A row changed. `old` is there under identity FULL, or if an identity column changed or is TOASTed."""

    relation_oid: int
    old: OldTuple | None
    new: TupleData


@dataclass(frozen=True, slots=True)
class Delete:
    """A row went."""

    relation_oid: int
    old: OldTuple


@dataclass(frozen=True, slots=True)
class Truncate:
    """One TRUNCATE emptied these tables."""

    relation_oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class Message:
    """What `pg_logical_emit_message` wrote; unless `transactional`, it stands outside of any transaction."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class StreamAbort:
    """A stray message of PostgreSQL 18: ignore it, none of the transaction's rows were sent.

    It belongs to protocol version 2 and was not asked for. PostgreSQL 18 discards the decoded changes of an
    aborted transaction once they outgrow `logical_decoding_work_mem` (commit 072ee847ad4c), and on the way
    marks its subtransactions as streamed; decoding their abort then sends this (bug #19616, fixed by commit
    aa4c52b808f7; 18.6 still sends it). It comes between transactions, never within one, and without the LSN
    and time that protocol version 4 adds.
    """

    xid: int
    subxid: int


CdcMessage = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | Message | StreamAbort
