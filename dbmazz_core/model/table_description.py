"""A configured table as people want to see it described: its captured columns, in the source's words."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.model.policies import Mask
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """A captured column.

    Attributes:
        name: Its name.
        type: The source's type as SQL writes it, such as `numeric(12,2)`.
        nullable: Whether it may be NULL.
        mask: What its values become before they reach the destination; None: they stay.
    """

    name: str
    type: str
    nullable: bool
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class TableDescription:
    """A configured table.

    Attributes:
        table: Its name.
        columns: Those that are captured, in order.
        key: Names of the columns that identify a row; empty where nothing does.
    """

    table: TableRef
    columns: tuple[ColumnDescription, ...]
    key: tuple[str, ...]
