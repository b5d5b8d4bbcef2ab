"""`Sink`: the protocol between the engine and a destination."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self

from dbmazz_core.errors import DestinationError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.copy_progress import CopyProgress
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.table_audit import TableAudit
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import Problem, TableStatus
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl


class NoRoom(Exception):
    """A transaction has no room for rows of a table in the destination's memory; it must be rolled back.

    Attributes:
        again: Whether another transaction can take the same rows: the sink writes them in another way then. Otherwise
            only a re-snapshot of the table helps.
    """

    def __init__(self, *, again: bool) -> None:
        super().__init__(again)
        self.again = again


class Loader(Protocol):
    """Loads the rows of a snapshot into one table."""

    def append(self, rows: pl.DataFrame) -> None:
        """Append whole rows, in carrier dtypes, columns named by their places.

        Raises:
            NoRoom: Another transaction must load the table, from its first row.
        """

    def finish(self) -> None:
        """Complete the copy: all rows of the snapshot were appended."""


class StagedCopy(Protocol):
    """Rows of a copy that become durable in pieces, beside the table, until they take its place.

    Use as a context manager: leaving it takes back what was not committed. Every method raises DestinationError or
    DataError with a remedy.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    @property
    def progress(self) -> CopyProgress | None:
        """The rows that an earlier copy of the table has left; None: there are none, or they cannot be used."""

    @property
    def rows(self) -> int:
        """The number of rows, also of those that are not committed."""

    def begin(self) -> None:
        """Drop what an earlier copy has left."""

    def keep(self, keys: Iterable[pl.DataFrame]) -> bool:
        """Take rows away whose keys are not among some keys; return whether each of the keys has one row then.

        Args:
            keys: Key columns, in carrier or natural dtypes, named by their places.
        """

    def append(self, rows: pl.DataFrame, lsn: Lsn) -> None:
        """Append whole rows, in carrier or natural dtypes, columns named by their places.

        Args:
            rows: The rows.
            lsn: LSN of their snapshot.

        Raises:
            NoRoom: `commit` must come first.
        """

    def commit(self, progress: CopyProgress) -> None:
        """Make all rows durable, together with the progress."""

    def drop(self) -> None:
        """Drop the rows and the progress, also what is committed."""


