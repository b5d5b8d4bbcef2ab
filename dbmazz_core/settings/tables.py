"""The `TABLES` setting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dbmazz_core.errors import ConfigError
from dbmazz_core.table_ref import TableRef

#: One part of a dotted name: quoted (with doubled quotes inside), plain, or `*`.
PART = r'"(?:[^"]|"")+"|[^\W\d][\w$]*|\*'
_ITEM = re.compile(rf"\s*({PART})\s*(?:\.\s*({PART})\s*)?(?:,|$)")


@dataclass(frozen=True, slots=True)
class TablePattern:
    """One item of `TABLES`: a table, or all tables of a schema.

    >>> TablePattern("sales", None).matches(TableRef("sales", "orders"))
    True

    Attributes:
        schema: Name of the schema.
        name: Name of the table, None for `schema.*`.
    """

    schema: str
    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return str(TableRef(self.schema, "x"))[:-1] + "*"
        return str(TableRef(self.schema, self.name))

    def matches(self, table: TableRef) -> bool:
        """Return whether the pattern names the table, or all tables of its schema."""
        return table.schema == self.schema and self.name in (None, table.name)


def parse_tables(text: str) -> tuple[TablePattern, ...]:
    """Parse the `TABLES` setting: comma-separated `schema.table`, with quoted names and `schema.*`.

    A name without a schema is in `public`. Names without quotes are folded to lower case, as in PostgreSQL.

    >>> [str(p) for p in parse_tables('orders, sales.*, "My Schema"."Order, Items"')]
    ['public.orders', 'sales.*', '"My Schema"."Order, Items"']

    Raises:
        ConfigError: The text is empty or malformed.
    """
    patterns: list[TablePattern] = []
    position, stripped = 0, text.strip()
    while position < len(stripped):
        match = _ITEM.match(stripped, position)
        if match is None:
            raise _malformed(text, f"cannot read {stripped[position : position + 40]!r}")
        schema, name = (match[1], match[2]) if match[2] is not None else ('"public"', match[1])
        if schema == "*" or (name == "*" and match[2] is None):
            raise _malformed(text, "`*` stands for the tables of one schema: write `public.*`")
        position = match.end()
        if position == len(stripped) and stripped.endswith(","):
            raise _malformed(text, "nothing follows the last comma")
        pattern = TablePattern(unquote(schema), None if name == "*" else unquote(name))
        if pattern not in patterns:
            patterns.append(pattern)
    if not patterns:
        raise _malformed(text, "it names no table")
    return tuple(patterns)


def format_tables(patterns: Iterable[TablePattern]) -> str:
    """Return the text of the `TABLES` setting: the inverse of `parse_tables`."""
    return ",".join(str(p) for p in patterns)


def unquote(part: str) -> str:
    """Return a name as the catalog spells it: quoted names without their quotes, other names in lower case."""
    return part[1:-1].replace('""', '"') if part.startswith('"') else part.lower()


def _malformed(text: str, why: str) -> ConfigError:
    return ConfigError(
        f"TABLES is malformed: {why} (in {text!r})",
        object="TABLES",
        remedy='give comma-separated names such as TABLES=public.orders,sales.*,"My Schema"."Order Items"',
    )
