"""`Source`: the protocol between the engine and a source of changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import polars as pl

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Reshape, Resnapshot
from dbmazz_core.model.stream import ChangeStream, NewSchema
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.table_ref import TableRef


class FoundTable(Protocol):
    """A configured table that a look at the source has found."""

    @property
    def ref(self) -> TableRef:
        """The table's name."""

    @property
    def estimated_rows(self) -> int:
        """Rows, as the source estimates them; negative where it does not know."""


class Look(Protocol):
    """One read of everything that check, set-up and resume have to know of the source."""

    @property
    def tables(self) -> Sequence[FoundTable]:
        """The configured tables that can be captured."""

    def verify_tables(self) -> None:
        """Raise TableNotFound or TableNotSupported if a configured table cannot be captured."""


class SourceTable(Protocol):
    """A table as the source has it at some position."""

    @property
    def table(self) -> TableRef:
        """The table's name."""

    @property
    def schema(self) -> TableSchema:
        """The captured columns, and the key."""

    @property
    def token(self) -> TableToken:
        """What the table is, see `TableShape.token`."""


@dataclass(frozen=True, slots=True)
class FollowedTable:
    """A table that the stream follows.

    Attributes:
        shape: Its shape in the destination.
        start: Its snapshot contains the transactions that committed before this LSN.
    """

    shape: TableShape
    start: Lsn


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a stream ends.

    Attributes:
        lsn: The upper LSN: transactions that commit at or after it are left for later.
        tables: Tables that are certain to be so at `lsn`.
        same_keys: Tables whose key has been the same columns, under the same names, since their shape was recorded.
        more: Whether the window goes on behind `lsn` with another stream.
    """

    lsn: Lsn
    tables: Mapping[TableRef, SourceTable]
    same_keys: frozenset[TableRef] = frozenset()
    more: bool = False


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What the source still has of the feed.

    Attributes:
        position: The position that was confirmed last; None: the feed has to be created.
        restart: Whether the feed was dropped on purpose when the last run stopped: every table is copied again.
    """

    position: Lsn | None
    restart: bool = False


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """Rows of a table as of a snapshot.

    Attributes:
        frame: The schema's columns in carrier dtypes, named by their places (`frame_columns`); null where a text is no
            value of its column's type.
        unreadable: By number of a column that has such texts: the texts (String), null in all other rows.
    """

    frame: pl.DataFrame
    unreadable: Mapping[int, pl.Series]


class Snapshot(Protocol):
    """Tables as of one position. Use as a context manager; the snapshot ends with it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    @property
    def lsn(self) -> Lsn:
        """Its position: the snapshot contains exactly the transactions whose commit record lies before it."""

    def table(self, table: TableRef) -> SourceTable | None:
        """Return a table; None if it was dropped, or published in another way, since the snapshot was asked for."""

    def rows(self, table: TableRef, *, lenient: bool) -> Iterator[CopiedRows]:
        """Yield all rows of a table that are captured, in any order.

        Args:
            table: The table.
            lenient: Whether texts that are no values of their column's type are yielded rather than raised.
        """

    def is_unaltered(self, table: TableRef) -> bool:
        """Return whether the table is still the one of the snapshot, with the same columns and storage.

        ALTER TABLE and TRUNCATE are not MVCC-safe: after them a snapshot shows other columns, or no rows at all
        (PostgreSQL manual, "Caveats" of MVCC). So a copy is valid only if the table is unaltered at its end.
        """


class Source(Protocol):
    """A source of changes, as the engine uses it. Names of tables are those of the last look."""

    @property
    def identity(self) -> SystemIdentity:
        """The server and its database."""

    def look(self) -> Look:
        """Read everything that check, set-up and resume have to know."""

    def column_names(self) -> Mapping[TableRef, tuple[str, ...]]:
        """Return the columns of each configured table that are captured, or will be once the source is set up."""

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """Raise ConfigError if the table was copied under other rules for its columns than those of today."""

    def verify_redacted(self, tables: Collection[TableRef], recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError if the rules of today show a column that was redacted when its table was copied.

        Args:
            tables: Configured tables.
            recorded: Tables of the destination, by the name under which they were copied.
        """

    def verify_redacted_in(self, table: SourceTable, recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError like `verify_redacted`, for one table as it is about to be copied."""

    def names_today(self, recorded: Mapping[TableRef, TableToken]) -> Mapping[TableRef, TableRef]:
        """Return the names that the destination's tables have at the source today.

        Args:
            recorded: Tables of the destination, by the name under which they were copied.

        Returns:
            By that name, the name of today; without tables that are not configured (any more).
        """

    def verify_origin(self, checkpoint: Checkpoint, *, destination: str) -> None:
        """Raise WrongServer if the checkpoint is of another server or database.

        Args:
            checkpoint: The destination's.
            destination: How the error names the destination.
        """

    def verify_position(self, checkpoint: Checkpoint, *, and_feed: bool) -> None:
        """Raise ServerBehindCheckpoint, or SlotError, if the stream cannot go on from the checkpoint.

        Args:
            checkpoint: The destination's.
            and_feed: Whether the feed is verified too.
        """

    def resume(self, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
        """Verify that the stream can go on from the checkpoint, and that it is the stream of the same history.

        Args:
            checkpoint: The destination's; None: it has none.
            stopped: Whether to give up.

        Raises:
            ServerBehindCheckpoint, HistoryDiverged: The server's history is not that of the checkpoint.
            SlotError: The feed is gone, ahead of the checkpoint, or in use.
            StopRequested: `stopped` said so.
        """

    def snapshot(self, tables: Collection[TableRef], *, new_feed: bool) -> Snapshot:
        """Return a snapshot.

        Args:
            tables: Tables that may be read.
            new_feed: Whether the feed is created: it begins at the snapshot's position.
        """

    def describe_tables(self, tables: Collection[TableRef]) -> Mapping[TableRef, SourceTable]:
        """Return tables as they are now. A table that was dropped, or cannot be captured, is left out."""

    def bound(self, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
        """Return where a stream from `start` ends: at the server's current position, or before.

        Args:
            start: Where the stream begins.
            followed: The tables that it follows.
        """

    def stream(
        self,
        start: Lsn,
        bound: Bound,
        followed: Mapping[TableRef, FollowedTable],
        *,
        lenient: Callable[[TableRef], bool] | None,
    ) -> ChangeStream:
        """Stream transactions that committed at or after `start`.

        Args:
            start: The checkpoint.
            bound: Where the stream ends.
            followed: The captured tables.
            lenient: Tables whose change batches keep unreadable values apart, see `RowImages.unreadable`; None: none.

        Raises:
            SlotAheadOfCheckpoint: The feed was confirmed beyond `start`: changes between are gone.
            SlotActive: Another process consumes the feed.
            ConfigError: The rules for columns do not fit the tables.
        """

    def explain(
        self, known: TableShape, seen: NewSchema | SourceTable, *, truncated_by: int = 0
    ) -> Reshape | Resnapshot:
        """Explain how a table changed since its shape was recorded.

        Args:
            known: The destination's table.
            seen: The table as the stream describes it, or as `Bound.tables` has it.
            truncated_by: The transaction of the last TRUNCATE of the table in the stream; 0: there was none.

        Raises:
            ConfigError: A column that was redacted has a name today under which the rules show it.
        """

    def end_stream(self) -> None:
        """End the stream so that the last acknowledgement arrives."""
