"""The next flush of a window: what was received, and is not yet committed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from dbmazz_core.engine.result import TableCounts
from dbmazz_core.engine.schema_following import WindowEvent
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.stream import StreamPart
from dbmazz_core.table_ref import TableRef


@dataclass(slots=True)
class PendingFlush:
    """The next flush: changes that were received and are not yet committed.

    A flush holds complete transactions, or one transaction that is too large for memory; never both.

    Attributes:
        complete_events: Events of complete transactions that are not yet applied.
        complete_bytes: Bytes of their messages.
        open_events: Events of the transaction behind them, whose COMMIT has not come, that are not yet applied.
        open_bytes: Bytes of their messages.
        rows: Row changes among these events, and among the applied pieces of complete transactions.
        pieces_applied: Number of applied pieces of complete transactions.
        large_applied: Whether a piece of a large transaction has been applied.
        large_complete: Whether the COMMIT of this large transaction has come.
        first_event_at: When the first event was received (`time.monotonic`); None: there is none.
        counts: The changes of complete transactions, by table.
        transactions: Number of complete transactions.
        end_lsn: The flush contains all transactions that committed before this LSN; None: no complete transaction.
        last_transaction: The last complete transaction.
        has_content: Whether any transaction had more than its begin and its end.
    """

    complete_events: list[WindowEvent] = field(default_factory=list)
    complete_bytes: int = 0
    open_events: list[WindowEvent] = field(default_factory=list)
    open_bytes: int = 0
    rows: int = 0
    pieces_applied: int = 0
    large_applied: bool = False
    large_complete: bool = False
    first_event_at: float | None = None
    counts: dict[TableRef, TableCounts] = field(default_factory=dict)
    transactions: int = 0
    end_lsn: Lsn | None = None
    last_transaction: CommittedTransaction | None = None
    has_content: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of the messages whose events are not yet applied."""
        return self.complete_bytes + self.open_bytes

    @property
    def in_transaction(self) -> bool:
        """Whether a part of a transaction was received, but not its COMMIT."""
        return bool(self.open_bytes) or (self.large_applied and not self.large_complete)

    @property
    def has_complete(self) -> bool:
        """Whether complete transactions wait for their commit. A large transaction does not count."""
        return bool(self.complete_events or self.pieces_applied)

    def add(self, part: StreamPart, events: list[WindowEvent]) -> None:
        """Add a part of the stream.

        Args:
            part: The part.
            events: Its events, as they are applied.
        """
        if self.first_event_at is None and events:
            self.first_event_at = time.monotonic()
        self.open_events += events
        self.open_bytes += part.bytes
        self.has_content |= not part.empty
        if part.complete:
            self.complete_events += self.open_events
            self.complete_bytes += self.open_bytes
            self.open_events, self.open_bytes = [], 0
            self.large_complete = self.large_applied
        if part.end_lsn is not None:
            self.end_lsn = part.end_lsn
            self.last_transaction = part.last or self.last_transaction

    def complete_piece_applied(self) -> None:
        """Record that the events of complete transactions were handed over as a piece."""
        self.complete_events, self.complete_bytes = [], 0
        self.pieces_applied += 1

    def large_piece_applied(self) -> None:
        """Record that the events of the open transaction were handed over as a piece of a large transaction."""
        self.open_events, self.open_bytes, self.large_applied = [], 0, True
        self.rows, self.first_event_at = 0, None

    def following(self) -> PendingFlush:
        """Return the flush after this one: it begins with the open transaction."""
        rows = sum(len(event) for event in self.open_events if isinstance(event, ChangeBatch))
        first_event_at = time.monotonic() if self.open_events else None
        return PendingFlush(
            open_events=self.open_events, open_bytes=self.open_bytes, rows=rows, first_event_at=first_event_at
        )
