"""What a table *is* in the catalog, behind its names: two tables or columns that look alike in the stream differ here.

A relation's description in the stream has names and types only. A column that was dropped and a column that was added
under its name look the same there; so do a table and the table that was created after it, or a column before and after
its values were rewritten. The catalog numbers them (PostgreSQL manual, "pg_attribute", "pg_class").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.model.table_shape import TableToken


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of the source.

    Attributes:
        name: Its name.
        number: Never given to another column of the table (`attnum`).
        version: Differs once the column's definition was changed (`xmin` of its row in `pg_attribute`). Empty where
            the column is known from a description in the stream only: then its row of today proves nothing.
    """

    name: str
    number: int
    version: str


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """A table of the source. The destination's bookkeeping keeps it as a token (`to_token`).

    Attributes:
        oid: Never another table's while this one lives.
        storage: Differs once the rows were written anew as a whole (`relfilenode`): by TRUNCATE, VACUUM FULL, or an
            ALTER TABLE that rewrites values. Empty for a partitioned table.
        partitions: Of a partitioned table: each leaf's OID, and its storage and since when it is a leaf.
        top: Highest number that a column ever had.
        key_index: OID of the index that the key belongs to, 0 for none.
        published: The publication's entries that publish the table, and its row filter: another text once any of these
            changed.
        columns: The captured columns, in order.
        types: Definitions that the text of the values depends on: by OID of an enum its labels, oldest first, of a
            composite its attributes as one text. They change without any row being written.
        type_versions: By OID of these types: `xmin` of each label's row, oldest label first; of a composite those of
            all attributes, also dropped ones, as one text. They differ where a definition was changed and changed back.
        redacted: Columns that rules exclude or mask, in order; None: an older version did not record them.
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
    redacted: tuple[RedactedColumn, ...] | None = None
    unpublished: tuple[int, ...] = ()

    @property
    def excluded(self) -> tuple[RedactedColumn, ...]:
        """Columns of the stream that rules exclude."""
        return tuple(column for column in self.redacted or () if column.mask is None)

    @property
    def streamed(self) -> tuple[int, ...]:
        """Numbers of the columns that are in the stream, ascending."""
        return tuple(sorted({c.number for c in self.columns} | {c.number for c in self.excluded}))

    def to_token(self) -> TableToken:
        """Return the identity as JSON text."""
        return TableToken(
            json.dumps(
                {
                    "oid": self.oid,
                    "storage": self.storage,
                    "partitions": {str(oid): storage for oid, storage in self.partitions.items()},
                    "top": self.top,
                    "key_index": self.key_index,
                    "published": self.published,
                    "columns": [[c.name, c.number, c.version] for c in self.columns],
                    "types": {str(oid): list(parts) for oid, parts in self.types.items()},
                    "type_versions": {str(oid): list(versions) for oid, versions in self.type_versions.items()},
                    "hidden": None if self.redacted is None else [[c.name, c.number, c.mask] for c in self.redacted],
                    "unpublished": list(self.unpublished),
                }
            )
        )

    @classmethod
    def from_token(cls, token: TableToken) -> TableIdentity:
        """Return the identity that `to_token`, of this version or an older one, has written."""
        kept: Mapping[str, Any] = json.loads(token)
        redacted = kept.get("hidden")
        return cls(
            oid=kept["oid"],
            storage=kept["storage"],
            partitions={int(oid): storage for oid, storage in kept["partitions"].items()},
            top=kept["top"],
            key_index=kept["key_index"],
            published=kept["published"],
            # Older versions kept the destination's column behind these.
            columns=tuple(SourceColumn(name, number, version) for name, number, version, *_ in kept["columns"]),
            # Older versions did not record the rest.
            types={int(oid): tuple(parts) for oid, parts in kept.get("types", {}).items()},
            type_versions={int(oid): tuple(versions) for oid, versions in kept.get("type_versions", {}).items()},
            redacted=None if redacted is None else tuple(RedactedColumn(*column) for column in redacted),
            unpublished=tuple(kept.get("unpublished", ())),
        )
