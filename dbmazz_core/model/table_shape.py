"""The shape of a table in the destination, and the source's columns that its columns come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

from dbmazz_core.model.schema import TableSchema

#: The identity of a table in the source, as JSON text. Only the source reads it; engine and sink store it.
TableToken = NewType("TableToken", str)


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as the destination holds it.

    Attributes:
        schema: The destination's columns, and the key.
        targets: By captured column of the source, in the source's order: the destination's column that takes its
            values; None: the destination ignores the column.
        token: The identity of the source's table when the destination got this shape; None: an older version copied the
            table and recorded no token.
    """

    schema: TableSchema
    targets: Mapping[str, str | None]
    token: TableToken | None

    @classmethod
    def of(cls, schema: TableSchema, token: TableToken | None) -> TableShape:
        """Return the shape of a new table: every captured column has a column of its own name."""
        return cls(schema, {name: name for name in schema.names}, token)
