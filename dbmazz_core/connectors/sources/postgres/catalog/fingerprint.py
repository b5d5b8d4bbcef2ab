"""Fingerprints: the catalog facts about tables that identities are made from.

The facts come from plain queries of catalog tables, so that a transaction with an imported snapshot reads the state of
that snapshot. Functions such as `pg_relation_filenode` return the current state instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.column_facts import ColumnFacts, read_column_facts
from dbmazz_core.connectors.sources.postgres.catalog.contained_types import ContainedType, read_contained_types
from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceColumn, TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.partition_facts import read_leaf_partitions
from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.connectors.sources.postgres.catalog.storage_facts import read_storage_facts
from dbmazz_core.connectors.sources.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Facts about a table and all of its columns, captured or not.

    Attributes:
        oid, storage, partitions, max_attnum: See `TableIdentity`.
        columns: The existing columns, by name.
        types: Enums and composites, by name of the column and OID of the type.
        missing_values: See `ColumnFacts.missing_values`.
        layouts: By number of a column, also of a dropped one: see `CatalogTable.layouts`.
        created_partitions, truncate_xid: See `CatalogTable`.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    max_attnum: int
    columns: Mapping[str, SourceColumn]
    types: Mapping[str, Mapping[int, ContainedType]]
    missing_values: Mapping[str, str]
    layouts: Mapping[int, str]
    created_partitions: Mapping[int, int]
    truncate_xid: int | None

    def identity(
        self, names: Collection[str], *, key_index: int, published: str, redacted: tuple[RedactedColumn, ...]
    ) -> TableIdentity:
        """Return the identity of the table.

        Args:
            names: Names of the captured columns, in order.
            key_index: OID of the key's index, 0 for none.
            published: See `TableIdentity.published`.
            redacted: The redacted columns.
        """
        types = {oid: contained for name in names for oid, contained in self.types.get(name, {}).items()}
        identity = TableIdentity(
            oid=self.oid,
            storage=self.storage,
            partitions=self.partitions,
            max_attnum=self.max_attnum,
            key_index=key_index,
            published=published,
            columns=tuple(self.columns[name] for name in names),
            types={oid: contained.parts for oid, contained in types.items()},
            type_versions={oid: contained.versions for oid, contained in types.items()},
            redacted=redacted,
        )
        unpublished = {column.number for column in self.columns.values()}.difference(identity.streamed)
        return replace(identity, unpublished=tuple(sorted(unpublished)))

    def is_unaltered_since(self, earlier: Fingerprint | None) -> bool:
        """Return whether the table had the same columns, types and storage in an earlier fingerprint."""
        if earlier is None:
            return False
        return (self.oid, self.storage, self.partitions, self.columns, self.types) == (
            earlier.oid,
            earlier.storage,
            earlier.partitions,
            earlier.columns,
            earlier.types,
        )


def read_fingerprints(connection: Connection, oids: Collection[int]) -> dict[int, Fingerprint]:
    """Return the fingerprints of the existing tables among `oids` by OID, in four queries.

    Args:
        connection: A connection made with `text_form=True`, so that values have the text that the stream sends.
        oids: OIDs of tables (`pg_class.oid`).
    """
    columns = read_column_facts(connection, oids)
    types = read_contained_types(connection, oids)
    partitions = read_leaf_partitions(connection, oids)
    found: dict[int, Fingerprint] = {}
    for oid, storage in read_storage_facts(connection, oids).items():
        leaves = partitions.get(oid, {}) if storage.is_partitioned else {}
        of_columns = columns.get(oid, ColumnFacts())
        found[oid] = Fingerprint(
            oid=oid,
            storage="" if storage.is_partitioned else storage.file_number,
            partitions={leaf: facts.storage for leaf, facts in leaves.items()},
            max_attnum=storage.max_attnum,
            columns=of_columns.columns,
            types=types.get(oid, {}),
            missing_values=of_columns.missing_values,
            layouts=of_columns.layouts,
            created_partitions={leaf: facts.attached_by for leaf, facts in leaves.items() if facts.created},
            truncate_xid=storage.truncate_xid,
        )
    return found
