"""Changes of a table's columns, as the destination has to apply them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import SchemaAction, SchemaChangeKind
from dbmazz_core.model.schema import ColumnDef, TableSchema
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.table_ref import TableRef, quote_identifier

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True, eq=False)
class AddColumn:
    """A column was added. Older rows have the value `missing`, in the carrier dtype; None: NULL."""

    column: ColumnDef
    missing: pl.Series | None

    kind = SchemaChangeKind.ADD_COLUMN

    def __str__(self) -> str:
        default = "" if self.missing is None else f" with {self.missing[0]!r} in older rows"
        return f"column {quote_identifier(self.column.name)} {self.column.source_type} was added{default}"


@dataclass(frozen=True, slots=True)
class DropColumn:
    """A column was dropped."""

    name: str

    kind = SchemaChangeKind.DROP_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was dropped"


@dataclass(frozen=True, slots=True)
class RenameColumn:
    """A column was renamed."""

    old: str
    new: str

    kind = SchemaChangeKind.RENAME_COLUMN

    def __str__(self) -> str:
        return f"column {quote_identifier(self.old)} was renamed to {quote_identifier(self.new)}"


@dataclass(frozen=True, slots=True)
class ChangeType:
    """The type of a column was changed, and no value had to be rewritten."""

    name: str
    old: ColumnDef
    new: ColumnDef

    kind = SchemaChangeKind.CHANGE_TYPE

    def __str__(self) -> str:
        return f"column {quote_identifier(self.name)} was {self.old.source_type} and is {self.new.source_type}"


SchemaStep = AddColumn | DropColumn | RenameColumn | ChangeType


@dataclass(frozen=True, slots=True)
class NewLabels:
    """An enum got labels. Rows that came since then may hold these labels under other names than today's.

    Attributes:
        column: The destination's column.
        known: The labels that the enum had before.
        new: The labels that the enum got, under today's names.
        stop: Whether the policy is to stop where the table must be re-snapshotted.
    """

    column: str
    known: tuple[str, ...]
    new: tuple[str, ...]
    stop: bool = False

    def are_in_doubt(self, held: Collection[str]) -> bool:
        """Return whether texts in the destination may be other labels than those that have these names today.

        A single new label is certain: labels are never dropped, and labels from before were never renamed (a rename
        re-snapshots the table), so every other text is the new label's.

        Args:
            held: Texts in the destination that are no label from before.

        >>> NewLabels("mood", (), ("c",)).are_in_doubt(["c"]), NewLabels("mood", (), ("d",)).are_in_doubt(["c"])
        (False, True)
        >>> NewLabels("mood", (), ("c", "d")).are_in_doubt(["c"]), NewLabels("mood", (), ("c", "d")).are_in_doubt([])
        (True, False)
        """
        return bool(held) and (len(self.new) > 1 or {*held} != {*self.new})


@dataclass(frozen=True, slots=True)
class Reshape:
    """How a table changed since its shape was recorded; the destination's table can follow in place.

    Attributes:
        steps: Changes of the destination's columns, in this order; empty where only the token changed.
        seen: The source's captured columns from here on.
        targets: By captured column: the destination's column, by its name before the steps.
        token: What the source's table is from here on.
        token_by_key: What it is once rows are found by the key of `seen`; None where the key is not known.
        labels: Enums that got labels. If the destination's values leave doubt, the table must be re-snapshotted.
    """

    steps: tuple[SchemaStep, ...]
    seen: TableSchema
    targets: Mapping[str, str | None]
    token: TableToken | None
    token_by_key: TableToken | None = None
    labels: tuple[NewLabels, ...] = ()


@dataclass(frozen=True, slots=True)
class Resnapshot:
    """A table must be re-snapshotted: how it changed is not certain, or cannot be followed in place.

    Attributes:
        reason: A sentence without its subject, the table.
        kind: The kind of change, as far as it is known; the policy for that kind applies.
    """

    reason: str
    kind: SchemaChangeKind

    @classmethod
    def for_default(cls, column: str) -> Resnapshot:
        """Return the re-snapshot for a new column that has an unrepresentable value in older rows.

        The copy treats those rows by the policy for bad values.
        """
        what = (
            f"got column {quote_identifier(column)} with a value in older rows that it cannot hold in the destination"
        )
        return cls(what, SchemaChangeKind.ADD_COLUMN)


@dataclass(frozen=True, slots=True)
class SchemaEvent:
    """The shape of a table changes at this place among the changes of its rows.

    Attributes:
        table: The table.
        steps: Changes of the destination's columns, in this order, each with the action that the policy chose.
        shape: The destination's table from here on.
        resnapshot: Why the table must be re-snapshotted instead; None if it need not.
        commit_lsn, xid: Of the transaction; 0 where it is not known.
        labels: Enums that got labels. If the destination's values leave doubt, the table must be re-snapshotted.
    """

    table: TableRef
    steps: tuple[tuple[SchemaStep, SchemaAction], ...]
    shape: TableShape
    resnapshot: str | None
    commit_lsn: Lsn
    xid: int
    labels: tuple[NewLabels, ...] = ()

    @property
    def schema(self) -> TableSchema:
        """The destination's columns, and the key, from here on."""
        return self.shape.schema
