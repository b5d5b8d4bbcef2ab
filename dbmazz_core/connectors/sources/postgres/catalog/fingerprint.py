"""What tables are, by the catalog: `TableIdentity`.

Only ordinary queries of pg_class and pg_attribute, so that in a transaction with an imported snapshot the answer is as
of that snapshot; functions such as `pg_relation_filenode` look at the present.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile

from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceColumn, TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.redaction import RedactedColumn
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.model.nested_text import array_elements


@dataclass(frozen=True, slots=True)
class HeldType:
    """An enum or composite that values of a column hold.

    Attributes:
        parts, versions: See `TableIdentity.types` and `type_versions`.
        original: How many of the parts are certain to be as they were when the type was created.
        is_enum: Whether it is an enum.
        direct: Whether the column's type is this one, a domain over it, or an array of either.
        in_array: Whether it is within an array.
    """

    parts: tuple[str, ...]
    versions: tuple[str, ...]
    original: int
    is_enum: bool
    direct: bool
    in_array: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A table of the catalog, with all its columns.

    Attributes:
        oid, storage, partitions, top: See `TableIdentity`.
        columns: By name.
        types: By column and OID.
        missing: By column: text of the value of rows that are older than it; NULL is left out.
        layouts: By number, also of dropped columns.
        empty_partitions, truncated_by: See `CatalogTable`.
    """

    oid: int
    storage: str
    partitions: Mapping[int, str]
    top: int
    columns: Mapping[str, SourceColumn]
    types: Mapping[str, Mapping[int, HeldType]]
    missing: Mapping[str, str]
    layouts: Mapping[int, str]
    empty_partitions: Mapping[int, int]
    truncated_by: int | None

    def identity(
        self, names: Collection[str], *, key_index: int, published: str, redacted: tuple[RedactedColumn, ...]
    ) -> TableIdentity:
        """Return the identity of the table with these captured columns and these redacted ones."""
        types = {oid: held for name in names for oid, held in self.types.get(name, {}).items()}
        identity = TableIdentity(
            oid=self.oid,
            storage=self.storage,
            partitions=self.partitions,
            top=self.top,
            key_index=key_index,
            published=published,
            columns=tuple(self.columns[name] for name in names),
            types={oid: held.parts for oid, held in types.items()},
            type_versions={oid: held.versions for oid, held in types.items()},
            redacted=redacted,
        )
        unpublished = {column.number for column in self.columns.values()}.difference(identity.streamed)
        return replace(identity, unpublished=tuple(sorted(unpublished)))

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


def read_layouts(connection: Connection, types: Collection[int]) -> dict[int, str]:
    """Layouts of types by OID, as far as they exist; see `CatalogTable.layouts`."""
    rows = connection.execute(
        f"SELECT oid::bigint, {_layout('typ')} FROM pg_catalog.pg_type WHERE oid = ANY (%s)".encode(), (list(types),)
    )
    return dict(rows.fetchall())


def _layout(prefix: str) -> str:
    return f"concat_ws(' ', {prefix}len, {prefix}byval, {prefix}align)"


def read_fingerprints(connection: Connection, oids: Collection[int]) -> dict[int, Fingerprint]:
    """The tables with these OIDs, as far as they exist.

    Args:
        connection: Made with `text_form=True`: values are text of the stream's form.
        oids: `pg_class.oid` of tables.
    """
    columns, missing, layouts = _columns(connection, oids)
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
            partitions={leaf: leaf_storage for leaf, (leaf_storage, *_) in leaves.items()},
            top=top,
            columns=columns.get(oid, {}),
            types=types.get(oid, {}),
            missing=missing.get(oid, {}),
            layouts=layouts.get(oid, {}),
            empty_partitions={leaf: xid for leaf, (_, created, xid) in leaves.items() if created},
            truncated_by=truncated_by,
        )
    return found


def _columns(
    connection: Connection, oids: Collection[int]
) -> tuple[dict[int, dict[str, SourceColumn]], dict[int, dict[str, str]], dict[int, dict[int, str]]]:
    """Columns by table and name, their values in older rows, and layouts by number.

    A column that was added with a constant default is missing from older rows, and the catalog has their value (fast
    defaults). A partitioned table has no rows: its leaves know.
    """
    found: dict[int, dict[str, SourceColumn]] = {}
    values: dict[int, dict[str, str]] = {}
    layouts: dict[int, dict[int, str]] = {}
    for oid, name, number, version, layout, delimiter, missing in connection.execute(
        f"""
        SELECT a.attrelid::bigint, CASE WHEN NOT a.attisdropped THEN a.attname::text END, a.attnum, a.xmin::text,
               {_layout("a.att")}, t.typdelim::text,
               CASE WHEN a.attisdropped THEN NULL
                    WHEN c.relkind <> 'p' THEN a.attmissingval::text
                    ELSE (SELECT min(l.attmissingval::text) FROM pg_catalog.pg_attribute l
                          WHERE l.attname = a.attname AND l.attrelid IN
                                (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf)) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = ANY (%s) AND a.attnum > 0
        ORDER BY a.attrelid, a.attnum
        """.encode(),
        (list(oids),),
    ):
        layouts.setdefault(oid, {})[number] = layout
        if name is None:
            continue
        found.setdefault(oid, {})[name] = SourceColumn(name, number, version)
        if missing is not None:
            # An array of one element, which is an array itself if the column's type is.
            [values.setdefault(oid, {})[name]] = array_elements(missing, depth=1, delimiter=delimiter)
    return found, values, layouts


