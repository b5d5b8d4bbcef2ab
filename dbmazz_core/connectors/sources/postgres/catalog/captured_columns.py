"""The captured columns of the configured tables, for people and for checks."""

from __future__ import annotations

from collections.abc import Iterable

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication
from dbmazz_core.model.table_description import ColumnDescription, TableDescription
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef


def describe_captured_columns(
    tables: Iterable[TableInfo], config: SourceConfig, rules: ColumnRules
) -> list[TableDescription]:
    """Return tables with the types and masks of their captured columns."""
    return [
        TableDescription(
            table.ref,
            tuple(
                ColumnDescription(column.name, column.type_name, not column.not_null, masks.get(column.name))
                for column in table.columns
                if choice.keeps(column.name)
            ),
            table.key,
        )
        for table in tables
        for choice, masks in [(rules.choice(table.ref), config.masks.of(table.ref))]
    ]


def captured_column_names(
    tables: Iterable[TableInfo], publication: Publication | None, rules: ColumnRules
) -> dict[TableRef, tuple[str, ...]]:
    """Return the names of the captured columns by table.

    Args:
        tables: The tables.
        publication: The publication; None if it does not exist yet. It will publish all columns then.
        rules: The rules for columns.
    """
    return {
        table.ref: tuple(
            name
            for name in (publication.columns_of(table) if publication else [c.name for c in table.columns])
            if rules.choice(table.ref).keeps(name)
        )
        for table in tables
    }
