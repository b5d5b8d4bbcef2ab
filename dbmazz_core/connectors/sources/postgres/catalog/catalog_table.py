"""A table as the catalog has it at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.redaction import verify_redacted
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class EnumColumn:
    """A column whose values contain labels of an enum.

    Attributes:
        number: The column's number.
        plain: Whether the destination's values are the labels, or lists of them: not so within composites and ranges,
            in arrays that are kept as text, and under a mask.
    """

    number: int
    plain: bool


@dataclass(frozen=True, slots=True, eq=False)
class CatalogTable:
    """A table as the catalog has it. Implements `dbmazz_core.model.source.SourceTable`.

    Attributes:
        table: Its name.
        schema: The captured columns, and the key.
        identity: What the table is.
        empty_partitions: Leaves that were created as partitions, so that all their rows came through the stream, each
            with the (sub)transaction that created it.
        missing: By number of a column: the value, in its carrier dtype, shape (1,), of rows that are older than the
            column; null where its text is no value of the column's type. Columns that are NULL there are left out.
        storage_tells: Whether other storage may mean other rows although the stream does not say so. SET UNLOGGED is
            refused only for tables that are published by name, and TRUNCATE of a partition is not sent while its root
            is published.
        truncated_by: Transaction that truncated the table, if the catalog proves that nothing gave it other storage
            since; else None.
        layouts: By number of a column, also of a dropped one: length, passing and alignment of its values
            (`pg_attribute.attlen`, `attbyval`, `attalign`). A type can become another one without rewriting the table
            only if these are alike (manual, "CREATE CAST": binary coercible types).
        enums: By OID: the captured columns that contain an enum.
        original_parts: By OID of the types that captured columns contain: how many of their labels, oldest first, or 1
            for the attributes of a composite, are certain to be as they were when the type was created.
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

    @property
    def token(self) -> TableToken:
        """See `SourceTable.token`."""
        return self.identity.to_token()


def verify_still_redacted(table: TableRef, identity: TableIdentity, now: CatalogTable) -> None:
    """Raise ConfigError if a table shows a column that was redacted when the table was copied.

    Args:
        table: Its name then.
        identity: What it was then.
        now: The catalog's table, under the rules of today.
    """
    if identity.redacted and identity.oid == now.identity.oid:
        captured = {column.number: column.name for column in now.identity.columns}
        verify_redacted(table, identity.redacted, now.table, captured, now.identity.redacted or ())