class SinkTransaction(Protocol):
    """One transaction of a destination: all its changes become durable together with the checkpoint, or none.

    Use as a context manager: leaving it without `commit` rolls back. Every method raises DestinationError or DataError
    with a remedy; after an error only `rollback` may be called.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def mark(
        self, table: TableRef, state: TableStatus, problem: Problem | None = None, *, retry_when: str | None = None
    ) -> None:
        """Record the state of a table that does not stream from now on; its rows stay as they are.

        Args:
            table: A table of this feed, or one that was never copied.
            state: The state.
            problem: Why the table is in this state.
            retry_when: See `TableState.retry_when`.
        """

    def forget(self, tables: Collection[TableRef]) -> None:
        """Forget tables that were never copied."""

    def rename_tables(self, names: Mapping[TableRef, TableRef]) -> None:
        """Rename tables, by old name, all at once."""

    def create_table(
        self, shape: TableShape, *, snapshot_lsn: Lsn, mode: Mode, complete: bool, staged: StagedCopy | None = None
    ) -> Loader:
        """Create a table, or begin its re-snapshot. Readers see the old rows until `commit`.

        Args:
            shape: The table.
            snapshot_lsn: The loaded rows contain exactly the transactions that committed before this LSN.
            mode: The mode of the table. A re-snapshot in the same mode keeps the rows that are marked as deleted
                (`soft_delete`), or the changes (`changelog`). In another mode the table is replaced.
            complete: Whether the table is going to hold exactly the source's rows. If so, a change that does not find
                its row is an error from then on.
            staged: All rows of the snapshot, committed, which take the table's place.
        """

    def evolve(self, event: SchemaEvent) -> bool:
        """Change the shape of a table, and record the new shape.

        Returns:
            False if the destination cannot change the shape after earlier changes of the table in this transaction.
            Then the table was not altered.
        """

    def abandon(self, event: SchemaEvent) -> None:
        """Record that a table must be re-snapshotted, and why."""

    def apply(self, effect: NetEffect) -> None:
        """Apply the net effect of changes on a table in mode `mirror` or `soft_delete` (with commit times).

        Raises:
            DestinationConflict: The table is complete and lacks a row that is changed, or has it twice.
            NoRoom: The transaction must be rolled back, and repeated or given up for this table.
        """

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """Append changes, as `dbmazz_core.engine.changelog` makes them, to a table in mode `changelog`."""

    def unrepresentable(self, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """Find values that the destination's types cannot hold.

        Args:
            schema: The table.
            frame: Some of its columns, in carrier dtypes, named by their places.

        Returns:
            Columns `row` and `column` (Int64): the numbers of the frame's rows with such values, ascending, and the
                place
            in the frame of the first such column of the row.
        """

    def other_values(self, schema: TableSchema, column: str, known: Collection[str]) -> Collection[str]:
        """Return the texts in a column, or in its lists, that are not among the known texts.

        Only rows that the source has are read; in a changelog, all changes since the last copy of the table.

        Args:
            schema: The table.
            column: A column of text, or of lists of text.
            known: The known texts.
        """

    def missing(self, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
        """Return the numbers (Int64, ascending) of keys under which the table has no row.

        In a changelog, a key has no row if its last change deleted the row.

        Args:
            schema: The table.
            keys: Keys of the table, in carrier dtypes, with columns named by their places.
        """

    def quarantine(self, table: TableRef, rows: pl.DataFrame) -> None:
        """Add rows to the quarantine of a table. They have the columns of `engine.quarantine.rows.ROWS`."""

    def record_shapes(self, shapes: Iterable[TableShape]) -> None:
        """Replace the recorded shapes of tables; the tables are not altered."""

    def commit(self, checkpoint: Checkpoint | None = None, *, last: bool = False) -> None:
        """Make everything since `Sink.begin` durable.

        Args:
            checkpoint: The new checkpoint; None: the checkpoint is not changed.
            last: Whether the destination is released next: data is moved to the place where that would move it.

        Raises:
            NoRoom: The destination had too little memory, and can take more now. The bookkeeping, read again, tells
                whether the changes are durable.
        """

    def rollback(self) -> None:
        """Undo everything since `Sink.begin`. After `commit` this has no effect."""


class Sink(Protocol):
    """A destination of one feed: it holds the tables and remembers the checkpoint. Use as a context manager.

    It is opened when it is first used, and held from `begin` until `release`.

    Every method raises DestinationError with a remedy.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self) -> Recorded:
        """Read the bookkeeping of the feed: the checkpoint, and the tables."""

    def identity(self) -> DestinationIdentity:
        """Return what tells this destination from others; without an id until `identify` has given it one."""

    def identify(self) -> DestinationIdentity:
        """Give the destination an id, if it has none, and make it durable; return its identity."""

    def owner_conflicts(self, tables: Collection[TableRef]) -> Mapping[TableRef, DestinationError]:
        """Return an error for each table that `create_table` must not replace: dbmazz or this feed does not own it."""

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationError]:
        """Return an error for each name that the destination cannot hold, or not together with another name.

        Args:
            tables: The source's tables, each with its columns.
        """

    def name_warnings(self, tables: Collection[TableRef]) -> Sequence[DestinationError]:
        """Return what readers of the destination must know about names of tables."""

    def begin(self) -> SinkTransaction:
        """Begin a transaction. Only one at a time.

        Raises:
            DestinationLocked: Another process uses the destination for longer than the settings allow.
            DestinationChanged: Another process has changed the feed's tables or bookkeeping since the last read or
                transaction.
        """

    def stage(self, shape: TableShape, mode: Mode) -> StagedCopy:
        """Return a copy of a table in pieces. No transaction may be open, nor be begun, until it is left.

        Raises:
            DestinationLocked, DestinationChanged: See `begin`.
        """

    def release(self) -> None:
        """Let others use the destination until the next call. No transaction may be open."""

    def publish(self) -> ReadCopy | None:
        """Publish a copy for readers that keep it open, if the settings name one; a failure is in the result."""

    def version(self) -> str | None:
        """Return a text that differs once the destination has changed, without opening it; None if there is none."""

    def format(self) -> str | None:
        """Return which programs can read the destination, as a phrase; None if it does not exist, or does not tell."""

    def rewrite(self) -> str:
        """Write the destination anew in the format of the settings; return a sentence that says what was done.

        Raises:
            DestinationLocked: Others use the destination.
        """

    @property
    def held_s(self) -> float:
        """Seconds for which the destination was held, so that others could not use it."""

    def interrupt(self) -> None:
        """Cancel the statement that another thread runs, if there is one; it raises DestinationError there."""

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """Return the numbers of rows by table: in `soft_delete` without deleted rows, in `changelog` of changes."""

    def audit(self, tables: Iterable[TableRef], *, max_rows: int | None = None) -> Mapping[TableRef, TableAudit]:
        """Return facts about the rows of tables that were copied.

        Args:
            tables: The tables.
            max_rows: Keys are compared only in tables with at most so many rows; None: in all tables.
        """

    def quarantined(self) -> Mapping[TableRef, int]:
        """Return the number of rows in quarantine by table. Tables without such rows are left out."""

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """Return the number of a table's rows in quarantine by reason, the most frequent reason first."""
