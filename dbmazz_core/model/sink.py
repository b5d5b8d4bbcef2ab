"""What the engine asks of a destination."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol, Self

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.errors import DestinationError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import SchemaEvent
from dbmazz_core.table_ref import TableRef


class Sink(Protocol):
    """A destination: it remembers the checkpoint, and writes effects and checkpoint in one transaction.

    Every method raises DestinationError or DataError with its remedy; after an error nothing since `begin` is kept.
    """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def read(self, slot: str) -> Recorded:
        """Everything that is remembered for a slot, read once: the checkpoint, and the tables that it feeds."""

    def owner_conflicts(self, tables: Collection[TableRef], *, slot: str) -> Mapping[TableRef, DestinationError]:
        """Those of the tables that `create_table` must not replace, and why: not ours, or another slot's."""

    def name_conflicts(self, tables: Mapping[TableRef, Sequence[str]]) -> Sequence[DestinationError]:
        """What the destination cannot keep beside each other, or not at all, because of its name.

        Args:
            tables: The source's tables, each with its columns.
        """

    def mark_incomplete(self, slot: str, tables: Collection[TableRef] | None = None) -> None:
        """Record, at once, that tables of a slot have to be copied anew; None: every one."""

    def begin(self) -> None:
        """Start the transaction that holds everything until `commit`. Only one at a time."""

    def create_table(
        self,
        schema: TableSchema,
        *,
        slot: str,
        snapshot_lsn: Lsn,
        mode: Mode = Mode.MIRROR,
        complete: bool = True,
        identity: TableIdentity | None = None,
    ) -> None:
        """Create a table, or begin to copy it again; readers see the old rows until `commit`.

        Args:
            schema: The table.
            slot: The slot that feeds it.
            snapshot_lsn: Changes of transactions committed before this LSN are in the rows that are appended.
            mode: How it is kept. In the mode that it had, what the mode keeps is carried over: rows that are marked
                as deleted, changes. In another one it is made anew.
            complete: Whether it is going to hold exactly the source's rows. If so, a change that does not find its
                row is an error from then on.
            identity: What the source's table is.
        """

    def evolve(self, event: SchemaEvent, *, slot: str) -> bool:
        """Give a table another shape, in the open transaction, and record it.

        Returns:
            False if it cannot be done after what the transaction has done to the table; nothing has happened then.
        """

    def abandon(self, event: SchemaEvent, *, slot: str) -> None:
        """Record, in the open transaction, that a table has to be copied anew, and why."""

    def rename_tables(self, names: Mapping[TableRef, TableRef], *, slot: str) -> None:
        """Give tables other names, all at once, in a transaction of its own."""

    def append(self, schema: TableSchema, rows: pl.DataFrame) -> None:
        """Append whole rows (of a snapshot), in carrier dtypes, columns named by their places, after `create_table`."""

    def finish_copy(self, schema: TableSchema) -> None:
        """The rows of the snapshot are all there; between `create_table` and `commit`."""

    def apply(self, effect: NetEffect) -> None:
        """Apply the net effect of changes on a table in mode `mirror`, or `soft_delete` (with commit times).

        Raises DestinationConflict if the table is complete and lacks a row that is changed, or has it twice.
        """

    def append_changes(self, schema: TableSchema, changes: pl.DataFrame) -> None:
        """Append changes, as `dbmazz_core.engine.changelog` gives them, to a table in mode `changelog`."""

    def refused(self, schema: TableSchema, frame: pl.DataFrame) -> pl.DataFrame:
        """Values that the destination's types cannot hold.

        Args:
            schema: The table.
            frame: Some of its columns, in carrier dtypes, named by their places.

        Returns:
            Columns `row` and `column` (Int64): numbers of rows of the frame, ascending, and the first such column of
            each, as its place in the frame.
        """

    def other_values(self, schema: TableSchema, column: str, known: Collection[str]) -> Collection[str]:
        """Texts in a column, or in its lists, that are none of the known ones.

        Of the rows that the source has; in a changelog, of all changes since the table was copied last.

        Args:
            schema: The table.
            column: A column of text, or of lists of text.
            known: Texts.
        """

    def missing(self, schema: TableSchema, keys: pl.DataFrame) -> pl.Series:
        """Numbers (Int64, ascending) of the keys under which the table holds no row; in a changelog, of those that
        its last change has emptied.

        Args:
            schema: The table.
            keys: Its key columns in carrier dtypes, named by their places.
        """

    def quarantine(self, table: TableRef, rows: pl.DataFrame, *, slot: str) -> None:
        """Keep rows that the table cannot hold; `rows` has the columns of `engine.quarantine.ROWS`."""

    def quarantine_reasons(self, table: TableRef) -> Mapping[str, int]:
        """Why rows of a table are kept so, and how many for each reason, the most frequent first."""

    def count_duplicated_keys(self, schema: TableSchema) -> int:
        """How many keys occur more than once among the rows that the source has."""

    def quarantined(self, slot: str) -> Mapping[TableRef, int]:
        """How many rows of each table are kept so; tables without any are left out."""

    def commit(self, checkpoint: Checkpoint, *, last: bool = False) -> None:
        """Make everything since `begin`, and the checkpoint, durable.

        Args:
            checkpoint: The checkpoint.
            last: Nothing more is to come, as far as is known: put things where closing would.
        """

    def rollback(self) -> None:
        """Forget everything since `begin`; nothing happens without one."""

    def interrupt(self) -> None:
        """Break off the statement that another thread runs, if there is one; it raises DestinationError there."""

    def count_rows(self, tables: Iterable[TableRef]) -> Mapping[TableRef, int]:
        """Rows that tables hold now: in `soft_delete` those that are not marked, in `changelog` changes."""
