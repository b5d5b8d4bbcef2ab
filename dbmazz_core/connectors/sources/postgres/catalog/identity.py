"""The identity of a table: the catalog facts that identify a table independent of its names.

The stream describes a relation by names and types only. In the stream, a column that was dropped and a column that was
added under its name look the same; so do a table and its successor of the same name, and a column before and after its
values were rewritten. The catalog distinguishes them (PostgreSQL manual, "pg_attribute", "pg_class").
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.model.table_shape import TableToken


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of a source table.

    Attributes:
        name: Name of the column.
        number: Number of the column (`attnum`), which no other column of the table ever gets.
        version: Row version of the column's definition (`xmin` of its row in `pg_attribute`). It differs once the
            definition was changed. Empty if only the stream has described the column: its current row proves nothing
            about that time.
    """

    name: str
    number: int
    version: str


@dataclass(frozen=True, slots=True)
class TableIdentity:
    """The identity of a source table. The destination's bookkeeping keeps it as a token (`to_token`).

    Attributes:
        oid: OID of the table, which no other table has while this one exists.
        storage: File number of the table (`relfilenode`). It differs once all rows were rewritten: by TRUNCATE, VACUUM
            FULL, or an ALTER TABLE that rewrites values. Empty for a partitioned table.
        partitions: Of a partitioned table: by OID of each leaf partition, its storage and the row versions of its
            attachment, see `partition_facts`.
        max_attnum: Highest number that a column of the table ever had (`relnatts`).
        key_index: OID of the index that the key belongs to, 0 for none.
        published: The catalog entries that publish the table, and its row filter. The text differs once any of these
            was changed.
        columns: The captured columns, in order.
        types: Definitions that the text of values depends on. By OID: the labels of an enum, oldest first; the
            attributes of a composite, as one text. These change without any row being written.
        type_versions: By OID of these types: `xmin` of each label's row, oldest label first; of a composite, `xmin` of
            all attributes, also dropped ones, as one text. They differ if a definition was changed and changed back.
        redacted: Columns that rules exclude or mask, in order; None: an older version did not record them.
        unpublished: Numbers of existing columns that are not in the stream: generated, or not in the column list.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    max_attnum: int
    key_index: int
    published: str
    columns: tuple[SourceColumn, ...]
    types: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    type_versions: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    redacted: tuple[RedactedColumn, ...] | None = None
    unpublished: tuple[int, ...] = ()

    @property
    def excluded(self) -> tuple[RedactedColumn, ...]:
        """Columns that are in the stream and that rules exclude."""
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
                    "top": self.max_attnum,
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
    @functools.lru_cache(maxsize=10_000)  # a window reads each table's token several times
    def from_token(cls, token: TableToken) -> TableIdentity:
        """Return the identity from a token that `to_token` of this version or an older one has written."""
        kept: Mapping[str, Any] = json.loads(token)
        redacted = kept.get("hidden")
        return cls(
            oid=kept["oid"],
            storage=kept["storage"],
            partitions={int(oid): storage for oid, storage in kept["partitions"].items()},
            max_attnum=kept["top"],
            key_index=kept["key_index"],
            published=kept["published"],
            # Older versions wrote the destination's column as a fourth element.
            columns=tuple(SourceColumn(name, number, version) for name, number, version, *_ in kept["columns"]),
            # Older versions did not record the following facts.
            types={int(oid): tuple(parts) for oid, parts in kept.get("types", {}).items()},
            type_versions={int(oid): tuple(versions) for oid, versions in kept.get("type_versions", {}).items()},
            redacted=None if redacted is None else tuple(RedactedColumn(*column) for column in redacted),
            unpublished=tuple(kept.get("unpublished", ())),
        )
