"""What tables are, by the catalog: `TableIdentity`.

Only ordinary queries of pg_class and pg_attribute, so that in a transaction with an imported snapshot the answer is as
of that snapshot; functions such as `pg_relation_filenode` look at the present.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.hidden import HiddenColumn
from dbmazz_core.identity import SourceColumn, TableIdentity
from dbmazz_core.nested_text import array_elements


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A table of the catalog, with all its columns.

    Attributes:
        oid, storage, partitions, top: See `TableIdentity`.
        columns: By name.
        types: By column, see `TableIdentity.types`.
        missing: By column: text of the value of rows that are older than it; NULL is left out.
        empty_partitions, truncated_by: See `SourceTable`.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    top: int
    columns: Mapping[str, SourceColumn]
    types: Mapping[str, Mapping[int, tuple[str, ...]]]
    missing: Mapping[str, str]
    empty_partitions: frozenset[int]
    truncated_by: int | None

    def identity(
        self, names: Collection[str], *, key_index: int, published: str, hidden: tuple[HiddenColumn, ...]
    ) -> TableIdentity:
        """With the captured columns only, and those that rules hide."""
        columns = tuple(self.columns[name] for name in names)
        types = {oid: parts for name in names for oid, parts in self.types.get(name, {}).items()}
        return TableIdentity(
            self.oid, self.storage, self.partitions, self.top, key_index, published, columns, types, hidden
        )

    def is_as(self, other: Fingerprint | None) -> bool:
        """Whether nothing of the table's shape or storage is different."""
        if other is None:
            return False
        return (self.oid, self.storage, self.partitions, self.columns, self.types) == (
            other.oid,
            other.storage,
            other.partitions,
            other.columns,
            other.types,
        )


#: Whether TRUNCATE gave the table `c` the storage that it has, and not a command that rewrites it.
#:
#: Both take the numbers of new files from the counter that OIDs come from. TRUNCATE takes one for the table, the next
#: for its TOAST table, or its first index if it has none; rewriting makes a table first, whose row type and array type
#: have OIDs too, so what follows is 3 away or more (measured on 14 to 18). Where another session took a number in
#: between, where there is neither TOAST table nor index, or an index was rebuilt since, the answer is no.
_TRUNCATED = """c.relfilenode::bigint + 1 IN (
    SELECT o.relfilenode::bigint FROM pg_catalog.pg_class o WHERE o.oid = c.reltoastrelid
    UNION ALL
    SELECT o.relfilenode::bigint FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class o ON o.oid = i.indexrelid
    WHERE i.indrelid = c.oid)"""


