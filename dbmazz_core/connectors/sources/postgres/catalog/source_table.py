"""Read tables from the catalog: captured columns and identity, by catalog, publication and rules for columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable, EnumColumn
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo, catalog_snapshot
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints
from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication, read_publication
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables_by_oid
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.types import CatalogTypes, ColumnOfType
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.loading import load_polars
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl

#: How often tables are read again that are altered while they are read.
_ATTEMPTS = 5


def read_tables(
    connection: Connection,
    publication: str,
    oids: Collection[int],
    types: CatalogTypes,
    rules: ColumnRules,
    names: Mapping[int, TableRef],
) -> dict[TableRef, CatalogTable]:
    """Return tables as the catalog has them, all as of one catalog snapshot.

    Tables that were dropped, or cannot be captured, are left out.

    Args:
        connection: A connection made with `text_form=True`.
        publication: Name of the publication.
        oids: OIDs of the tables.
        types: Resolves the columns' types.
        rules: The rules for columns.
        names: By OID, the names under which the rules know tables that were renamed.

    Raises:
        SourceNotReady: The tables were altered during each of `_ATTEMPTS` reads.
    """
    for _ in range(_ATTEMPTS):
        with catalog_snapshot(connection):
            found = find_tables_by_oid(connection, oids)
            published = read_publication(connection, publication, only=[table.ref for table in found])
            if published is None:
                return {}
            # The view pg_publication_tables calls a function, which reads the current state, not that of the snapshot.
            if all(published.columns_exist(table) for table in found):
                fingerprints = read_fingerprints(connection, [table.oid for table in found])
                columns = types.columns_of([(table.ref, table.oid, _captured(table, published)) for table in found])
                return {
                    table.ref: source_table(
                        table,
                        TableSchema(table.ref, resolved, table.key),
                        published,
                        fingerprints[table.oid],
                        rules,
                        names.get(table.oid, table.ref),
                    )
                    for table, resolved in zip(found, columns, strict=True)
                }
    raise SourceNotReady(
        "the tables were altered while their definitions were read",
        object=", ".join(str(table.ref) for table in found),
        remedy="run it again when no other session alters them",
    )


def _captured(table: TableInfo, publication: Publication) -> list[ColumnOfType]:
    """Return the published columns of a table."""
    columns, names = {c.name: c for c in table.columns}, publication.columns_of(table)
    return [ColumnOfType(n, columns[n].type_oid, columns[n].type_modifier, n in table.key) for n in names]


def source_table(
    table: TableInfo,
    whole: TableSchema,
    publication: Publication,
    fingerprint: Fingerprint,
    rules: ColumnRules,
    name_in_rules: TableRef,
) -> CatalogTable:
    """Return a table as the catalog has it.

    Args:
        table: Columns and key of the table.
        whole: The published columns, before the rules.
        publication: The publication, with at least this table.
        fingerprint: Fingerprint of the table.
        rules: The rules for columns.
        name_in_rules: Name under which the rules know the table, which may be renamed.
    """
    published = publication.tables.get(table.ref)
    schema = rules.apply(whole, name_in_rules)[0]
    return CatalogTable(
        table.ref,
        schema,
        fingerprint.identity(
            schema.names,
            key_index=table.key_index,
            published=f"{published.entry} {published.row_filter}" if published else "",
            redacted=rules.redacted(name_in_rules, {n: c.number for n, c in fingerprint.columns.items()}),
        ),
        published.row_filter if published else None,
        fingerprint.created_partitions,
        _missing_values(fingerprint, schema, rules, name_in_rules),
        unreported_rewrites=not (published and published.by_name) or (table.is_partition and publication.via_root),
        truncate_xid=fingerprint.truncate_xid,
        layouts=fingerprint.layouts,
        enums=_enums(fingerprint, schema),
        unchanged_parts={
            oid: contained.unchanged
            for name in schema.names
            for oid, contained in fingerprint.types.get(name, {}).items()
        },
    )


def _enums(fingerprint: Fingerprint, schema: TableSchema) -> dict[int, tuple[EnumColumn, ...]]:
    """Return the captured columns that contain enums, see `CatalogTable.enums`."""
    found: dict[int, tuple[EnumColumn, ...]] = {}
    for column in schema.columns:
        for oid, contained in fingerprint.types.get(column.name, {}).items():
            if contained.is_enum and column.mask != "null":
                is_list = column.type.element is not None
                plain = contained.direct and not column.mask and contained.in_array == is_list
                found[oid] = (*found.get(oid, ()), EnumColumn(fingerprint.columns[column.name].number, plain))
    return found


def _missing_values(
    fingerprint: Fingerprint, schema: TableSchema, rules: ColumnRules, name_in_rules: TableRef
) -> dict[int, pl.Series]:
    """Return the values that rows older than a column have, see `CatalogTable.missing_values`."""
    if not fingerprint.missing_values:
        return {}
    load_polars()
    import polars as pl

    from dbmazz_core.connectors.sources.postgres.types.read import read_each
    from dbmazz_core.model.masked_columns import masked

    maskers = rules.maskers(name_in_rules)
    found: dict[int, pl.Series] = {}
    for column in schema.columns:
        text = fingerprint.missing_values.get(column.name)
        if text is None:
            continue
        raw, number = pl.Series([text.encode()]), fingerprint.columns[column.name].number
        if column.name not in maskers:
            found[number], _ = read_each(raw, column.type)
        elif (values := masked(maskers[column.name], raw, column.type)).null_count() == 0:
            found[number] = values
    return found
