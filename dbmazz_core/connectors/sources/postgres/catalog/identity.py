"""What a table *is* in the source, behind its names: how a change of it is told from another one that looks alike.

A relation's description in the stream has names and types only. A column that was dropped and one that was added under
its name look the same there; so do a table and the one that was created after it, or a column before and after its
values were rewritten. The catalog numbers them (PostgreSQL manual, "pg_attribute", "pg_class").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.redaction import HiddenColumn, verify_hidden
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the source.

    Attributes:
        name: Its name there.
        number: Never given to another column of the table (`attnum`).
        version: Differs once its definition was changed (`xmin` of its row in `pg_attribute`). Empty where a
            description in the stream is all that is known of the column: then its row of today proves nothing.
        target: The destination's column; None: it is not carried there.
    """

    name: str
    number: int
    version: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """A table of the source.

    Attributes:
        oid: Never another table's while this one lives.
        storage: Differs once the rows were written anew as a whole (`relfilenode`): by TRUNCATE, VACUUM FULL, or an
            ALTER TABLE that rewrites values. Empty for a partitioned table.
        partitions: Of a partitioned table: each leaf's OID, and its storage and since when it is a leaf.
        top: Highest number that a column ever had.
        key_index: OID of the index that the key is of, 0 for none.
        published: By which entries of the publication, and which of its rows: another text once any of that changed.
        columns: Those that are captured, in order.
        types: What the text of their values depends on besides the rows: by OID of an enum its labels, oldest first,
            of a composite its attributes as one text. They change without any row being written.
        type_versions: By OID of these types: `xmin` of each label's row, oldest label first; of a composite those of
            all attributes, also dropped ones, as one text. They differ where something was changed and changed back.
        hidden: Those whose values are not, because of rules, in order; None: an older version did not record it.
        unpublished: Numbers of live columns that are not in the stream: generated, or not in the column list.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    top: int
    key_index: int
    published: str
    columns: tuple[SourceColumn, ...]
    types: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    type_versions: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    hidden: tuple[HiddenColumn, ...] | None = None
    unpublished: tuple[int, ...] = ()

    @property
    def left_out(self) -> tuple[HiddenColumn, ...]:
        """Columns of the stream that rules leave out."""
        return tuple(column for column in self.hidden or () if column.mask is None)

    @property
    def streamed(self) -> tuple[int, ...]:
        """Numbers of the columns that are in the stream, ascending."""
        return tuple(sorted({c.number for c in self.columns} | {c.number for c in self.left_out}))

    def is_as(self, now: TableIdentity) -> bool:
        """Whether the catalog has the table with nothing changed, and nothing changed back, since this was recorded."""
        before, after = (
            replace(identity, columns=tuple(replace(column, target=None) for column in identity.columns))
            for identity in (self, now)
        )
        return before == after

    def to_dict(self) -> dict[str, Any]:
        """As the destination's bookkeeping keeps it."""
        return {
            "oid": self.oid,
            "storage": self.storage,
            "partitions": {str(oid): storage for oid, storage in self.partitions.items()},
            "top": self.top,
            "key_index": self.key_index,
            "published": self.published,
            "columns": [[c.name, c.number, c.version, c.target] for c in self.columns],
            "types": {str(oid): list(parts) for oid, parts in self.types.items()},
            "type_versions": {str(oid): list(versions) for oid, versions in self.type_versions.items()},
            "hidden": None if self.hidden is None else [[c.name, c.number, c.mask] for c in self.hidden],
            "unpublished": list(self.unpublished),
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> TableIdentity:
        """The inverse of `to_dict`."""
        hidden = kept.get("hidden")
        return cls(
            oid=kept["oid"],
            storage=kept["storage"],
            partitions={int(oid): storage for oid, storage in kept["partitions"].items()},
            top=kept["top"],
            key_index=kept["key_index"],
            published=kept["published"],
            columns=tuple(
                SourceColumn(name, number, version, target) for name, number, version, target in kept["columns"]
            ),
            # Not recorded by earlier versions.
            types={int(oid): tuple(parts) for oid, parts in kept.get("types", {}).items()},
            type_versions={int(oid): tuple(versions) for oid, versions in kept.get("type_versions", {}).items()},
            hidden=None if hidden is None else tuple(HiddenColumn(*column) for column in hidden),
            unpublished=tuple(kept.get("unpublished", ())),
        )


@dataclass(frozen=True, slots=True)
class EnumColumn:
    """A column whose values hold labels of an enum.

    Attributes:
        number: The column's number.
        plain: Whether the destination's values are these labels, or lists of them: not so within composites and ranges,
            in arrays that are kept as text, and under a mask.
    """

    number: int
    plain: bool


@dataclass(frozen=True, slots=True, eq=False)
class SourceTable:
    """A table as the source's catalog has it now.

    Attributes:
        table: Its name.
        schema: The columns that are captured, and the key.
        identity: What it is.
        empty_partitions: Leaves that were created as partitions, so that all their rows came through the stream, each
            with the (sub)transaction that created it.
        missing: By number of a column: the value, in its carrier dtype, shape (1,), that rows have which were there
            before the column; null where its text is none of the column's type. Columns that are NULL there are left
            out.
        storage_tells: Whether other storage may mean other rows, though the stream says nothing of it. SET UNLOGGED is
            refused only for tables that are published by name, and TRUNCATE of a partition is not sent while its root
            is published.
        truncated_by: Transaction that truncated the table, if the catalog proves that nothing gave it other storage
            since; else None.
        layouts: By number of a column, also of a dropped one: length, passing and alignment of its values
            (`pg_attribute.attlen`, `attbyval`, `attalign`). A type can only be made another one without rewriting the
            table if these are alike (manual, "CREATE CAST": binary coercible types).
        enums: By OID: the captured columns that hold an enum.
        original_parts: By OID of the types that captured columns hold: how many of their labels, oldest first, or 1 for
            the attributes of a composite, are certain to be as they were when the type was created.
    """

    table: TableRef
    schema: TableSchema
    identity: TableIdentity
    empty_partitions: Mapping[int, int] = field(default_factory=dict)
    missing: Mapping[int, pl.Series] = field(default_factory=dict)
    storage_tells: bool = False
    truncated_by: int | None = None
    layouts: Mapping[int, str] = field(default_factory=dict)
    enums: Mapping[int, tuple[EnumColumn, ...]] = field(default_factory=dict)
    original_parts: Mapping[int, int] = field(default_factory=dict)


def verify_still_hidden(table: TableRef, identity: TableIdentity, now: SourceTable) -> None:
    """Raise ConfigError if a table shows what rules hid when it was copied, see `verify_hidden`.

    Args:
        table: Its name then.
        identity: What it was then.
        now: As the catalog has it, under the rules of today.
    """
    if identity.hidden and identity.oid == now.identity.oid:
        captured = {column.number: column.name for column in now.identity.columns}
        verify_hidden(table, identity.hidden, now.table, captured, now.identity.hidden or ())
