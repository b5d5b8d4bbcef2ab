"""Normalized change records: one type per kind of change, for `match`.

>>> from dbmazz_core.lsn import Lsn
>>> position = SourcePosition(commit_lsn=Lsn.parse("0/16B3748"), ordinal=1, xid=742)
>>> record = Insert(TableRef("public", "orders"), {"id": 1, "note": None}, position)
>>> match record:
...     case Insert(table, columns, position):
...         print(table, columns["id"], position.commit_lsn)
public.orders 1 0/16B3748
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.unchanged import UNCHANGED, Unchanged
from dbmazz_core.table_ref import TableRef

#: A value of a record. What Python's own types cannot hold (`infinity`, `24:00:00`, dates BC, `NaN` where a decimal is
#: finite by declaration, intervals of months) is its text. Arrays are lists, of lists where they have more dimensions;
#: hstore is a dict. An unchanged TOAST value that PostgreSQL left out is `UNCHANGED`, never None.
ColumnValue = (
    None
    | bool
    | int
    | float
    | Decimal
    | str
    | bytes
    | date
    | time
    | datetime
    | timedelta
    | UUID
    | list[Any]
    | dict[str, str | None]
    | Unchanged
)

Columns = Mapping[str, ColumnValue]


@dataclass(frozen=True, slots=True)
class CommittedTransaction:
    """A transaction of the source, by what no other history has alike.

    Attributes:
        commit_lsn: LSN of its commit record.
        xid: Its id.
        commit_time: When it was committed.
    """

    commit_lsn: Lsn
    xid: int
    commit_time: datetime


@dataclass(frozen=True, slots=True, order=True)
class SourcePosition:
    """Where a change stands in the source's order: by its transaction's commit, then within the transaction.

    Never by the record's own WAL position: concurrent transactions interleave in the WAL but arrive in commit order,
    and the rows of one COPY share one position.

    Attributes:
        commit_lsn: LSN of the transaction's commit record. A checkpoint at P holds exactly the transactions with
            `commit_lsn < P`.
        ordinal: Counts the transaction's changes from 1; 0 is its BEGIN.
        xid: Transaction id; 0 outside a transaction.
        commit_time: When it committed, UTC.
    """

    commit_lsn: Lsn
    ordinal: int
    xid: int = 0
    commit_time: datetime | None = None

    @property
    def lsn(self) -> Lsn:
        """The commit's LSN; what `SourcePosition::Lsn` was in the Rust connector."""
        return self.commit_lsn


@dataclass(frozen=True, slots=True)
class Insert:
    """A row came."""

    table: TableRef
    columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Update:
    """A row changed.

    Attributes:
        old_columns: The old row under REPLICA IDENTITY FULL, the old key where the key changed, else None.
        new_columns: The new row; a value that was not changed and not sent is `UNCHANGED`.
    """

    table: TableRef
    old_columns: Columns | None
    new_columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Delete:
    """A row went. `columns` is the old row under REPLICA IDENTITY FULL, else its key."""

    table: TableRef
    columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables were emptied by one TRUNCATE."""

    tables: tuple[TableRef, ...]
    cascade: bool
    restart_identity: bool
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """A table's columns, first seen in this stream (`old` is None) or different from now on."""

    table: TableRef
    old: TableSchema | None
    new: TableSchema
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction starts; its changes follow, then its `Commit`."""

    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction is complete.

    Attributes:
        end_lsn: End of the commit record: confirm this LSN once the transaction's changes are durable.
    """

    position: SourcePosition
    end_lsn: Lsn


@dataclass(frozen=True, slots=True)
class Message:
    """A message written by `pg_logical_emit_message`."""

    prefix: str
    content: bytes
    transactional: bool
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server is alive and has sent everything up to `wal_end`.

    Outside a transaction, with all earlier changes durable, `wal_end` may be confirmed.
    """

    wal_end: Lsn


CdcRecord = Insert | Update | Delete | Truncate | SchemaChange | Begin | Commit | Message | Heartbeat

__all__ = [
    "UNCHANGED",
    "Begin",
    "CdcRecord",
    "ColumnValue",
    "Commit",
    "Delete",
    "Heartbeat",
    "Insert",
    "Message",
    "SchemaChange",
    "SourcePosition",
    "Truncate",
    "Unchanged",
    "Update",
]
