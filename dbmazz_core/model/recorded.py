"""What a destination remembers of a source: one read of its bookkeeping, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dbmazz_core.errors import DestinationConflict
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class RecordedTable:
    """A table as the destination's bookkeeping has it.

    Attributes:
        state: How far it is, and how it is kept.
        shape: Its shape when it was created or last changed by us.
        altered: The error if the table in the destination has another shape now, else None.
    """

    state: TableState
    shape: TableShape
    altered: DestinationConflict | None = None

    @property
    def schema(self) -> TableSchema:
        """The destination's columns, and the key."""
        return self.shape.schema

    def verify_unaltered(self) -> None:
        """Raise `altered`, if there is one."""
        if self.altered is not None:
            raise self.altered


@dataclass(frozen=True, slots=True)
class Recorded:
    """The bookkeeping of one slot.

    Attributes:
        checkpoint: None if there is none.
        tables: The tables that the slot feeds.
    """

    checkpoint: Checkpoint | None = None
    tables: Mapping[TableRef, RecordedTable] = field(default_factory=dict)

    @property
    def states(self) -> dict[TableRef, TableState]:
        """By table: its state."""
        return {ref: table.state for ref, table in self.tables.items()}

    @property
    def streaming(self) -> list[TableRef]:
        """Tables whose copy is complete: they follow the stream."""
        return [ref for ref, table in self.tables.items() if table.state.state == "streaming"]
