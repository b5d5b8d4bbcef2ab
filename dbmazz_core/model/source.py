"""What the engine reads from a source: events of tables, in parts that end where it may commit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceTable, TableIdentity
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.checkpoint import SystemIdentity
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

    @property
    def receive_cpu_s(self) -> float:
        """CPU seconds that receiving took; complete once the stream has ended."""

    def next(self, *, rows: int, size: int, timeout: float) -> StreamPart | None:
        """The next part, ended at the first commit with that many rows or bytes; None if nothing came in time."""

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything committed before `lsn` as durable."""


class FoundTable(Protocol):
    """A configured table as a look at the source has found it."""

    @property
    def ref(self) -> TableRef:
        """Its name."""

    @property
    def oid(self) -> int:
        """Never another table's while this one lives, whatever it is called."""

    @property
    def estimated_rows(self) -> int:
        """Rows, as the source estimates them; negative where it does not know."""


class Look(Protocol):
    """One look at the source: everything that check, set-up and resuming have to know of it."""

    @property
    def tables(self) -> Sequence[FoundTable]:
        """The configured tables that can be captured."""

    def verify_tables(self) -> None:
        """Raise TableNotFound, or TableNotSupported, if there are others."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a window ends.

    Attributes:
        lsn: What the server had committed when it was asked.
        tables: The tables that are known to be so there.
        same_keys: Those of them whose key has been the same columns, under the same names, since they were recorded.
    """

    lsn: Lsn
    tables: Mapping[TableRef, SourceTable]
    same_keys: frozenset[TableRef]


class Snapshot(Protocol):
    """Tables as of one position. Use as a context manager; the snapshot ends with it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    @property
    def lsn(self) -> Lsn:
        """Its position: a transaction is in it exactly if its commit record lies before."""

    def table(self, table: TableRef) -> SourceTable | None:
        """A table as the catalog has it; None if it is gone, or what is published of it was changed meanwhile."""

    def rows(self, table: TableRef, *, lenient: bool) -> Iterator[CopiedRows]:
        """All rows that are published of a table, in any order.

        Args:
            table: The table.
            lenient: Whether texts that are no values are let through.
        """

    def is_unaltered(self, table: TableRef) -> bool:
        """Whether the table is still what it is in the snapshot.

        Neither columns nor rewritten rows are those of the snapshot: ALTER TABLE and TRUNCATE are not MVCC-safe, after
        them the snapshot sees other columns, or no rows at all (PostgreSQL manual, "Caveats" of MVCC). So after the
        copy the table has to be what it is in the snapshot.
        """


class Source(Protocol):
    """A source, as the engine uses it. Names of tables are those of the last look."""

    @property
    def identity(self) -> SystemIdentity:
        """The server."""

    def look(self) -> Look:
        """Look at everything that check, set-up and resuming have to know, once."""

    def column_names(self) -> Mapping[TableRef, tuple[str, ...]]:
        """The columns of each table that are captured, or will be once it is published."""

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """Raise ConfigError if a table was copied under other rules for its columns than today's."""

    def verify_hidden(self, table: TableRef, copied_as: TableRef, identity: TableIdentity) -> None:
        """Raise ConfigError if today's rules show a column that was hidden when a table was copied."""

    def slot(self) -> object | None:
        """The slot, None if there is none."""

    def verify_slot(self, checkpoint_lsn: Lsn | None) -> object | None:
        """The slot, checked against the checkpoint."""

    def verify_history(self, lsn: Lsn, timeline: int) -> None:
        """Raise ServerBehindCheckpoint unless the server's history leads to this position and on from there."""

    def snapshot(self, tables: Collection[TableRef], *, new_slot: bool) -> Snapshot:
        """Tables as of one position.

        Args:
            tables: Those that may be read.
            new_slot: Whether the slot is created, and its beginning is the position.
        """

    def describe_tables(self, tables: Collection[TableRef]) -> Mapping[TableRef, SourceTable]:
        """Tables as the catalog has them now. One that is gone, or cannot be captured, is left out."""

    def describe(self, oid: int) -> SourceTable | None:
        """A table by its OID, as the catalog has it now; None if it is gone, or cannot be captured any more."""

    def layouts(self, types: Collection[int]) -> Mapping[int, str]:
        """Layouts of types by OID, see `SourceTable.layouts`."""

    def bound(self, tables: Collection[TableRef], known: Mapping[TableRef, TableIdentity]) -> Bound:
        """Where the server is now, and the tables that are known to be so there.

        Args:
            tables: The captured tables.
            known: What they were when the destination was last made to fit.
        """

    def stream_end(self, lsn: Lsn, copies: Mapping[TableRef, Lsn]) -> Lsn | None:
        """Where a stream that begins at `lsn` has to end, and another one to begin; None if it may go on.

        Args:
            lsn: Where it begins.
            copies: The captured tables, and where each was copied.
        """

    def start_replication_from(
        self,
        lsn: Lsn,
        *,
        upper_lsn: Lsn | None = None,
        tables: Collection[TableRef] | None = None,
        table_start: Mapping[TableRef, Lsn] | None = None,
        schemas: Mapping[TableRef, TableSchema] | None = None,
        identities: Mapping[TableRef, TableIdentity] | None = None,
        same_keys: Collection[TableRef] = (),
        lenient: Callable[[TableRef], bool] | None = None,
    ) -> ChangeStream:
        """Stream transactions committed at or after `lsn`.

        Args:
            lsn: Usually a checkpoint.
            upper_lsn: Transactions committed at or after it are left for later.
            tables: The captured tables.
            table_start: Tables whose changes start later, because their snapshot is newer.
            schemas: The tables as they were when they were copied.
            identities: What these were, so that they are followed under their name whatever they are called now.
            same_keys: See `Bound.same_keys`.
            lenient: Of which tables the change batches keep bad values apart, see `RowImages.unreadable`.
        """

    def end_stream(self) -> None:
        """End the stream so that the last acknowledgement arrives."""
