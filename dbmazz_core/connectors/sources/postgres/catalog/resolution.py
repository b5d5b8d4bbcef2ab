"""The tables that the patterns in TABLES match, and the relations among them that cannot be captured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo, describe
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import LEAF_PARTITIONS
from dbmazz_core.connectors.sources.postgres.catalog.table_errors import (
    SYSTEM_SCHEMA,
    WITHOUT_COLUMNS,
    UnstreamedPartition,
    in_system_schema,
    partition_of_captured,
    table_not_found,
    table_not_supported,
)
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.errors import SourceNotReady, TableNotFound
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.table_ref import TableRef

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table", "S": "a sequence"}
#: First version that can publish generated columns.
_SENDS_GENERATED = 180000
_PERSISTENCE = {"t": "a temporary table", "u": "an unlogged table"}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The relations that patterns match.

    Attributes:
        tables: The tables, in the order of the patterns; those of one schema by name.
        errors: One error for each table that does not exist, or cannot be captured, although a pattern names it. If
            there are no tables at all, also one for each `schema.*`.
        left_out: Relations that match `schema.*` but cannot be captured, each with the reason; without sequences.
        empty: If there are tables: one error for each `schema.*` that matches none. The last table of a schema may have
            been dropped or moved, which must not stop the others.
    """

    tables: tuple[TableInfo, ...]
    errors: tuple[SourceNotReady, ...]
    left_out: tuple[tuple[TableRef, str], ...]
    empty: tuple[TableNotFound, ...] = ()

    def verify(self) -> None:
        """Raise the first error, if there is one."""
        for error in self.errors:
            raise error


def find_tables(conn: Connection, patterns: Iterable[TablePattern]) -> list[TableInfo]:
    """Return the tables that patterns match, in the order of the patterns, those of `schema.*` by name.

    `schema.*` leaves out relations that cannot be captured, and partitions whose partitioned table is captured.

    Raises:
        TableNotFound: A table does not exist (the error suggests similar names), or the patterns match no tables.
        TableNotSupported: A view, a sequence, a foreign, temporary or unlogged table, a system schema, or a
            partition besides its partitioned table.
    """
    resolution = resolve_tables(conn, patterns)
    resolution.verify()
    return list(resolution.tables)


def resolve_tables(conn: Connection, patterns: Iterable[TablePattern]) -> Resolution:
    """Return the tables that patterns match like `find_tables`, with all errors instead of raising the first."""
    patterns = list(patterns)
    relations = _matching_relations(conn, patterns)
    errors: list[SourceNotReady] = []
    chosen: dict[TableRef, dict[str, Any]] = {}
    left_out: dict[TableRef, str] = {}
    for pattern in patterns:
        if SYSTEM_SCHEMA.fullmatch(pattern.schema):
            errors.append(in_system_schema(pattern))
            continue
        found = [r for r in relations if pattern.matches(r["ref"])]
        for relation in found:
            ref, what = relation["ref"], relation["unsupported"]
            if not what:
                chosen.setdefault(ref, relation)
            elif pattern.name is not None:
                errors.append(table_not_supported(ref, what, relation["partition"]))
            elif what != _KINDS["S"]:  # `schema.*` does not mean sequences
                left_out[ref] = what
        if not found and pattern.name is not None:
            errors.append(table_not_found(conn, pattern))
    named = {ref for ref in chosen if any(p.name is not None and p.matches(ref) for p in patterns)}
    roots_left_out = {r["ref"] for r in relations if r["partition"]}
    for ref in [ref for ref in chosen if ref not in named]:
        if root := next((a for a in _ancestors(chosen[ref]) if a in roots_left_out), None):
            del chosen[ref]
            left_out[ref] = f"a partition of {root}, which is left out"
    # Before partitions are left out: their partitioned tables may be in another schema.
    without_tables = [p for p in patterns if p.name is None and not any(p.matches(ref) for ref in chosen)]
    empty = [table_not_found(conn, p, left_out) for p in without_tables if not SYSTEM_SCHEMA.fullmatch(p.schema)]
    if not chosen:
        errors += empty
        empty = []
    captured = set(chosen)
    for ref, relation in list(chosen.items()):
        if root := next((a for a in _ancestors(relation) if a in captured), None):
            del chosen[ref]
            if ref in named:
                errors.append(partition_of_captured(ref, root))
            else:
                left_out[ref] = f"a partition of {root}, which is captured as one table"
    tables = describe(conn, list(chosen.values()))
    return Resolution(tables, tuple(errors), tuple(sorted(left_out.items())), tuple(empty))