def read_fingerprints(connection: Connection, oids: Collection[int]) -> dict[int, Fingerprint]:
    """The tables with these OIDs, as far as they exist.

    Args:
        connection: Made with `text_form=True`: values are text of the stream's form.
        oids: `pg_class.oid` of tables.
    """
    columns, missing = _columns(connection, oids)
    types = _types(connection, oids)
    partitions = _partitions(connection, oids)
    found: dict[int, Fingerprint] = {}
    for oid, kind, storage, top, truncated_by in connection.execute(
        f"""
        SELECT c.oid::bigint, c.relkind::text, c.relfilenode::text, c.relnatts,
               CASE WHEN {_TRUNCATED} THEN c.xmin::text::bigint END
        FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
        """.encode(),
        (list(oids),),
    ):
        leaves = partitions.get(oid, {}) if kind == "p" else {}
        found[oid] = Fingerprint(
            oid=oid,
            storage="" if kind == "p" else storage,
            partitions={leaf: leaf_storage for leaf, (leaf_storage, _) in leaves.items()},
            top=top,
            columns=columns.get(oid, {}),
            types=types.get(oid, {}),
            missing=missing.get(oid, {}),
            empty_partitions=frozenset(leaf for leaf, (_, created) in leaves.items() if created),
            truncated_by=truncated_by,
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
    for oid, name, number, version, delimiter, missing in connection.execute(
        """
        SELECT a.attrelid::bigint, a.attname::text, a.attnum, a.xmin::text, t.typdelim::text,
               CASE WHEN c.relkind <> 'p' THEN a.attmissingval::text
                    ELSE (SELECT min(l.attmissingval::text) FROM pg_catalog.pg_attribute l
                          WHERE l.attname = a.attname AND l.attrelid IN
                                (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf)) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attrelid, a.attnum
        """,
        (list(oids),),
    ):
        found.setdefault(oid, {})[name] = SourceColumn(name, number, version, name)
        if missing is not None:
            # An array of one element, which is an array itself if the column's type is.
            [values.setdefault(oid, {})[name]] = array_elements(missing, depth=1, delimiter=delimiter)
    return found, values


def _types(connection: Connection, oids: Collection[int]) -> dict[int, dict[str, dict[int, tuple[str, ...]]]]:
    """Enums and composites by table and column, also within arrays, domains, ranges and each other.

    Values name labels by OID and attributes by position: ALTER TYPE ... RENAME VALUE and ADD ATTRIBUTE change the text
    of all rows at once, and the stream does not say so. A new label changes no row.
    """
    found: dict[int, dict[str, dict[int, tuple[str, ...]]]] = {}
    for table, column, oid, parts in connection.execute(
        """
        WITH RECURSIVE held AS (
            SELECT a.attrelid, a.attname, a.atttypid AS oid FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
            UNION
            SELECT held.attrelid, held.attname, other.oid FROM held JOIN pg_catalog.pg_type t ON t.oid = held.oid
            CROSS JOIN LATERAL (
                SELECT t.typelem UNION SELECT t.typbasetype
                UNION SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                UNION SELECT a.atttypid FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS other (oid)
            WHERE other.oid >= 16384
        )
        SELECT attrelid::bigint, attname::text, t.oid::bigint,
               CASE t.typtype WHEN 'e' THEN ARRAY(
                   SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
               ELSE ARRAY(
                   SELECT string_agg(concat(a.attnum, ' ', a.atttypid, ' ', a.atttypmod), ', ' ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END
        FROM held JOIN pg_catalog.pg_type t ON t.oid = held.oid WHERE t.typtype IN ('e', 'c')
        """,
        (list(oids),),
    ):
        found.setdefault(table, {}).setdefault(column, {})[oid] = tuple(part or "" for part in parts)
    return found


#: Whether the table of a row `i` of pg_inherits was created as a partition and never attached; see `_partitions`.
_BORN_AS_PARTITION = """
    i.xmax = 0 AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute s
        WHERE s.attrelid = i.inhrelid AND s.attnum < 0
          AND (s.xmin <> i.xmin OR s.xmax <> 0 OR s.cmin::text::bigint >= i.cmin::text::bigint)
    ) AND (
        SELECT coalesce(bool_and(a.xmax = 0 AND a.xmin = i.xmin AND a.cmin = s.cmin), false)
        FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_attribute s ON s.attrelid = a.attrelid AND s.attname = 'tableoid' AND s.attnum < 0
        WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef
    )"""


def _partitions(connection: Connection, oids: Collection[int]) -> dict[int, dict[int, tuple[str, bool]]]:
    """Leaves by root: storage, and whether the leaf was created as a partition.

    To the storage belongs since when it is a part of the root: detached for a while, it changed without a word.

    A table that is attached brings rows which never came through the stream. One that was created as a partition has
    none of these, nor has what it is a partition of, up to the root. The two are told apart by who wrote the catalog
    (measured on 14 to 18): the rows of the system columns are written once, when a table is made, and never again;
    those of its own columns at the same time, by the same command; and the row of its inheritance by a later step of
    it. ATTACH PARTITION writes the rows of all its own columns anew (MergeAttributesIntoExisting), at the command that
    writes the inheritance. Where any of these rows were touched by others, even by a transaction that was rolled back
    (it leaves its xmax, and overwrites cmin), nothing is known, and the answer is no. Columns with defaults are
    rewritten when the default is stored; a partition all of whose columns have one counts as attached.

    A table's first file is named by its OID; one that has another was truncated since, which the stream does not say
    of a partition. (What it says nothing of, and leaves no trace: a TRUNCATE in the transaction that created the
    partition.)
    """
    found: dict[int, dict[int, tuple[str, bool]]] = {}
    for root, leaf, storage, created in connection.execute(
        f"""
        WITH RECURSIVE tree AS (
            SELECT i.inhparent AS root, i.inhrelid AS leaf, i.xmin::text AS since, born.so
            FROM pg_catalog.pg_inherits i CROSS JOIN LATERAL (SELECT {_BORN_AS_PARTITION}) AS born (so)
            WHERE i.inhparent = ANY (%s)
            UNION ALL
            SELECT tree.root, i.inhrelid, concat(tree.since, ' ', i.xmin), tree.so AND born.so
            FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
            CROSS JOIN LATERAL (SELECT {_BORN_AS_PARTITION}) AS born (so)
        )
        SELECT root::bigint, leaf::bigint, concat(c.relfilenode, ' ', since), so AND c.relfilenode = c.oid
        FROM tree JOIN pg_catalog.pg_class c ON c.oid = leaf WHERE c.relkind = 'r'
        """.encode(),
        (list(oids),),
    ):
        found.setdefault(root, {})[leaf] = (storage, created)
    return found
