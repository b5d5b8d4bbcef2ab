"""The stream of changes between a source and the engine: events of tables, in parts that end where a flush may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import CommittedTransaction, SourcePosition
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.model.batch import ChangeBatch


class TextNeeded(Exception):
    """A typed stream cannot bring the next values exactly. It must be opened again at the checkpoint, with texts."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """The format in which the source sends values.

    Attributes:
        text_reason: Why values come as text; None: they come in binary format, and batches are typed.
    """

    text_reason: str | None = None

    @property
    def is_binary(self) -> bool:
        """Whether values come in binary format."""
        return self.text_reason is None

    def __str__(self) -> str:
        return "binary" if self.is_binary else f"text: {self.text_reason}"

    def to_dict(self) -> dict[str, str | bool | None]:
        """Return the format as `--json` prints it."""
        return {"binary": self.is_binary, "text_reason": self.text_reason}


@dataclass(frozen=True, slots=True)
class Truncation:
    """A TRUNCATE emptied a captured table at this position."""

    table: TableRef
    position: SourcePosition


@dataclass(frozen=True, slots=True)
class NewSchema:
    """The stream describes a captured table, for the first time or because its description changed.

    Attributes:
        schema: The captured columns of the rows that follow.
        commit_lsn, xid: Of the transaction that contains the description.
        description: The source's own description, for `Source.explain`.
    """

    schema: TableSchema
    commit_lsn: Lsn
    xid: int
    description: object = field(default=None, repr=False)

    @property
    def table(self) -> TableRef:
        """The table."""
        return self.schema.table


#: Events of one table come in stream order; tables are independent of each other within a transaction.
TableEvent: TypeAlias = "ChangeBatch | Truncation | NewSchema"


@dataclass(frozen=True, slots=True)
class StreamPart:
    """Consecutive messages of the stream, decoded.

    Attributes:
        events: Events of the captured tables.
        complete: Whether the part ends at a transaction's end. A part that is not complete holds changes of one
            transaction whose COMMIT has not come; a later part completes it.
        end_lsn: This part and the parts before it contain all transactions that committed before this LSN. None if no
            such position is known.
        transactions: Number of transactions that end in this part.
        bytes: Bytes of the messages.
        last: The last transaction that ends in this part.
        at_bound: Whether the next transaction commits at or after the stream's upper LSN.
        empty: Whether it has nothing but begins and ends of transactions. PostgreSQL 14 sends those of transactions
            without changes, too.
    """

    events: list[TableEvent]
    complete: bool
    end_lsn: Lsn | None
    transactions: int
    bytes: int
    last: CommittedTransaction | None
    at_bound: bool
    empty: bool = False


class ChangeStream(Protocol):
    """Changes of the captured tables in commit order."""

    @property
    def receive_cpu_s(self) -> float:
        """CPU seconds that receiving took; complete once the stream has ended."""

    @property
    def format(self) -> StreamFormat:
        """The format of values."""

    @property
    def touched(self) -> frozenset[TableRef]:
        """The watched tables that have changes in the stream up to the last part, or soon after it."""

    def next(self, *, rows: int, size: int, timeout: float, take_gathered: bool = False) -> StreamPart | None:
        """Return the next part.

        Args:
            rows: The part ends at the first commit with that many row changes.
            size: The part ends at the first commit with that many bytes.
            timeout: Seconds to wait for messages; without any the result is None.
            take_gathered: Whether, once the time is over, messages are taken that would be handed over a little later,
                together with others that keep coming.

        Raises:
            TextNeeded: The stream is typed (`Source.stream`), and cannot bring the next values exactly.
        """

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge that everything committed before `lsn` is durable in the destination."""
