"""What the catalog says about tables: columns, keys, replica identity, and what cannot be captured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server_state import (
    ServerFacts,
    SlotState,
    flush_lsn,
    server_facts,
    slot_state,
)
from dbmazz_core.connectors.sources.postgres.table_errors import (
    SYSTEM_SCHEMA,
    not_found,
    not_supported,
    partition_of_captured,
    system_schema,
)
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.tables import TablePattern, TableRef

__all__ = [
    "CatalogColumn",
    "Partition",
    "Resolution",
    "ServerFacts",
    "SlotState",
    "TableInfo",
    "find_tables",
    "flush_lsn",
    "resolve_tables",
    "server_facts",
    "slot_state",
]

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}
_PERSISTENCE = {"t": "a temporary table", "u": "an unlogged table"}


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column as `pg_attribute` has it.

    Attributes:
        name: Its name.
        type_oid: OID of its type.
        type_modifier: `atttypmod`: length, or precision and scale; -1 for none.
        type_name: As SQL writes the type, such as `numeric(12,2)`; qualified unless it is pg_catalog's.
        not_null: Declared NOT NULL.
        generated: Of GENERATED ALWAYS AS (expression): `s` stored, `v` virtual; else empty. The stream leaves
            these out, except stored ones where the publication of a PostgreSQL 18 server says
            `publish_generated_columns = stored`.
        number: Never given to another column of the table (`attnum`).
    """

    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    not_null: bool
    generated: str
    number: int


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition that holds rows, at any depth. Its own replica identity counts for the changes in it."""

    ref: TableRef
    replica_identity: str


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table that can be captured.

    Attributes:
        ref: Its name.
        oid: `pg_class.oid`.
        relkind: `r` table, `p` partitioned table.
        persistence: Always `p`, permanent.
        replica_identity: `d` default, `n` nothing, `f` full, `i` an index.
        columns: All columns, in order.
        key: Columns to merge by; empty where nothing identifies a row and rows are a multiset.
        key_index: OID of the index that they are of, 0 for none.
        has_usable_identity: Updates and deletes in the stream carry what finds the row, and PostgreSQL lets
            them happen while the table is published.
        estimated_rows: `reltuples`, over all partitions; -1 where never analyzed.
        pages: `relpages`, blocks of 8 kB, over all partitions.
        ancestors: Of a partition: the partitioned tables that it is part of, the nearest first.
        partitions: Of a partitioned table, those that hold rows.
        has_children: Other tables inherit from it. Their rows are not captured with it.
        owner: The owning role.
        owned: Whether the current role owns it, as itself, as a member of the owner or as superuser.
        readable: Whether the current role may SELECT from it.
        hides_rows: Whether row-level security keeps rows from the current role.
    """

    ref: TableRef
    oid: int
    relkind: str
    persistence: str
    replica_identity: str
    columns: tuple[CatalogColumn, ...]
    key: tuple[str, ...]
    key_index: int
    has_usable_identity: bool
    estimated_rows: int
    pages: int
    ancestors: tuple[TableRef, ...]
    partitions: tuple[Partition, ...]
    has_children: bool
    owner: str
    owned: bool
    readable: bool
    hides_rows: bool

    @property
    def is_partitioned(self) -> bool:
        """Whether its rows are in partitions."""
        return self.relkind == "p"

    @property
    def is_partition(self) -> bool:
        """Whether it is part of a partitioned table."""
        return bool(self.ancestors)

    @property
    def refuses_full(self) -> bool:
        """Whether the server refuses updates and deletes once it is published with REPLICA IDENTITY FULL: a virtual
        generated column (PostgreSQL 18) is in that identity and is never published."""
        return any(c.generated == "v" for c in self.columns)

    @property
    def identities(self) -> tuple[Partition, ...]:
        """The table itself and its partitions, each with its replica identity."""
        return (Partition(self.ref, self.replica_identity), *self.partitions)


@dataclass(frozen=True, slots=True)
class Resolution:
    """What the patterns stand for.

    Attributes:
        tables: In the order of the patterns, those of one schema by name.
        errors: One for each pattern that stands for nothing or for something that cannot be captured.
        left_out: Relations that match `schema.*` but cannot be captured, and what they are; no sequences.
    """

    tables: tuple[TableInfo, ...]
    errors: tuple[SourceNotReady, ...]
    left_out: tuple[tuple[TableRef, str], ...]


def find_tables(conn: Connection, patterns: Iterable[TablePattern]) -> list[TableInfo]:
    """The tables that the patterns stand for, in the patterns' order, those of `schema.*` by name.

    `schema.*` leaves out what cannot be captured, and partitions whose partitioned table is captured.

    Raises:
        TableNotFound: A table does not exist (with the nearest names that do), or a schema has no tables.
        TableNotSupported: A view, a sequence, a foreign, temporary or unlogged table, a system schema, or a
            partition besides its partitioned table.
    """
    resolution = resolve_tables(conn, patterns)
    if resolution.errors:
        raise resolution.errors[0]
    return list(resolution.tables)


