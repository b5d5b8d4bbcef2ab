"""What the engine reads from a source: events of tables, in parts that end where it may commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.records import CommittedTransaction, SourcePosition
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class Truncation:
    """A captured table was emptied here."""

    table: TableRef
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class DescribedColumn:
    """A column of the stream, by its name and its type's OID."""

    name: str
    type_oid: int


@dataclass(frozen=True, slots=True)
class NewSchema:
    """A captured table is described: for the first time in this stream, or anew since something about it changed.

    Attributes:
        schema: The columns as rows have them from here on.
        commit_lsn, xid: Of the transaction in which it is described.
        relation: OID of the table.
        partition: OID of a partition that shows up here for the first time; 0: none does.
        described: All columns that the stream has, also those that are not captured, in its order.
        root: Another table, under whose name its changes come here, since it is a partition of it.
        key_in_doubt: Whether rows come whole (REPLICA IDENTITY FULL), and which columns were the key is not known. The
            schema has none then.
    """

    schema: TableSchema
    commit_lsn: Lsn
    xid: int
    relation: int = 0
    partition: int = 0
    described: tuple[DescribedColumn, ...] = ()
    root: TableRef | None = None
    key_in_doubt: bool = False

    @property
    def table(self) -> TableRef:
        """The table."""
        return self.schema.table


#: Events of one table come in stream order; tables are independent of each other within a transaction.
TableEvent = ChangeBatch | Truncation | NewSchema


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """Some rows of a table as they are in a snapshot.

    Attributes:
        frame: The schema's columns in carrier dtypes, named by their places (`frame_columns`); null where a text is no
            value of its column's type.
        unreadable: By number of a column that has such texts: these (String), null in all other rows.
    """

    frame: pl.DataFrame
    unreadable: Mapping[int, pl.Series]


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Some consecutive messages of the stream, decoded.

    Attributes:
        events: Of the captured tables.
        complete: Whether no transaction is open behind this part. A part that is not complete holds changes of one
            transaction whose COMMIT has not come; a later part completes it.
        end_lsn: All transactions committed before it have been in this part or earlier ones. None if nothing is known.
        transactions: Transactions that ended in this part.
        bytes: Bytes of messages.
        last: The last of them.
        at_bound: Whether the next transaction committed at or after the stream's upper LSN.
    """

    events: list[TableEvent]
    complete: bool
    end_lsn: Lsn | None
    transactions: int
    bytes: int
    last: CommittedTransaction | None
    at_bound: bool


class ChangeStream(Protocol):
    """Changes of the captured tables in commit order."""

    def next(self, *, rows: int, size: int, timeout: float) -> StreamPart | None:
        """The next part, ended at the first commit with that many rows or bytes; None if nothing came in time."""

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything committed before `lsn` as durable."""
