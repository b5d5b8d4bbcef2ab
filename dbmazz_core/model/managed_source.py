"""`ManagedSource`: the protocol between the pipeline and a source, which adds checks, set-up and status to `Source`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.findings import CheckReport, SetupReport
from dbmazz_core.model.records import CdcRecord
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import Look, Source
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.table_ref import TableRef


class ManagedSource(Source, Protocol):
    """A source that a pipeline checks, sets up and tears down. It connects when it is first used."""

    def connect(self) -> None:
        """Connect, if no connection is open.

        Raises:
            ConnectionFailed: The server cannot be reached, or refuses the login.
        """

    def lock_feed(self, *, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Let no other window or copy of the feed begin until the connections are closed.

        Args:
            timeout_s: How long to wait for the end of another one.
            stopped: Returns whether to stop waiting.

        Raises:
            SlotActive: Another window or copy runs after that time.
            StopRequested: `stopped` returned True.
        """

    def check_look(self, *, captured: Collection[TableRef] = ()) -> CheckReport:
        """Return the problems of the last look.

        Args:
            captured: Tables that the destination holds and follows.
        """

    def prepare(
        self, *, captured: Collection[TableRef] = (), isolates: Callable[[TableRef], bool] = lambda _: False
    ) -> tuple[SetupReport, Look]:
        """Set up the source without the feed; idempotent. Return a report, and a look at the source afterwards.

        Args:
            captured: Tables that the destination holds and follows.
            isolates: Returns whether a table whose set-up fails must not stop the others (`SetupReport.problems`).
        """

    def needs_setup(self) -> bool:
        """Return whether the last look shows something that `prepare` would change."""

    def create_feed(self) -> str | None:
        """Create the feed if it does not exist. Return a sentence that says so; None if the feed existed."""

    def usable_feed(self) -> Lsn | None:
        """Return the feed's confirmed position; None if the feed must be created. Drop a feed that is lost.

        Raises:
            SlotError: The feed is in use, or not one of this pipeline.
        """

    def table_descriptions(self, only: Collection[TableRef] | None = None) -> list[TableDescription]:
        """Return the configured tables, or only some of them, each with its captured columns."""

    def unpublished_columns(self, tables: Collection[TableRef]) -> Mapping[TableRef, tuple[str, ...]]:
        """Return the columns of tables that the source does not send; tables without any are left out."""

    def stream_format(
        self, tables: Mapping[TableRef, TableSchema], keep_unreadable: Callable[[TableRef], bool] | None
    ) -> StreamFormat:
        """Return the format in which the source would send the values of tables, with their captured columns.

        Args:
            tables: The tables of the stream, as the destination has them.
            keep_unreadable: See `Source.stream`.
        """

    def status(self) -> SourceStatus:
        """Return the state of the feed and the server's position."""

    def position(self) -> Lsn:
        """Return the server's current position."""

    def waiting_tables(self, *, limit: int, timeout_s: float) -> frozenset[TableRef] | None:
        """Return the tables of which changes wait in the feed; None if the server takes longer to answer.

        Args:
            limit: Number of messages of the feed that are looked at, at least.
            timeout_s: Seconds for the answer.
        """

    def peek(self, limit: int) -> Iterator[CdcRecord]:
        """Yield the next changes, at most `limit`, with the records around them. Consumes nothing."""

    def teardown(self, *, drop_publication: bool = False) -> list[str]:
        """Drop the feed and what set-up created, unless others may use it; return sentences that say what was done.

        Args:
            drop_publication: Drop what others may use, too.
        """

    def stop(self) -> None:
        """End the stream gracefully and close all connections."""

    def close(self) -> None:
        """Close all connections without waiting. Unconfirmed changes are sent again later."""