def _types(connection: Connection, oids: Collection[int]) -> dict[int, dict[str, dict[int, HeldType]]]:
    """Enums and composites by table and column, also within arrays, domains, ranges and each other.

    Values name labels by OID and attributes by position: ALTER TYPE ... RENAME VALUE and ADD ATTRIBUTE change the text
    of all rows at once, and the stream does not say so. A new label changes no row.

    CREATE TYPE writes the rows of the type and its parts with one command (typecmds.c, DefineEnum; heap.c,
    heap_create_with_catalog); a part whose row is of another command was added or changed since. Where a row was
    touched by a transaction that was rolled back (`xmax`), its `cmin` means nothing, and the answer is no.
    """
    found: dict[int, dict[str, dict[int, HeldType]]] = {}
    for table, column, oid, is_enum, direct, in_array, parts, versions, original in connection.execute(
        """
        WITH RECURSIVE held AS (
            SELECT a.attrelid, a.attname, a.atttypid AS oid, true AS direct, false AS in_array
            FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid >= 16384
            UNION
            SELECT held.attrelid, held.attname, other.oid, held.direct AND other.direct, held.in_array OR other.in_array
            FROM held JOIN pg_catalog.pg_type t ON t.oid = held.oid
            CROSS JOIN LATERAL (
                SELECT t.typelem, true, true UNION SELECT t.typbasetype, true, false
                UNION SELECT r.rngsubtype, false, false FROM pg_catalog.pg_range r
                WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
                UNION SELECT a.atttypid, false, false FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS other (oid, direct, in_array)
            WHERE other.oid >= 16384
        )
        SELECT attrelid::bigint, attname::text, t.oid::bigint, t.typtype = 'e', bool_and(direct), bool_or(in_array),
               CASE t.typtype WHEN 'e' THEN ARRAY(
                   SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
               ELSE ARRAY(
                   SELECT string_agg(concat(a.attnum, ' ', a.atttypid, ' ', a.atttypmod), ', ' ORDER BY a.attnum)
                   FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END,
               CASE t.typtype WHEN 'e' THEN ARRAY(
                   SELECT e.xmin::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
               ELSE ARRAY(
                   SELECT string_agg(a.xmin::text, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = t.typrelid AND a.attnum > 0) END,
               CASE t.typtype WHEN 'e' THEN ARRAY(
                   SELECT e.xmax = 0 AND e.xmin = t.xmin AND e.cmin = t.cmin AND t.xmax = 0
                   FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.oid)
               ELSE ARRAY(
                   SELECT bool_and(a.xmax = 0 AND a.xmin = t.xmin AND a.cmin = t.cmin AND t.xmax = 0)
                   FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0) END
        FROM held JOIN pg_catalog.pg_type t ON t.oid = held.oid WHERE t.typtype IN ('e', 'c')
        GROUP BY attrelid, attname, t.oid, t.xmin, t.cmin, t.xmax
        """,
        (list(oids),),
    ):
        found.setdefault(table, {}).setdefault(column, {})[oid] = HeldType(
            parts=tuple(part or "" for part in parts),
            versions=tuple(part or "" for part in versions),
            original=len(list(takewhile(bool, original))),
            is_enum=is_enum,
            direct=direct,
            in_array=in_array,
        )
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


def _partitions(connection: Connection, oids: Collection[int]) -> dict[int, dict[int, tuple[str, bool, int]]]:
    """Leaves by root: storage, whether the leaf was created as a partition, and the (sub)transaction that made it one.

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
    of a partition. A TRUNCATE in the (sub)transaction that created it leaves no trace (tablecmds.c,
    ExecuteTruncateGuts, empties the file in place): whether rows came from that transaction is for the engine to ask.
    """
    found: dict[int, dict[int, tuple[str, bool, int]]] = {}
    for root, leaf, storage, created, xid in connection.execute(
        f"""
        WITH RECURSIVE tree AS (
            SELECT i.inhparent AS root, i.inhrelid AS leaf, i.xmin::text AS since, i.xmin AS created_by, born.so
            FROM pg_catalog.pg_inherits i CROSS JOIN LATERAL (SELECT {_BORN_AS_PARTITION}) AS born (so)
            WHERE i.inhparent = ANY (%s)
            UNION ALL
            SELECT tree.root, i.inhrelid, concat(tree.since, ' ', i.xmin), i.xmin, tree.so AND born.so
            FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
            CROSS JOIN LATERAL (SELECT {_BORN_AS_PARTITION}) AS born (so)
        )
        SELECT root::bigint, leaf::bigint, concat(c.relfilenode, ' ', since), so AND c.relfilenode = c.oid,
               created_by::text::bigint
        FROM tree JOIN pg_catalog.pg_class c ON c.oid = leaf WHERE c.relkind = 'r'
        """.encode(),
        (list(oids),),
    ):
        found.setdefault(root, {})[leaf] = (storage, created, xid)
    return found