def find_tables_by_oid(conn: Connection, oids: Collection[int]) -> tuple[TableInfo, ...]:
    """Return the tables with these OIDs. Tables that do not exist, or cannot be captured, are left out."""
    return _describe_supported(conn, _read_relations(conn, "c.oid = ANY (%(oids)s)", {"oids": list(oids)}))


def find_tables_by_name(conn: Connection, names: Collection[TableRef]) -> tuple[TableInfo, ...]:
    """Return the tables with these names. Tables that do not exist, or cannot be captured, are left out."""
    patterns = [TablePattern(ref.schema, ref.name) for ref in names]
    return _describe_supported(conn, _matching_relations(conn, patterns))


def _describe_supported(conn: Connection, relations: Iterable[Mapping[str, Any]]) -> tuple[TableInfo, ...]:
    return describe(conn, [relation for relation in relations if not relation["unsupported"]])


def _ancestors(relation: Mapping[str, Any]) -> list[TableRef]:
    return [TableRef(*name) for name in relation["ancestors"]]


def _matching_relations(conn: Connection, patterns: Sequence[TablePattern]) -> list[dict[str, Any]]:
    """Return the relations of any kind that patterns match, ordered by schema and name."""
    return _read_relations(
        conn,
        """(n.nspname = ANY (%(schemas)s)
            OR (n.nspname, c.relname) IN (SELECT * FROM unnest(%(in)s::text[], %(names)s::text[])))""",
        {
            "schemas": [p.schema for p in patterns if p.name is None],
            "in": [p.schema for p in patterns if p.name is not None],
            "names": [p.name for p in patterns if p.name is not None],
        },
    )


def _read_relations(conn: Connection, condition: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the relations `c` in schemas `n` that fulfil an SQL condition.

    Besides the columns of the query, each row has `ref`; `unsupported`: the reason why the relation cannot be captured,
    or None; and `partition`: the partition that is the reason, or None.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(
            f"""
            SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text, c.relpersistence::text,
                   c.relreplident::text,
                   EXISTS (SELECT FROM pg_catalog.pg_attribute a
                           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                             AND (a.attgenerated = '' OR %(sends_generated)s)) AS has_columns,
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
              AND {condition}
            ORDER BY n.nspname, c.relname
            """.encode(),
            {**arguments, "sends_generated": conn.info.server_version >= _SENDS_GENERATED},
        )
        rows = cursor.fetchall()
    unstreamed = _unstreamed_partitions(conn, [row["oid"] for row in rows if row["relkind"] == "p"])
    for row in rows:
        row["ref"] = TableRef(row["schema"], row["name"])
        row["unsupported"] = _KINDS.get(row["relkind"]) or _PERSISTENCE.get(row["relpersistence"])
        if not row["unsupported"] and not row["has_columns"]:
            row["unsupported"] = WITHOUT_COLUMNS
        row["partition"] = None if row["unsupported"] else unstreamed.get(row["oid"])
        if row["partition"] is not None:
            row["unsupported"] = f"a partitioned table with {row['partition']}"
    return rows


def _unstreamed_partitions(conn: Connection, oids: Sequence[int]) -> dict[int, UnstreamedPartition]:
    """Return a partition without row changes in the stream, of each partitioned table that has one, by OID of the root.

    A copy of the root would have the rows of such a partition.
    """
    return {
        root: UnstreamedPartition(TableRef(schema, name), _KINDS.get(kind) or _PERSISTENCE[persistence])
        for root, schema, name, kind, persistence in conn.execute(
            f"""
            SELECT root, n.nspname::text, c.relname::text, c.relkind::text, c.relpersistence::text
            FROM unnest(%s::oid[]) AS root
            CROSS JOIN LATERAL {LEAF_PARTITIONS.format(root="root")} AS tree
            JOIN pg_catalog.pg_class c ON c.oid = tree.relid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid <> root AND (c.relkind = 'f' OR c.relpersistence = 'u')
            ORDER BY n.nspname DESC, c.relname DESC
            """.encode(),
            (list(oids),),
        )
    }
