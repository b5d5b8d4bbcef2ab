"""Names of tables and columns as the catalog spells them, and their quoting in SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAIN = re.compile(r"[a-z_][a-z0-9_$]*")


def quote_identifier(name: str) -> str:
    """Return a name quoted as an SQL identifier. PostgreSQL and DuckDB have the same rule.

    >>> quote_identifier("Order Items")
    '"Order Items"'
    """
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Return a text quoted as an SQL string literal. PostgreSQL and DuckDB have the same rule.

    >>> quote_literal("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True, order=True)
class TableRef:
    """A table, named by schema and name as the catalog spells them.

    >>> str(TableRef("public", "orders")), str(TableRef("public", "Order Items"))
    ('public.orders', 'public."Order Items"')
    >>> TableRef("public", "orders").sql
    '"public"."orders"'
    """

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """The quoted, qualified name, valid in SQL of PostgreSQL and of DuckDB."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    def __str__(self) -> str:
        return ".".join(map(quoted_if_needed, (self.schema, self.name)))


def quoted_if_needed(name: str) -> str:
    """Return a name as SQL needs it: quoted only if PostgreSQL would otherwise read another name.

    >>> quoted_if_needed("orders"), quoted_if_needed("Orders")
    ('orders', '"Orders"')
    """
    return name if _PLAIN.fullmatch(name) else quote_identifier(name)


@dataclass(frozen=True, slots=True, order=True)
class ColumnRef:
    """A column, named by schema, table and name as the catalog spells them.

    >>> str(ColumnRef(TableRef("public", "users"), "E-mail"))
    'public.users."E-mail"'
    """

    table: TableRef
    name: str

    def __str__(self) -> str:
        return f"{self.table}.{quoted_if_needed(self.name)}"
