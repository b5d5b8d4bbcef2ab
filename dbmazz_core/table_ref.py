"""Names of tables and columns, as the catalog spells them, and how SQL quotes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def quote_identifier(name: str) -> str:
    """Quote a name for SQL: PostgreSQL and DuckDB share the rule.

    >>> quote_identifier("Order Items")
    '"Order Items"'
    """
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a text as a value for SQL: PostgreSQL and DuckDB share the rule.

    >>> quote_literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True, order=True)
class TableRef:
    """A table by schema and name, as the catalog spells them.

    >>> str(TableRef("public", "orders")), str(TableRef("public", "Order Items"))
    ('public.orders', 'public."Order Items"')
    >>> TableRef("public", "orders").sql
    '"public"."orders"'
    """

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """The quoted, qualified name for SQL of either side."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def __str__(self) -> str:
        return ".".join(map(quoted_if_needed, (self.schema, self.name)))


def quoted_if_needed(name: str) -> str:
    """A name as people write it: quoted only where it has to be."""
    return name if _PLAIN.fullmatch(name) else quote_identifier(name)


@dataclass(frozen=True, slots=True, order=True)
class ColumnRef:
    """A column by schema, table and name, as the catalog spells them."""

    table: TableRef
    name: str

    def __str__(self) -> str:
        return f"{self.table}.{quoted_if_needed(self.name)}"