def resolve_tables(conn: Connection, patterns: Iterable[TablePattern]) -> Resolution:
    """`find_tables` that collects errors instead of raising the first."""
    patterns = list(patterns)
    relations = _relations(conn, patterns)
    errors: list[SourceNotReady] = []
    chosen: dict[TableRef, dict[str, Any]] = {}
    left_out: dict[TableRef, str] = {}
    for pattern in patterns:
        if SYSTEM_SCHEMA.fullmatch(pattern.schema):
            errors.append(system_schema(pattern))
            continue
        found = [r for r in relations if pattern.matches(r["ref"])]
        capturable = {r["ref"]: r for r in found if not r["unsupported"]}
        unsupported = {r["ref"]: r["unsupported"] for r in found if r["unsupported"]}
        chosen |= {ref: r for ref, r in capturable.items() if ref not in chosen}
        if pattern.name is None:
            # Nobody means these by `schema.*`.
            left_out |= {ref: what for ref, what in unsupported.items() if what != _KINDS["S"]}
        else:
            errors += [not_supported(ref, what) for ref, what in unsupported.items()]
        if not capturable and (pattern.name is None or not unsupported):
            errors.append(not_found(conn, pattern))
    captured = set(chosen)
    for ref, relation in list(chosen.items()):
        root = next((a for name in relation["ancestors"] if (a := TableRef(*name)) in captured), None)
        if root is None:
            continue
        del chosen[ref]
        if any(pattern.name is not None and pattern.matches(ref) for pattern in patterns):
            errors.append(partition_of_captured(ref, root))
        else:
            left_out[ref] = f"a partition of {root}, which is captured as one table"
    return Resolution(_details(conn, list(chosen.values())), tuple(errors), tuple(sorted(left_out.items())))


def _relations(conn: Connection, patterns: Sequence[TablePattern]) -> list[dict[str, Any]]:
    """Relations of any kind that match, by schema and name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text, c.relpersistence::text,
                   c.relreplident::text,
                   r.rolname AS owner, pg_has_role(c.relowner, 'USAGE') AS owned,
                   has_table_privilege(c.oid, 'SELECT') AS readable,
                   c.relrowsecurity AND NOT (SELECT u.rolsuper OR u.rolbypassrls
                                             FROM pg_catalog.pg_roles u WHERE u.rolname = current_user)
                       AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) AS hides_rows,
                   ARRAY(SELECT ARRAY[an.nspname::text, ac.relname::text]
                         FROM pg_partition_ancestors(c.oid) WITH ORDINALITY AS a (relid, distance)
                         JOIN pg_catalog.pg_class ac ON ac.oid = a.relid
                         JOIN pg_catalog.pg_namespace an ON an.oid = ac.relnamespace
                         WHERE a.relid <> c.oid ORDER BY a.distance) AS ancestors
            FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
              AND (n.nspname = ANY (%(schemas)s)
                   OR (n.nspname, c.relname) IN (SELECT * FROM unnest(%(in)s::text[], %(names)s::text[])))
            ORDER BY n.nspname, c.relname
            """,
            {
                "schemas": [p.schema for p in patterns if p.name is None],
                "in": [p.schema for p in patterns if p.name is not None],
                "names": [p.name for p in patterns if p.name is not None],
            },
        )
        rows = cursor.fetchall()
    for row in rows:
        row["ref"] = TableRef(row["schema"], row["name"])
        row["unsupported"] = _KINDS.get(row["relkind"]) or _PERSISTENCE.get(row["relpersistence"])
    return rows


def _details(conn: Connection, relations: Sequence[dict[str, Any]]) -> tuple[TableInfo, ...]:
    oids = [r["oid"] for r in relations]
    columns = _columns(conn, oids)
    indexes = _indexes(conn, oids)
    sizes = _sizes(conn, oids)
    partitions = _partitions(conn, [r["oid"] for r in relations if r["relkind"] == "p"])
    tables = []
    for r in relations:
        published = {c.name for c in columns.get(r["oid"], ()) if not c.generated}
        usable = [i for i in indexes.get(r["oid"], []) if set(i["columns"]) <= published]
        identity_index = _identity_index(r["relreplident"], usable)
        rows, pages, has_children = sizes[r["oid"]]
        tables.append(
            TableInfo(
                ref=r["ref"],
                oid=r["oid"],
                relkind=r["relkind"],
                persistence=r["relpersistence"],
                replica_identity=r["relreplident"],
                columns=tuple(columns.get(r["oid"], ())),
                key=tuple(identity_index["columns"]) if identity_index else (),
                key_index=int(identity_index["index_oid"]) if identity_index else 0,
                has_usable_identity=(r["relreplident"] == "f" or identity_index is not None)
                and all(_partition_is_usable(p, usable) for p in partitions.get(r["oid"], ())),
                estimated_rows=rows,
                pages=pages,
                ancestors=tuple(TableRef(*name) for name in r["ancestors"]),
                partitions=tuple(partitions.get(r["oid"], ())),
                has_children=has_children,
                owner=r["owner"],
                owned=r["owned"],
                readable=r["readable"],
                hides_rows=r["hides_rows"],
            )
        )
    return tuple(tables)


