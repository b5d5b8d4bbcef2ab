"""What a table looks like: its columns, their types and the key that identifies a row."""

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
        name: As the catalog spells it.
        type: Its core type.
        source_type: PostgreSQL's name for its type, such as `numeric(12,2)`.
        mask: What its values have become on the way here: empty where they are the source's own, else `null`,
            `truncate:3`, or `hash:` and a fingerprint of the key (see `dbmazz_core.model.masks`).
    """

    name: str
    type: DataType
    source_type: str
    mask: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The column in JSON's own types, for `from_dict`."""
        return {"name": self.name, **self.type.to_dict(), "source_type": self.source_type, "mask": self.mask}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The column that `to_dict` described."""
        return cls(stored["name"], DataType.from_dict(stored), stored["source_type"], stored.get("mask", ""))


@dataclass(frozen=True, slots=True)
class ColumnChoice:
    """Which of a table's columns are captured; the others do not exist for anybody behind the source.

    >>> ColumnChoice(exclude=("password",)).keeps("email")
    True

    Attributes:
        include: Only these; None: all.
        exclude: And of them not these.
    """

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()

    def keeps(self, name: str) -> bool:
        """Whether the column is captured."""
        return (self.include is None or name in self.include) and name not in self.exclude


@dataclass(frozen=True, slots=True)
class TableSchema:
    """The columns of a table, in order, and its key.

    Attributes:
        table: Which table.
        columns: In the source's order.
        key: Names of the columns that identify a row; empty where nothing does, and rows are a multiset.
        choice: Which of the source's columns these are. Not compared by `differences`: what it keeps is.
    """

    table: TableRef
    columns: tuple[ColumnDef, ...]
    key: tuple[str, ...]
    choice: ColumnChoice = ColumnChoice()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(c.name for c in self.columns)

    @property
    def key_places(self) -> tuple[int, ...]:
        """Places of the key's columns, in the key's order."""
        names = self.names
        return tuple(names.index(name) for name in self.key)
