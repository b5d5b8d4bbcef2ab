"""`Source`: the protocol between the engine and a source of changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.copy_progress import CopyProgress, Part
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Reshape, Resnapshot
from dbmazz_core.model.stream import ChangeStream, NewSchema
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl


class FoundTable(Protocol):
    """A configured table that exists in the source."""

    @property
    def ref(self) -> TableRef:
        """The table's name."""

    @property
    def estimated_rows(self) -> int:
        """The number of rows, as the source estimates it; negative if the source has no estimate."""


class Look(Protocol):
    """One read of all facts about the source that check, set-up and resume need."""

    @property
    def tables(self) -> Sequence[FoundTable]:
        """The configured tables that can be captured."""

    def verify_tables(self) -> None:
        """Raise TableNotFound or TableNotSupported if a configured table cannot be captured."""


class SourceTable(Protocol):
    """A table of the source at some position."""

    @property
    def table(self) -> TableRef:
        """The table's name."""

    @property
    def schema(self) -> TableSchema:
        """The captured columns, and the key."""

    @property
    def token(self) -> TableToken:
        """The identity of the table, see `TableShape.token`."""


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
    """The end of a stream.

    Attributes:
        lsn: The upper LSN. Transactions that commit at or after it are left to the next stream.
        tables: The tables as they are at `lsn`, as far as that is certain.
        same_keys: Tables whose key has had the same columns, under the same names, since their shape was recorded.
        more: Whether the window continues after `lsn` with another stream.
        unchanged: Whether all followed tables are at `lsn` as they were when their shapes were recorded.
        is_open: Whether the stream goes on behind `lsn`, without an end. Only if `unchanged`, and not `more`.
    """

    lsn: Lsn
    tables: Mapping[TableRef, SourceTable]
    same_keys: frozenset[TableRef] = frozenset()
    more: bool = False
    unchanged: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The state of the feed when a window starts.

    Attributes:
        position: The confirmed position; None: the feed must be created.
        restart: Whether every table must be re-snapshotted, because the last run dropped the feed on purpose at its
            end.
    """

    position: Lsn | None
    restart: bool = False


@dataclass(frozen=True, slots=True)
class CopiedRows:
    """Rows of a table as of a snapshot.

    Attributes:
        frame: The schema's columns, named by their places (`frame_columns`). Each has its carrier dtype, or its
            natural one; the next frame may have the other one. Texts that are no values of their column's type are
            null.
        unreadable: By number of a column with such texts: the texts (String), null in all other rows.
        size: Bytes in which the rows came.
        completes: A part of the table of which these are the last rows; None: it is not known that they are.
    """

    frame: pl.DataFrame
    unreadable: Mapping[int, pl.Series]
    size: int = 0
    completes: Part | None = None


class ResumableCopy(Protocol):
    """The copy of one table from a snapshot, which another run can resume from a later snapshot.

    The rows of the earlier snapshot stay valid where the table has the same row in the later one. So a copy is resumed
    by keeping these rows only (`kept_keys`), and adding all others (`changed_rows`, `rows`).
    """

    @property
    def mark(self) -> str:
        """The table and the snapshot, as text for `continues`."""

    def continues(self, progress: CopyProgress) -> bool:
        """Return whether this copy can resume one whose progress was recorded: the same table of the same server."""

    def parts(self, finished: Sequence[Part]) -> Sequence[Part]:
        """Return the parts of the table without those that are finished."""

    def kept_keys(self, progress: CopyProgress) -> Generator[pl.DataFrame]:
        """Yield the keys of rows that are in the finished parts, and were there in the snapshot of the progress.

        The frames hold the key columns, named by their places in the schema.
        """

    def changed_rows(self, progress: CopyProgress) -> Generator[CopiedRows]:
        """Yield all other rows in the finished parts."""

    def rows(self, parts: Sequence[Part]) -> Generator[CopiedRows]:
        """Yield all rows in some parts, and tell when a part is complete (`CopiedRows.completes`)."""


class Snapshot(Protocol):
    """Tables as of one position. Use as a context manager, which releases the snapshot at its end."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    @property
    def lsn(self) -> Lsn:
        """The position of the snapshot: it contains exactly the transactions whose commit record lies before."""

    def table(self, table: TableRef) -> SourceTable | None:
        """Return a table; None if the table was dropped, or its publication changed, since `Source.snapshot`."""

    def rows(self, table: TableRef, *, keep_unreadable: bool) -> Iterator[CopiedRows]:
        """Yield all rows of a table that are captured, in any order.

        Args:
            table: The table.
            keep_unreadable: Whether texts that are no values of their column's type are yielded
                (`CopiedRows.unreadable`); otherwise they raise BadValue.
        """

    def resumable(self, table: TableRef) -> ResumableCopy | None:
        """Return the copy of a table in parts; None if the table is small, or another run could not resume it."""

    def altered(self, tables: Collection[TableRef]) -> Collection[TableRef]:
        """Return the tables that are not those of the snapshot any more, with the same columns and storage.

        ALTER TABLE and TRUNCATE are not MVCC-safe: after them a snapshot shows other columns, or no rows at all
        (PostgreSQL manual, "Caveats" of MVCC). So a copy is valid only if the table is unaltered at its end.
        """


