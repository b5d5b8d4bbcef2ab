"""One read of the destination's bookkeeping, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from dbmazz_core.errors import DestinationConflict
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class RecordedTable:
    """A table in the destination's bookkeeping.

    Attributes:
        state: The progress of the table, and its mode.
        shape: The shape that dbmazz gave the table.
        altered: The error if the table has another shape now, because somebody else altered it; otherwise None.
    """

    state: TableState
    shape: TableShape
    altered: DestinationConflict | None = None

    @property
    def schema(self) -> TableSchema:
        """The destination's columns, and the key."""
        return self.shape.schema

    def verify_unaltered(self) -> None:
        """Raise `altered` unless it is None."""
        if self.altered is not None:
            raise self.altered


@dataclass(frozen=True)
class Recorded:
    """The bookkeeping of one feed.

    Attributes:
        checkpoint: The checkpoint; None if there is none.
        tables: The tables of the feed.
        pending: The states of tables that were never copied.
        held_s: Seconds for which the destination was held until the checkpoint was written; None if it is not known.
    """

    checkpoint: Checkpoint | None = None
    tables: Mapping[TableRef, RecordedTable] = field(default_factory=dict)
    pending: Mapping[TableRef, TableState] = field(default_factory=dict)
    held_s: float | None = None

    @cached_property
    def states(self) -> Mapping[TableRef, TableState]:
        """The states of the tables that the destination has."""
        return {ref: table.state for ref, table in self.tables.items()}

    @cached_property
    def all_states(self) -> Mapping[TableRef, TableState]:
        """The states of all tables, also of tables that were never copied."""
        return {**self.pending, **self.states}

    def in_state(self, *states: TableStatus) -> list[TableRef]:
        """Return the tables that are in one of these states."""
        return [ref for ref, state in self.all_states.items() if state.state in states]

    @property
    def streaming(self) -> list[TableRef]:
        """The tables that follow the stream: their copies are complete."""
        return self.in_state(TableStatus.STREAMING)