def _identity_index(replica_identity: str, indexes: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The index whose columns identify a row in the stream. A deferrable one is not among `indexes`.

    With FULL the old row is complete, so any key will do: the primary key, else the smallest without NULLs.
    """
    primary = next((i for i in indexes if i["primary"]), None)
    match replica_identity:
        case "d":
            return primary
        case "i":
            return next((i for i in indexes if i["replica_identity"]), None)
        case "f":
            unique = sorted((i for i in indexes if i["not_null"]), key=lambda i: (len(i["columns"]), i["name"]))
            return primary or next(iter(unique), None)
        case _:
            return None


def _partition_is_usable(partition: Partition, indexes: Sequence[dict[str, Any]]) -> bool:
    """A partitioned table's primary key is its partitions' as well; its replica identity is not."""
    return partition.replica_identity == "f" or (
        partition.replica_identity == "d" and any(i["primary"] for i in indexes)
    )


def _columns(conn: Connection, oids: Sequence[int]) -> dict[int, list[CatalogColumn]]:
    found: dict[int, list[CatalogColumn]] = {}
    for oid, *column in conn.execute(
        """
        SELECT attrelid, attname, atttypid, atttypmod, pg_catalog.format_type(atttypid, atttypmod),
               attnotnull, attgenerated::text, attnum
        FROM pg_catalog.pg_attribute
        WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped
        ORDER BY attrelid, attnum
        """,
        (list(oids),),
    ):
        found.setdefault(oid, []).append(CatalogColumn(*column))
    return found


def _indexes(conn: Connection, oids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Indexes that can identify a row: valid, unique, immediate, over all rows, of plain columns.

    Immediate, because with a deferrable one two rows of one transaction can hold, or swap, a key; PostgreSQL
    takes none as replica identity either (relcache.c, RelationGetIndexList).
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            """
            SELECT i.indrelid AS oid, i.indexrelid AS index_oid, c.relname AS name, i.indisprimary AS primary,
                   i.indisreplident AS replica_identity,
                   array_agg(a.attname::text ORDER BY k.position) AS columns,
                   bool_and(a.attnotnull) AS not_null
            FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
            CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE i.indrelid = ANY (%s) AND k.position <= i.indnkeyatts -- without INCLUDE columns
              AND i.indisvalid AND i.indisunique AND i.indimmediate
              AND i.indpred IS NULL AND i.indexprs IS NULL
            GROUP BY i.indrelid, i.indexrelid, c.relname, i.indisprimary, i.indisreplident
            """,
            (list(oids),),
        )
        found: dict[int, list[dict[str, Any]]] = {}
        for row in cursor:
            found.setdefault(row["oid"], []).append(row)
    return found


def _sizes(conn: Connection, oids: Sequence[int]) -> dict[int, tuple[int, int, bool]]:
    """Estimated rows, pages and whether other tables inherit, of each table."""
    return {
        oid: (int(rows), int(pages), has_children)
        for oid, rows, pages, has_children in conn.execute(
            """
            SELECT c.oid, s.rows, s.pages,
                   c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid)
            FROM pg_catalog.pg_class c
            CROSS JOIN LATERAL (
                SELECT CASE WHEN bool_and(l.reltuples < 0) THEN -1
                            ELSE coalesce(sum(greatest(l.reltuples, 0)), 0) END,
                       coalesce(sum(l.relpages), 0)
                FROM pg_catalog.pg_class l
                WHERE l.relkind = 'r' AND (l.oid = c.oid
                   OR c.relkind = 'p' AND l.oid IN (SELECT relid FROM pg_partition_tree(c.oid) WHERE isleaf))
            ) AS s (rows, pages)
            WHERE c.oid = ANY (%s)
            """,
            (list(oids),),
        )
    }


def _partitions(conn: Connection, oids: Sequence[int]) -> dict[int, list[Partition]]:
    found: dict[int, list[Partition]] = {}
    for root, schema, name, identity in conn.execute(
        """
        SELECT root, n.nspname, c.relname, c.relreplident::text
        FROM unnest(%s::oid[]) AS root
        CROSS JOIN LATERAL pg_partition_tree(root::regclass) AS tree
        JOIN pg_catalog.pg_class c ON c.oid = tree.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid <> root AND c.relkind = 'r' ORDER BY n.nspname, c.relname
        """,
        (list(oids),),
    ):
        found.setdefault(root, []).append(Partition(TableRef(schema, name), identity))
    return found
