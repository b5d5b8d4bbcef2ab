"""What a table *is* in the source, behind its names: how a change of it is told from another one that looks alike.

A relation's description in the stream has names and types only. A column that was dropped and one that was added under
its name look the same there; so do a table and the one that was created after it, or a column before and after its
values were rewritten. The catalog numbers them (PostgreSQL manual, "pg_attribute", "pg_class").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from dbmazz_core.hidden import HiddenColumn, verify_hidden
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import TableRef


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the source.

    Attributes:
        name: Its name there.
        number: Never given to another column of the table (`attnum`).
        version: Differs once its definition was changed (`xmin` of its row in `pg_attribute`).
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
        hidden: Those whose values are not, because of rules, in order; None: an older version did not record it.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    top: int
    key_index: int
    published: str
    columns: tuple[SourceColumn, ...]
    types: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    hidden: tuple[HiddenColumn, ...] | None = None

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
            "hidden": None if self.hidden is None else [[c.name, c.number, c.mask] for c in self.hidden],
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
            hidden=None if hidden is None else tuple(HiddenColumn(*column) for column in hidden),
        )


@dataclass(frozen=True, slots=True, eq=False)
class SourceTable:
    """A table as the source's catalog has it now.

    Attributes:
        table: Its name.
        schema: The columns that are captured, and the key.
        identity: What it is.
        empty_partitions: Leaves that were created as partitions, so that all their rows came through the stream.
        missing: By column: the value, in its carrier dtype, shape (1,), that rows have which were there before the
            column; null where its text is none of the column's type. Columns that are NULL there are left out.
        storage_tells: Whether other storage may mean other rows, though the stream says nothing of it. SET UNLOGGED is
            refused only for tables that are published by name, and TRUNCATE of a partition is not sent while its root
            is published.
        truncated_by: Transaction that truncated the table, if the catalog proves that nothing gave it other storage
            since; else None.
    """

    table: TableRef
    schema: TableSchema
    identity: TableIdentity
    empty_partitions: frozenset[int] = frozenset()
    missing: Mapping[str, pl.Series] = field(default_factory=dict)
    storage_tells: bool = False
    truncated_by: int | None = None


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
