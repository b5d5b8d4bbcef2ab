"""The schema of a table: its columns, their types, and the key that identifies a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from dbmazz_core.model.datatypes import DataType
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class ColumnDef:
    """A column.

    Attributes:
        name: The name in the catalog.
        type: The core type.
        source_type: PostgreSQL's name of the type, such as `numeric(12,2)`.
        mask: The mask of the values: `null`, `truncate:3`, or `hash:` with a fingerprint of the key (see
            `dbmazz_core.model.masks`). Empty if the values are not masked.
    """

    name: str
    type: DataType
    source_type: str
    mask: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the column as JSON values, for `from_dict`."""
        return {"name": self.name, **self.type.to_dict(), "source_type": self.source_type, "mask": self.mask}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the column that `to_dict` has stored."""
        return cls(stored["name"], DataType.from_dict(stored), stored["source_type"], stored.get("mask", ""))


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """The columns of a table that are captured. The source hides all other columns from the rest of the program.

    >>> ColumnChoice(exclude=("password",)).keeps("email")
    True

    Attributes:
        include: The captured columns; None: all columns.
        exclude: Columns that are not captured, even if `include` has them.
    """

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        """Return whether a column is captured."""
        return (self.include is None or name in self.include) and name not in self.exclude


@dataclass(frozen=True, slots=True)
class TableSchema:
    """The columns of a table, in order, and its key.

    Attributes:
        table: The table.
        columns: The columns, in the source's order.
        key: Names of the columns that identify a row; empty if none do, and rows are a multiset.
        choice: The rule that chose these columns from the source's.
    """

    table: TableRef
    columns: tuple[ColumnDef, ...]
    key: tuple[str, ...]
    choice: ColumnChoice = ColumnChoice()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def key_places(self) -> tuple[int, ...]:
        """The places of the key columns, in the order of the key."""
        names = self.names
        return tuple(names.index(name) for name in self.key)
