"""The description of a configured table for people: its captured columns, with the source's names of types."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.model.policies import Mask
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class ColumnDescription:
    """A captured column.

    Attributes:
        name: The name.
        type: The source's type in SQL, such as `numeric(12,2)`.
        nullable: Whether the column may be NULL.
        mask: The mask of the values; None: they are not masked.
    """

    name: str
    type: str
    nullable: bool
    mask: Mask | None = None


@dataclass(frozen=True, slots=True)
class TableDescription:
    """A configured table.

    Attributes:
        table: The name.
        columns: The captured columns, in order.
        key: Names of the columns that identify a row; empty if none do.
        unpublished: Names of columns that the source does not send, so that the destination lacks them: generated
            columns before PostgreSQL 18, and columns that the publication leaves out.
    """

    table: TableRef
    columns: tuple[ColumnDescription, ...]
    key: tuple[str, ...]
    unpublished: tuple[str, ...] = ()