class Source(Protocol):
    """A source of changes, as the engine uses it. Tables have their names of the last look."""

    @property
    def identity(self) -> SystemIdentity:
        """The server and its database."""

    def look(self) -> Look:
        """Read all facts that check, set-up and resume need."""

    def column_names(self) -> Mapping[TableRef, tuple[str, ...]]:
        """Return the columns of each configured table that are captured, or will be after set-up."""

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """Raise ConfigError if the table was copied under other rules for its columns than today's."""

    def verify_redacted(self, tables: Collection[TableRef], recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError if today's rules show a column that was redacted when its table was copied.

        Args:
            tables: Configured tables.
            recorded: Tables of the destination, by the name under which they were copied.
        """

    def verify_redacted_in(self, table: SourceTable, recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError if a table that is about to be copied would show a column that was redacted before."""

    def names_today(self, recorded: Mapping[TableRef, TableToken]) -> Mapping[TableRef, TableRef]:
        """Return today's names of the destination's tables at the source.

        Args:
            recorded: Tables of the destination, by the name under which they were copied.

        Returns:
            By the name under which a table was copied: its name today. Tables that are not configured are left out.
        """

    def verify_origin(self, checkpoint: Checkpoint, *, destination: str) -> None:
        """Raise WrongServer if the checkpoint belongs to another server or database.

        Args:
            checkpoint: The destination's checkpoint.
            destination: The destination's name for the error.
        """

    def checkpoint_after_upgrade(self, checkpoint: Checkpoint, tables: Mapping[TableRef, TableToken]) -> Checkpoint:
        """Return a checkpoint that continues on a server that was upgraded with its feed, without missing changes.

        Args:
            checkpoint: The destination's checkpoint, which belongs to the server before the upgrade.
            tables: The tables that the destination follows.

        Raises:
            WrongServer: The server cannot be the upgraded one.
            SlotError: The feed is in use, or unusable.
        """

    def tokens_after_upgrade(self, tables: Mapping[TableRef, TableToken]) -> Mapping[TableRef, TableToken]:
        """Return new tokens of the tables that the upgrade of the server left as the recorded tokens describe them."""

    def verify_position(self, checkpoint: Checkpoint, *, and_feed: bool) -> None:
        """Raise ServerBehindCheckpoint, or SlotError, if the stream cannot continue at the checkpoint.

        Args:
            checkpoint: The destination's checkpoint.
            and_feed: Whether the feed is verified too.
        """

    def mark_history(self) -> None:
        """Write a transaction without changes, if the source can, which the feed sends.

        Once it is the last applied transaction, it proves that a source has the history that the destination knows.
        """

    def verify_claim(self, destination: DestinationIdentity) -> None:
        """Verify, in the last look, that the feed does not serve another destination, as far as the source remembers.

        Raises:
            SlotServesOther: The feed exists, and serves another destination.
        """

    def claim(self, destination: DestinationIdentity) -> None:
        """Remember at the source, if that is possible, that the feed serves a destination."""

    def resume(self, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
        """Verify that the stream can continue at the checkpoint, and that the server has the same history.

        Args:
            checkpoint: The destination's checkpoint; None: it has none.
            stopped: Returns whether the run was asked to stop.

        Raises:
            ServerBehindCheckpoint, HistoryDiverged: The server does not have the history of the checkpoint.
            SlotError: The feed is gone, ahead of the checkpoint, or in use.
            StopRequested: `stopped` returned true.
        """

    def leave_out(self, tables: Collection[TableRef]) -> Look:
        """Take tables out of the last look, so that they are not captured; return the look without them."""

    def snapshot(self, tables: Collection[TableRef], *, new_feed: bool, hurried: bool = False) -> Snapshot:
        """Return a snapshot.

        Args:
            tables: Tables that may be read.
            new_feed: Whether the feed is created: it begins at the snapshot's position.
            hurried: Whether to wait only for a few seconds for open transactions and locks, because others wait.

        Raises:
            SlotCreationBlocked: Open transactions did not end in time.
        """

    def describe_tables(self, tables: Collection[TableRef]) -> Mapping[TableRef, SourceTable]:
        """Return tables as they are now. Tables that were dropped, or cannot be captured, are left out."""

    def bound(self, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
        """Return the end of a stream from `start`: the server's current position, or an earlier position.

        Args:
            start: The start of the stream.
            followed: The tables that the stream follows.
        """

    def is_quiet(self, start: Lsn, bound: Bound) -> bool:
        """Return whether a stream from `start` to the bound would bring nothing, and no followed table has changed.

        Only where the source can tell sooner than a stream; False also where it cannot tell. Consumes nothing.
        """

    def stream(
        self,
        start: Lsn,
        bound: Bound,
        followed: Mapping[TableRef, FollowedTable],
        *,
        keep_unreadable: Callable[[TableRef], bool] | None,
        watched: Mapping[TableRef, TableToken] | None = None,
        text_reason: str | None = None,
    ) -> ChangeStream:
        """Stream transactions that committed at or after `start`.

        Args:
            start: The checkpoint.
            bound: The end of the stream.
            followed: The captured tables.
            keep_unreadable: Returns whether change batches of a table are keep_unreadable, see
                `RowImages.keep_unreadable`; None: no table's are.
            watched: Tables that the stream does not follow, with their tokens: it tells whether they have changes
                (`ChangeStream.touched`).
            text_reason: Why values must come as text; None: batches may be typed (`ChangeBatch.is_typed`), where the
                source can send all columns so. Such a stream raises TextNeeded at a value that its dtype cannot hold.

        Raises:
            SlotAheadOfCheckpoint: The feed was confirmed beyond `start`: changes in between are gone.
            SlotActive: Another process consumes the feed.
            ConfigError: The rules for columns do not match the tables.
            TextNeeded: The source cannot send the first values typed.
        """

    def are_unchanged(self, shapes: Mapping[TableRef, TableShape]) -> bool:
        """Return whether tables that the stream follows are now, and so have been, as their shapes were recorded."""

    def is_as_looked(self) -> bool:
        """Return whether a new look would find the same tables, problems and publication as the last one.

        The last look stays.
        """

    def read_ahead(self, schemas: Sequence[NewSchema]) -> None:
        """Prepare for calls of `explain` with descriptions that came together."""

    def explain(
        self, known: TableShape, seen: NewSchema | SourceTable, *, truncated_by: int = 0
    ) -> Reshape | Resnapshot:
        """Explain how a table changed since its shape was recorded.

        Args:
            known: The destination's table.
            seen: The table as the stream describes it, or as `Bound.tables` has it.
            truncated_by: The transaction of the last TRUNCATE of the table in the stream; 0: there was none.

        Raises:
            ConfigError: A redacted column has a name today under which the rules do not redact it.
        """

    def end_stream(self) -> None:
        """End the stream so that the last acknowledgement arrives."""
