"""What tables are, by the catalog: `TableIdentity`.

Only ordinary queries of pg_class and pg_attribute, so that in a transaction with an imported snapshot the answer is as
of that snapshot; functions such as `pg_relation_filenode` look at the present.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.identity import SourceColumn, TableIdentity


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A table of the catalog, with all its columns.

    Attributes:
        oid, storage, partitions, top: See `TableIdentity`.
        columns: By name.
        missing: By column: text of the value of rows that are older than it; NULL is left out.
        empty_partitions: See `SourceTable`.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    top: int
    columns: Mapping[str, SourceColumn]
    missing: Mapping[str, str]
    empty_partitions: frozenset[int]

    def identity(self, names: Collection[str], *, key_index: int, published: str) -> TableIdentity:
        """With the captured columns only."""
        columns = tuple(self.columns[name] for name in names)
        return TableIdentity(self.oid, self.storage, self.partitions, self.top, key_index, published, columns)

    def is_as(self, other: Fingerprint | None) -> bool:
        """Whether nothing of the table's shape or storage is different."""
        if other is None:
            return False
        return (self.oid, self.storage, dict(self.partitions), dict(self.columns)) == (
            other.oid,
            other.storage,
            dict(other.partitions),
            dict(other.columns),
        )


def read_fingerprints(connection: Connection, oids: Collection[int]) -> dict[int, Fingerprint]:
    """The tables with these OIDs, as far as they exist.

    Args:
        connection: Made with `text_form=True`: values are text of the stream's form.
        oids: `pg_class.oid` of tables.
    """
    columns, missing = _columns(connection, oids)
    partitions = _partitions(connection, oids)
    found: dict[int, Fingerprint] = {}
    for oid, kind, storage, top in connection.execute(
        """
        SELECT c.oid::bigint, c.relkind::text, c.relfilenode::text, c.relnatts
        FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
        """,
        (list(oids),),
    ):
        leaves = partitions.get(oid, {}) if kind == "p" else {}
        found[oid] = Fingerprint(
            oid=oid,
            storage="" if kind == "p" else storage,
            partitions={leaf: leaf_storage for leaf, (leaf_storage, _) in leaves.items()},
            top=top,
            columns=columns.get(oid, {}),
            missing=missing.get(oid, {}),
            empty_partitions=frozenset(leaf for leaf, (_, created) in leaves.items() if created),
        )
    return found


def _columns(
    connection: Connection, oids: Collection[int]
) -> tuple[dict[int, dict[str, SourceColumn]], dict[int, dict[str, str]]]:
    """Columns by table and name, and their values in older rows.

    A column that was added with a constant default is missing from older rows, and the catalog has their value (fast
    defaults). A partitioned table has no rows: its leaves know.
    """
    found: dict[int, dict[str, SourceColumn]] = {}
    values: dict[int, dict[str, str]] = {}
    for oid, name, number, version, missing in connection.execute(
        """
        SELECT a.attrelid::bigint, a.attname::text, a.attnum, a.xmin::text,
               CASE WHEN c.relkind <> 'p' THEN (a.attmissingval::text::text[])[1]
                    ELSE (SELECT min((l.attmissingval::text::text[])[1]) FROM pg_catalog.pg_attribute l
                          WHERE l.attname = a.attname AND l.attrelid IN
                                (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf)) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum
        """,
        (list(oids),),
    ):
        found.setdefault(oid, {})[name] = SourceColumn(name, number, version, name)
        if missing is not None:
            values.setdefault(oid, {})[name] = missing
    return found, values


def _partitions(connection: Connection, oids: Collection[int]) -> dict[int, dict[int, tuple[str, bool]]]:
    """Leaves by root: storage, and whether the leaf was created as a partition.

    A table that is attached brings rows which never came through the stream. One that was created by CREATE TABLE ...
    PARTITION OF did so in one command: the row of its inheritance was written by the command that wrote those of its
    columns.
    """
    found: dict[int, dict[int, tuple[str, bool]]] = {}
    for root, leaf, storage, created in connection.execute(
        """
        WITH RECURSIVE tree AS (
            SELECT inhparent AS root, inhrelid AS leaf FROM pg_catalog.pg_inherits WHERE inhparent = ANY (%s)
            UNION ALL
            SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
        )
        SELECT root::bigint, leaf::bigint, c.relfilenode::text, false
        FROM tree JOIN pg_catalog.pg_class c ON c.oid = leaf WHERE c.relkind = 'r'
        """,
        (list(oids),),
    ):
        found.setdefault(root, {})[leaf] = (storage, created)
    return found
