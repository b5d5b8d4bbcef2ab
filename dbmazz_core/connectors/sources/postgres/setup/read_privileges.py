"""The columns that a copy of a table reads, and the privilege to read them."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.catalog.captured_columns import unpublished_columns
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.table_ref import quote_identifier


def columns_to_read(look: Look, table: TableInfo) -> list[str]:
    """Return the columns that a copy reads: captured ones, unless a mask sets them to NULL, and those of a row filter.

    See `snapshot.columns.select_query`.
    """
    rules = ColumnRules(look.config)
    unpublished = unpublished_columns([table], look.publication, rules, look.facts.version_num).get(table.ref, ())
    choice, masks = rules.choice(table.ref), look.config.masks.of(table.ref)
    null = {name for name, mask in masks.items() if mask.kind == "null"}
    published = look.publication.tables.get(table.ref) if look.publication else None
    filtered = set(published.filter_columns) if published else set()
    return [
        column.name
        for column in table.columns
        if column.name in filtered
        or (choice.keeps(column.name) and column.name not in null and column.name not in unpublished)
    ]


def unreadable_columns(look: Look, table: TableInfo) -> list[str]:
    """Return the columns that a copy reads and the role may not read."""
    if table.readable:
        return []
    readable = {column.name for column in table.columns if column.readable}
    return [name for name in columns_to_read(look, table) if name not in readable]


def grant_to_read(look: Look, table: TableInfo) -> str:
    """Return the GRANT for the columns that a copy reads; for the whole table if no column is left out."""
    needed = columns_to_read(look, table)
    columns = f" ({', '.join(map(quote_identifier, needed))})" if len(needed) < len(table.columns) else ""
    return f"GRANT SELECT{columns} ON {table.ref.sql} TO {quote_identifier(look.facts.role)};"
