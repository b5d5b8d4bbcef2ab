"""The shape of a table in the destination, and which columns of the source feed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType

from dbmazz_core.model.schema import TableSchema

#: What a table is in the source, as JSON text. Only the source that wrote it reads it; everybody else stores it.
TableToken = NewType("TableToken", str)


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table as the destination holds it.

    Attributes:
        schema: The destination's columns, and the key.
        targets: By captured column of the source, in the source's order: the destination's column that takes its
            values; None: the destination ignores the column.
        token: What the source's table was when the destination had this shape; None: an older version copied the table
            and recorded no token.
    """

    schema: TableSchema
    targets: Mapping[str, str | None]
    token: TableToken | None

    @classmethod
    def of(cls, schema: TableSchema, token: TableToken | None) -> TableShape:
        """Return the shape of a new table: every captured column has a column of its own name."""
        return cls(schema, {name: name for name in schema.names}, token)
