"""What is captured of a table, and what the table is, by the catalog, the publication and the rules for its columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable, EnumColumn
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo, one_snapshot
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints
from dbmazz_core.connectors.sources.postgres.catalog.publication import Publication, read_publication
from dbmazz_core.connectors.sources.postgres.catalog.resolution import tables_of
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.types import CatalogTypes, ColumnOfType, read_each
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef

#: How often tables that are altered while they are looked at are looked at.
_LOOKS = 5


def read_tables(
    connection: Connection,
    publication: str,
    oids: Collection[int],
    types: CatalogTypes,
    rules: ColumnRules,
    names: Mapping[int, TableRef],
) -> dict[TableRef, CatalogTable]:
    """Tables as the catalog has them, all as of one moment; those that are gone, or cannot be captured, are left out.

    Args:
        connection: Made with `text_form=True`.
        publication: Its name.
        oids: The tables'.
        types: Tells the columns' types.
        rules: Which columns are captured, and how they are masked.
        names: What the rules call tables that were renamed meanwhile, by OID.

    Raises:
        SourceNotReady: If they are altered each time.
    """
    for _ in range(_LOOKS):
        with one_snapshot(connection):
            found = tables_of(connection, oids)
            published = read_publication(connection, publication, only=[table.ref for table in found])
            if published is None:
                return {}
            # pg_publication_tables is a function behind a view: it sees the present.
            if all(published.columns_exist(table) for table in found):
                fingerprints = read_fingerprints(connection, [table.oid for table in found])
                return {
                    table.ref: source_table(
                        table, published, fingerprints[table.oid], types, rules, names.get(table.oid, table.ref)
                    )
                    for table in found
                }
    raise SourceNotReady(
        "tables keep changing shape while they are looked at",
        object=", ".join(str(table.ref) for table in found),
        remedy="run again when nobody alters them",
    )


def source_table(
    table: TableInfo,
    publication: Publication,
    fingerprint: Fingerprint,
    types: CatalogTypes,
    rules: ColumnRules,
    known_as: TableRef,
) -> CatalogTable:
    """A table as the catalog has it.

    Args:
        table: The table.
        publication: What is published, at least of this table.
        fingerprint: The table's.
        types: Tells the columns' types.
        rules: Which columns are captured, and how they are masked.
        known_as: What the rules call the table, if it was renamed meanwhile.
    """
    published = publication.tables.get(table.ref)
    columns = {c.name: c for c in table.columns}
    names = publication.columns_of(table)
    chosen = [ColumnOfType(n, columns[n].type_oid, columns[n].type_modifier, n in table.key) for n in names]
    whole = TableSchema(table.ref, types.columns(table.ref, table.oid, chosen), table.key)
    schema = rules.apply(whole, known_as)[0]
    return CatalogTable(
        table.ref,
        schema,
        fingerprint.identity(
            schema.names,
            key_index=table.key_index,
            published=f"{published.entry} {published.row_filter}" if published else "",
            redacted=rules.redacted(known_as, {n: c.number for n, c in fingerprint.columns.items()}),
        ),
        fingerprint.empty_partitions,
        _missing(fingerprint, schema, rules, known_as),
        storage_tells=not (published and published.by_name) or (table.is_partition and publication.via_root),
        truncated_by=fingerprint.truncated_by,
        layouts=fingerprint.layouts,
        enums=_enums(fingerprint, schema),
        original_parts={
            oid: held.original for name in schema.names for oid, held in fingerprint.types.get(name, {}).items()
        },
    )


def _enums(fingerprint: Fingerprint, schema: TableSchema) -> dict[int, tuple[EnumColumn, ...]]:
    """See `CatalogTable.enums`."""
    found: dict[int, tuple[EnumColumn, ...]] = {}
    for column in schema.columns:
        for oid, held in fingerprint.types.get(column.name, {}).items():
            if held.is_enum and column.mask != "null":
                plain = held.direct and not column.mask and held.in_array == (column.type.element is not None)
                found[oid] = (*found.get(oid, ()), EnumColumn(fingerprint.columns[column.name].number, plain))
    return found


def _missing(
    fingerprint: Fingerprint, schema: TableSchema, rules: ColumnRules, known_as: TableRef
) -> dict[int, pl.Series]:
    """See `CatalogTable.missing`."""
    maskers = rules.maskers(known_as)
    found: dict[int, pl.Series] = {}
    for column in schema.columns:
        text = fingerprint.missing.get(column.name)
        if text is None:
            continue
        raw, number = pl.Series([text.encode()]), fingerprint.columns[column.name].number
        if column.name not in maskers:
            found[number], _ = read_each(raw, column.type)
        elif (masked := maskers[column.name].column(raw, column.type)).null_count() == 0:
            found[number] = masked
    return found
