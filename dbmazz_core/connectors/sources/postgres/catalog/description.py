"""What the catalog says about tables: columns, keys, replica identity, sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server.state import (
    ServerFacts,
    SlotState,
    flush_lsn,
    server_facts,
    slot_state,
)
from dbmazz_core.table_ref import TableRef

__all__ = [
    "CatalogColumn",
    "Partition",
    "ServerFacts",
    "SlotState",
    "TableInfo",
    "flush_lsn",
    "server_facts",
    "slot_state",
]


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


@contextlib.contextmanager
def one_snapshot(conn: Connection) -> Iterator[None]:
    """Queries within see the catalog as of one moment; functions of the server still see the present."""
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    try:
        yield
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # the connection may be the thing that failed
            conn.execute("ROLLBACK")
        raise
    conn.execute("COMMIT")


def describe(conn: Connection, relations: Sequence[Mapping[str, Any]]) -> tuple[TableInfo, ...]:
    """What the catalog says of relations that `resolution.py` has found."""
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
