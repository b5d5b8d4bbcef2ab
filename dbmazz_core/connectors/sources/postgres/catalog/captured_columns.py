"""The captured columns of the configured tables, for people and for checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import GENERATED_COLUMNS_VERSION
from dbmazz_core.model.table_description import ColumnDescription, TableDescription
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef


def unpublished_columns(
    tables: Iterable[TableInfo], publication: Publication | None, rules: ColumnRules, version_num: int
) -> dict[TableRef, tuple[str, ...]]:
    """Return the columns that the rules keep and the server does not send, by table; tables without any are left out.

    Args:
        tables: The tables.
        publication: The publication; None if it does not exist yet. It will publish all columns that it can.
        rules: The rules for columns.
        version_num: `server_version_num`.
    """
    found: dict[TableRef, tuple[str, ...]] = {}
    for table in tables:
        if publication is not None and table.ref in publication.tables:
            sent = set(publication.columns_of(table))
        else:
            kinds = ("", "s") if version_num >= GENERATED_COLUMNS_VERSION else ("",)
            sent = {column.name for column in table.columns if column.generated in kinds}
        choice = rules.choice(table.ref)
        missing = tuple(c.name for c in table.columns if c.name not in sent and choice.keeps(c.name))
        if missing:
            found[table.ref] = missing
    return found


def describe_captured_columns(
    tables: Iterable[TableInfo],
    config: SourceConfig,
    rules: ColumnRules,
    unpublished: Mapping[TableRef, tuple[str, ...]],
) -> list[TableDescription]:
    """Return tables with the types and masks of their captured columns; `unpublished` columns are not captured."""
    return [
        TableDescription(
            table.ref,
            tuple(
                ColumnDescription(column.name, column.type_name, not column.not_null, masks.get(column.name))
                for column in table.columns
                if choice.keeps(column.name) and column.name not in unpublished.get(table.ref, ())
            ),
            table.key,
            unpublished.get(table.ref, ()),
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
