"""Tables in the catalog: columns, keys, replica identities and sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.catalog.published_relations import LEAF_PARTITIONS
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column in `pg_attribute`.

    Attributes:
        name: Name of the column.
        type_oid: OID of the type.
        type_modifier: `atttypmod`: length, or precision and scale; -1 for none.
        type_name: The type in SQL, such as `numeric(12,2)`; qualified unless it is in pg_catalog.
        not_null: Whether the column is declared NOT NULL.
        generated: `s` for a stored and `v` for a virtual generated column, else empty. Generated columns are not in the
            stream, except stored ones if the publication of a PostgreSQL 18 server has
            `publish_generated_columns = stored`.
        number: Number of the column (`attnum`), which no other column of the table ever gets.
        readable: Whether the current role may SELECT the column.
    """

    name: str
    type_oid: int
    type_modifier: int
    type_name: str
    not_null: bool
    generated: str
    number: int
    readable: bool


@dataclass(frozen=True, slots=True)
class Partition:
    """A leaf partition, at any depth. Its own replica identity applies to changes of its rows."""

    ref: TableRef
    replica_identity: str


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table that can be captured.

    Attributes:
        ref: Name of the table.
        oid: `pg_class.oid`.
        relkind: `r` for a table, `p` for a partitioned table.
        persistence: Always `p`, permanent.
        replica_identity: `d` default, `n` nothing, `f` full, `i` an index.
        columns: All columns, in order.
        key: Columns by which rows are merged; empty if no key identifies a row, so that the rows are a multiset.
        key_index: OID of the key's index, 0 for none.
        has_usable_identity: Whether updates and deletes in the stream identify their row, and PostgreSQL permits them
            while the table is published.
        estimated_rows: `reltuples`, over all partitions; -1 if never analyzed.
        pages: `relpages`, blocks of 8 kB, over all partitions.
        ancestors: Of a partition: the partitioned tables above it, the nearest first.
        partitions: Of a partitioned table: its leaf partitions.
        has_children: Whether other tables inherit from the table. Their rows are not captured with it.
        owner: The owning role.
        owned: Whether the current role is the owner, a member of the owner, or a superuser.
        readable: Whether the current role may SELECT from the table as a whole. Otherwise it may still read columns.
        hides_rows: Whether row-level security hides rows from the current role.
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
        """Whether the table is partitioned."""
        return self.relkind == "p"

    @property
    def is_partition(self) -> bool:
        """Whether the table is a partition of another table."""
        return bool(self.ancestors)

    @property
    def full_identity_fails(self) -> bool:
        """Whether the server refuses updates and deletes of the table while it is published with REPLICA IDENTITY FULL.

        A virtual generated column (PostgreSQL 18) is part of that identity and is never published.
        """
        return any(c.generated == "v" for c in self.columns)

    @property
    def replica_identities(self) -> tuple[Partition, ...]:
        """The table itself and its leaf partitions, each with its replica identity."""
        return (Partition(self.ref, self.replica_identity), *self.partitions)


@contextlib.contextmanager
def catalog_snapshot(conn: Connection) -> Iterator[None]:
    """Run the queries within in one snapshot of the catalog. Functions of the server still read the current state."""
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        yield
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # the connection may have failed
            conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")


def describe(conn: Connection, relations: Sequence[Mapping[str, Any]]) -> tuple[TableInfo, ...]:
    """Return tables with their columns, keys and sizes.

    Args:
        conn: An ordinary connection.
        relations: Rows of the query in `resolution`.
    """
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
    """Return the index whose columns identify a row in the stream, or None.

    With REPLICA IDENTITY FULL the old row is complete, so any key identifies it: the primary key, or else the unique
    index of NOT NULL columns with the fewest columns.
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
    """Return whether the replica identity of a partition identifies rows of its root.

    The partitions of a table have its primary key, but not its replica identity.

    Args:
        partition: The partition.
        indexes: Usable indexes of the root.
    """
    return partition.replica_identity == "f" or (
        partition.replica_identity == "d" and any(i["primary"] for i in indexes)
    )


def _columns(conn: Connection, oids: Sequence[int]) -> dict[int, list[CatalogColumn]]:
    found: dict[int, list[CatalogColumn]] = {}
    for oid, *column in conn.execute(
        """
        SELECT attrelid, attname, atttypid, atttypmod, pg_catalog.format_type(atttypid, atttypmod),
               attnotnull, attgenerated::text, attnum, coalesce(has_column_privilege(attrelid, attnum, 'SELECT'), false)
        FROM pg_catalog.pg_attribute
        WHERE attrelid = ANY (%s) AND attnum > 0 AND NOT attisdropped
        ORDER BY attrelid, attnum
        """,
        (list(oids),),
    ):
        found.setdefault(oid, []).append(CatalogColumn(*column))
    return found


def _indexes(conn: Connection, oids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the indexes that can identify a row by table: valid, unique, immediate, over all rows, of plain columns.

    Under a deferrable index, two rows can have the same key within a transaction, or swap their keys. PostgreSQL
    accepts no deferrable index as replica identity either (relcache.c, RelationGetIndexList).
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
    """Return estimated rows, pages, and whether other tables inherit from the table, by OID."""
    return {
        oid: (int(rows), int(pages), has_children)
        for oid, rows, pages, has_children in conn.execute(
            f"""
            SELECT c.oid, s.rows, s.pages,
                   c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhparent = c.oid)
            FROM pg_catalog.pg_class c
            CROSS JOIN LATERAL (
                SELECT CASE WHEN bool_and(l.reltuples < 0) THEN -1
                            ELSE coalesce(sum(greatest(l.reltuples, 0)), 0) END,
                       coalesce(sum(l.relpages), 0)
                FROM (
                    SELECT c.oid WHERE c.relkind = 'r'
                    UNION ALL
                    SELECT tree.relid FROM {LEAF_PARTITIONS.format(root="c.oid")} AS tree WHERE c.relkind = 'p'
                ) AS part (oid)
                JOIN pg_catalog.pg_class l ON l.oid = part.oid AND l.relkind = 'r'
            ) AS s (rows, pages)
            WHERE c.oid = ANY (%s)
            """.encode(),
            (list(oids),),
        )
    }


def _partitions(conn: Connection, oids: Sequence[int]) -> dict[int, list[Partition]]:
    found: dict[int, list[Partition]] = {}
    for root, schema, name, identity in conn.execute(
        f"""
        SELECT root, n.nspname, c.relname, c.relreplident::text
        FROM unnest(%s::oid[]) AS root
        CROSS JOIN LATERAL {LEAF_PARTITIONS.format(root="root")} AS tree
        JOIN pg_catalog.pg_class c ON c.oid = tree.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid <> root AND c.relkind = 'r' ORDER BY n.nspname, c.relname
        """.encode(),
        (list(oids),),
    ):
        found.setdefault(root, []).append(Partition(TableRef(schema, name), identity))
    return found
