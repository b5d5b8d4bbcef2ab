"""Types whose definition is part of their values' text: labels of enums, attributes of composites.

ALTER TYPE ... RENAME VALUE changes the text of all rows at once; changed and changed back, it has changed the text of
the rows in between. The stream says nothing of it. A new label changes no row, but may be renamed once it is used.
"""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.model.schema import TableSchema


def types_changed(identity: TableIdentity, now: CatalogTable) -> str | None:
    """What happened to a table, if labels or attributes that it knew were changed since; None if not.

    By their names, and by their rows in the catalog: one that was changed back has its name again, and another row.
    """
    after = now.identity
    for oid, parts in identity.types.items():
        versions = identity.type_versions.get(oid, ())
        if oid in after.types and (
            after.types[oid][: len(parts)] != parts or after.type_versions[oid][: len(versions)] != versions
        ):
            return "has values of an enum whose labels were renamed, or of a composite whose attributes changed"
    for oid in after.types.keys() - identity.types.keys():
        # It came with a column. Of an enum `new_labels` takes care.
        if oid not in now.enums and not now.original_parts[oid]:
            return "got values of a composite whose attributes were changed, perhaps since"
    return None


def new_labels(identity: TableIdentity, now: CatalogTable) -> dict[int, tuple[str, ...]]:
    """By OID of an enum: the labels that it got since, as they are called today.

    Of an enum that came with a column, all labels that may have been renamed since.
    """
    found = {}
    for oid in now.enums:
        labels = now.identity.types[oid]
        known = len(identity.types[oid]) if oid in identity.types else now.original_parts[oid]
        if len(labels) > known:
            found[oid] = labels[known:]
    return found


def found_by_new_labels(identity: TableIdentity, seen: TableSchema, now: CatalogTable) -> str | None:
    """What happened to a table whose rows are found by values of an enum that got labels: they may be looked for under
    a later name than the one that they were sent with. None if it is no such table."""
    keyless = not seen.key or not now.schema.key
    key = {c.number for c in now.identity.columns if keyless or c.name in {*seen.key, *now.schema.key}}
    for oid in new_labels(identity, now):
        if any(column.number in key for column in now.enums[oid]):
            return "has its rows found by values of an enum that got a label"
    return None
