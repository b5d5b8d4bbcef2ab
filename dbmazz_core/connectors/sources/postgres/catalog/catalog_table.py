"""A table as the catalog has it at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class EnumColumn:
    """A column whose values contain labels of an enum.

    Attributes:
        number: Number of the column.
        plain: Whether the destination's values are the labels, or lists of labels. False if the labels are within
            composites, ranges, arrays that are kept as text, or masked values.
    """

    number: int
    plain: bool


@dataclass(frozen=True, slots=True, eq=False)
class CatalogTable:
    """A table as the catalog has it at one moment. Implements `dbmazz_core.model.source.SourceTable`.

    Attributes:
        table: Name of the table.
        schema: The captured columns, and the key.
        identity: Identity of the table.
        row_filter: The publication's condition for rows, see `PublishedTable.row_filter`. A copy reads these rows.
        created_partitions: Leaf partitions that were created as partitions, so that the stream has all their rows;
            by OID, the (sub)transaction that created each.
        missing_values: By number of a column: the value that rows older than the column have (`attmissingval`), in the
            carrier dtype, shape (1,). Null if the text is no value of the column's type. Columns that are NULL in such
            rows are left out.
        unreported_rewrites: Whether the rows may be replaced without a message in the stream. SET UNLOGGED is refused
            only for tables that are published by name, and TRUNCATE of a partition is not sent while its root is
            published.
        truncate_xid: Transaction of the TRUNCATE that created the table's storage; None if the catalog does not prove
            that a TRUNCATE created the storage.
        layouts: By number of a column, also of a dropped one: length, passing and alignment of its values
            (`pg_attribute.attlen`, `attbyval`, `attalign`). A type can become another type without a rewrite of the
            table only if these are equal (manual, "CREATE CAST": binary coercible types).
        enums: By OID of an enum: the captured columns that contain it.
        unchanged_parts: By OID of the enums and composites in captured columns: how many parts are proven to be as
            they were when the type was created. The parts of an enum are its labels, oldest first; the attributes of a
            composite are one part.
    """

    table: TableRef
    schema: TableSchema
    identity: TableIdentity
    row_filter: str | None = None
    created_partitions: Mapping[int, int] = field(default_factory=dict)
    missing_values: Mapping[int, pl.Series] = field(default_factory=dict)
    unreported_rewrites: bool = False
    truncate_xid: int | None = None
    layouts: Mapping[int, str] = field(default_factory=dict)
    enums: Mapping[int, tuple[EnumColumn, ...]] = field(default_factory=dict)
    unchanged_parts: Mapping[int, int] = field(default_factory=dict)

    @property
    def token(self) -> TableToken:
        """The identity as a token."""
        return self.identity.to_token()
