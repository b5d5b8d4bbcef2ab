"""`Sink`: the protocol between the engine and a destination."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, Self

import polars as pl

from dbmazz_core.errors import DestinationError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.table_ref import TableRef


class Loader(Protocol):
    """Loads the rows of a snapshot into one table."""

    def append(self, rows: pl.DataFrame) -> None:
        """Append whole rows, in carrier dtypes, columns named by their places."""

    def finish(self) -> None:
        """Complete the copy: all rows of the snapshot were appended."""


class SinkTransaction(Protocol):
    """One transaction of a destination: what it does becomes durable together with the checkpoint, or not at all.

    Use as a context manager: leaving it without `commit` rolls back. Every method raises DestinationError or DataError
    with a remedy; after an error only `rollback` may be called.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def mark_incomplete(self, tables: Collection[TableRef]) -> None:
        """Record that tables of this feed must be re-snapshotted."""

    def rename_tables(self, names: Mapping[TableRef, TableRef]) -> None:
        """Give tables other names, all at once."""

    def create_table(self, shape: TableShape, *, snapshot_lsn: Lsn, mode: Mode, complete: bool) -> Loader:
        """Create a table, or begin to copy it again; readers see the old rows until `commit`.

        Args:
            shape: The table.
            snapshot_lsn: The rows that are loaded contain the transactions that committed before this LSN.
            mode: How the table is kept. In the mode that it had, what the mode keeps is carried over: rows that are
                marked as deleted, changes. In another mode the table is made anew.
            complete: Whether the table is going to hold exactly the source's rows. If so, a change that does not find
                its row is an error from then on.
        """

    def evolve(self, event: SchemaEvent) -> bool:
        """Give a table another shape, and record the shape.

        Returns:
            False if that cannot be done after what the transaction has done to the table; nothing has happened then.
        """

    def abandon(self, event: SchemaEvent) -> None:
        """Record that a table must be re-snapshotted, and why."""

    def apply(self, effect: NetEffect) -> None:
        """Apply the net effect of changes on a table in mode `mirror` or `soft_delete` (with commit times).

        Raises:
            DestinationConflict: The table is complete and lacks a row that is changed, or has it twice.
        """

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """Append changes, as `dbmazz_core.engine.changelog` makes them, to a table in mode `changelog`."""

    def unrepresentable(self, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """Find values that the destination's types cannot hold.

        Args:
            schema: The table.
            frame: Some of its columns, in carrier dtypes, named by their places.

        Returns:
            Columns `row` and `column` (Int64): numbers of rows of the frame, ascending, and the first such column of
            each, as its place in the frame.
        """

    def other_values(self, schema: TableSchema, column: str, known: Collection[str]) -> Collection[str]:
        """Return the texts in a column, or in its lists, that are none of the known ones.

        Of the rows that the source has; in a changelog, of all changes since the table was copied last.

        Args:
            schema: The table.
            column: A column of text, or of lists of text.
            known: Texts.
        """

    def missing(self, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
        """Return the numbers (Int64, ascending) of the keys under which the table holds no row.

        In a changelog: of the keys whose last change has deleted the row.

        Args:
            schema: The table.
            keys: Its key columns in carrier dtypes, named by their places.
        """

    def quarantine(self, table: TableRef, rows: pl.DataFrame) -> None:
        """Keep rows that the table cannot hold; `rows` has the columns of `engine.quarantine.rows.ROWS`."""

    def commit(self, checkpoint: Checkpoint | None = None, *, last: bool = False) -> None:
        """Make everything since `Sink.begin` durable.

        Args:
            checkpoint: The new checkpoint; None: it stays.
            last: No commit is expected to follow: move the data to where closing would move it.
        """

    def rollback(self) -> None:
        """Undo everything since `Sink.begin`; after `commit` nothing happens."""


class Sink(Protocol):
    """A destination of one feed: it holds the tables and remembers the checkpoint. Use as a context manager.

    Every method raises DestinationError with a remedy.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self) -> Recorded:
        """Read everything that is remembered of the feed: the checkpoint, and the tables."""

    def owner_conflicts(self, tables: Collection[TableRef]) -> Mapping[TableRef, DestinationError]:
        """Return the tables that `create_table` must not replace, and why: they are not ours, or another feed's."""

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationError]:
        """Return what the destination cannot hold because of its name, or not beside another name.

        Args:
            tables: The source's tables, each with its columns.
        """

    def begin(self) -> SinkTransaction:
        """Begin a transaction. Only one at a time."""

    def interrupt(self) -> None:
        """Cancel the statement that another thread runs, if there is one; it raises DestinationError there."""

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """Return the rows that tables hold: in `soft_delete` those not marked as deleted, in `changelog` changes."""

    def count_duplicated_keys(self, schema: TableSchema) -> int:
        """Return how many keys occur more than once among the rows that the source has."""

    def quarantined(self) -> Mapping[TableRef, int]:
        """Return the rows of each table in quarantine; tables without any are left out."""

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """Return the reasons why rows of a table are in quarantine, with their numbers, the most frequent first."""
