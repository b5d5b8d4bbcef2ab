"""Changes of a table's columns, as the destination has to apply them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.table_ref import TableRef, quote_identifier


@dataclass(frozen=True, slots=True, eq=False)
class AddColumn:
    """A column is new. Rows that were there before have the value `missing`, of its carrier dtype; None: NULL."""

    column: ColumnDef
    missing: pl.Series | None

    kind = SchemaChangeKind.ADD_COLUMN

    def __str__(self) -> str:
        default = "" if self.missing is None else f" with {self.missing[0]!r} in older rows"
        return f"column {quote_identifier(self.column.name)} {self.column.source_type} was added{default}"


@dataclass(frozen=True, slots=True)
class DropColumn:
    """A column is gone."""

    name: str

    kind = SchemaChangeKind.DROP_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was dropped"


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """A column has another name."""

    old: str
    new: str

    kind = SchemaChangeKind.RENAME_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.old)} was renamed to {quote_identifier(self.new)}"


@dataclass(frozen=True, slots=True)
class ChangeType:
    """A column has another type, and no value had to be rewritten for it."""

    name: str
    old: ColumnDef
    new: ColumnDef

    kind = SchemaChangeKind.CHANGE_TYPE

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was {self.old.source_type} and is {self.new.source_type}"


SchemaStep = AddColumn | DropColumn | RenameColumn | ChangeType


@dataclass(frozen=True, slots=True)
class NewLabels:
    """An enum got labels, which rows that came since may hold under other names than today's.

    Attributes:
        column: The destination's column.
        known: The labels that it had before.
        new: Those that it got, as they are called today.
        stop: Whether the policy is to stop, where the table would have to be copied anew.
    """

    column: str
    known: tuple[str, ...]
    new: tuple[str, ...]
    stop: bool


@dataclass(frozen=True, slots=True)
class SchemaEvent:
    """A table's shape changes here.

    Attributes:
        table: Which.
        steps: What the destination has to do, in this order, each with what the policy made of it.
        schema: The destination's columns, and the key, from here on.
        identity: What the source's table is from here on.
        copy_anew: Why the table has to be copied anew instead; None if it need not.
        commit_lsn, xid: Of the transaction; 0 where it is not known.
        labels: Enums that got labels: the table has to be copied anew if its values leave doubt.
    """

    table: TableRef
    steps: tuple[tuple[SchemaStep, SchemaAction], ...]
    schema: TableSchema
    identity: TableIdentity | None
    copy_anew: str | None
    commit_lsn: Lsn
    xid: int
    labels: tuple[NewLabels, ...] = ()
