"""Changes of the types whose definitions are part of the text of values: labels of enums, attributes of composites.

ALTER TYPE ... RENAME VALUE changes the text of all rows at once, and the stream does not report it. If a label is
renamed and renamed back, rows that were sent in between have the other text. A new label changes no row, but it can be
renamed once rows have it.

The recorded identity has each part's text (`TableIdentity.types`) and row version (`type_versions`). A part that was
renamed has another text; a part that was renamed back has the same text and another row version.
"""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.model.schema import TableSchema


def changed_types(identity: TableIdentity, now: CatalogTable) -> str | None:
    """Return why known labels or attributes may be others than those of the copied values; None: they are the same.

    Args:
        identity: The recorded identity.
        now: The catalog's table.

    Returns:
        A predicate of which the table is the subject.
    """
    after = now.identity
    for oid, parts in identity.types.items():
        versions = identity.type_versions.get(oid, ())
        if oid in after.types and (
            after.types[oid][: len(parts)] != parts or after.type_versions[oid][: len(versions)] != versions
        ):
            return "has values of an enum whose labels were renamed, or of a composite whose attributes changed"
    for oid in after.types.keys() - identity.types.keys():
        # The type came with a new column. `new_labels` handles enums.
        if oid not in now.enums and not now.unchanged_parts[oid]:
            return "got values of a composite whose attributes may have changed since"
    return None


def new_labels(identity: TableIdentity, now: CatalogTable) -> dict[int, tuple[str, ...]]:
    """Return the labels that enums of a table got since its identity was recorded, by OID, with their current texts.

    If the enum came with a new column, these are all labels that may have been renamed since the enum was created.
    """
    found = {}
    for oid in now.enums:
        labels = now.identity.types[oid]
        known = len(identity.types[oid]) if oid in identity.types else now.unchanged_parts[oid]
        if len(labels) > known:
            found[oid] = labels[known:]
    return found


def new_labels_in_key(identity: TableIdentity, seen: TableSchema, now: CatalogTable) -> str | None:
    """Return why rows may not be found by their key; None if no enum of the key got labels.

    The stream sends a label by its name at that time. After a rename, the destination looks for the row by the new
    name. A table without a key finds rows by all columns.

    Args:
        identity: The recorded identity.
        seen: The table as the stream describes it.
        now: The catalog's table.

    Returns:
        A predicate of which the table is the subject.
    """
    keyless = not seen.key or not now.schema.key
    key = {c.number for c in now.identity.columns if keyless or c.name in {*seen.key, *now.schema.key}}
    for oid in new_labels(identity, now):
        if any(column.number in key for column in now.enums[oid]):
            return "has its rows found by values of an enum that got a label"
    return None
