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

#: A value of a record. Values that Python's own types cannot hold are texts: `infinity`, `24:00:00`, dates BC, `NaN` of
#: a decimal with a declared precision, intervals of months. Arrays are lists, nested for each dimension; hstore is a
#: dict. An unchanged TOAST value that PostgreSQL did not send is `UNCHANGED`, never None.
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
    """A committed transaction of the source. The attributes together identify the server's history.

    Attributes:
        commit_lsn: LSN of its commit record.
        xid: Transaction id.
        commit_time: Commit time.
    """

    commit_lsn: Lsn
    xid: int
    commit_time: datetime


@dataclass(frozen=True, slots=True, order=True)
class SourcePosition:
    """The position of a change in the source's order: by the commit of its transaction, then within the transaction.

    The WAL position of the change itself does not give the order: concurrent transactions interleave in the WAL but
    arrive in commit order, and the rows of one COPY share one position.

    Attributes:
        commit_lsn: LSN of the transaction's commit record. A checkpoint at P holds exactly the transactions with
            `commit_lsn < P`.
        ordinal: Number of the change in its transaction, from 1; 0 is the BEGIN.
        xid: Transaction id; 0 outside a transaction.
        commit_time: Commit time of the transaction, UTC.
    """

    commit_lsn: Lsn
    ordinal: int
    xid: int = 0
    commit_time: datetime | None = None

    @property
    def lsn(self) -> Lsn:
        """The commit LSN. The Rust connector calls it `SourcePosition::Lsn`."""
        return self.commit_lsn


@dataclass(frozen=True, slots=True)
class Insert:
    """A row was inserted."""

    table: TableRef
    columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Update:
    """A row was updated.

    Attributes:
        old_columns: The old row under REPLICA IDENTITY FULL; otherwise the old key if the key changed, else None.
        new_columns: The new row. An unchanged TOAST value that was not sent is `UNCHANGED`.
    """

    table: TableRef
    old_columns: Columns | None
    new_columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Delete:
    """A row was deleted. `columns` is the old row under REPLICA IDENTITY FULL, otherwise its key."""

    table: TableRef
    columns: Columns
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Truncate:
    """A TRUNCATE emptied tables."""

    tables: tuple[TableRef, ...]
    cascade: bool
    restart_identity: bool
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """The columns of a table: the first description in this stream (`old` is None), or a change."""

    table: TableRef
    old: TableSchema | None
    new: TableSchema
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins. Its changes follow, then its `Commit`."""

    position: SourcePosition


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction is complete.

    Attributes:
        end_lsn: End of the commit record. Confirm this LSN once the changes of the transaction are durable.
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

    If all earlier changes are durable and no transaction is open, `wal_end` may be confirmed.
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
