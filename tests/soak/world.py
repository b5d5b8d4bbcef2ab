"""A small world of names: what is set up, what of it the catalog has now, and changes of its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]

COLUMNS = ["a", "b", "c", "d"]
TABLES = ["t0", "t1", "t2"]
ROOTS = ["r0", "r1"]
PARTITIONS = ["p0", "p1", "p2"]
LABELS = ["la", "lb", "lc", "ld", "le"]
ATTRIBUTES = ["x", "y", "z"]
#: Two of four bytes, so that a date may have been an integer as far as the catalog's layouts tell.
TYPES = ["int", "int", "text", "date", "mood", "pair", "mood[]", "bigint"]

SETUP = (
    "CREATE SCHEMA other; CREATE TABLE public.anchor (id int PRIMARY KEY);"
    "CREATE TABLE other.anchor (id int PRIMARY KEY);"
    "CREATE TYPE mood AS ENUM ('la', 'lb'); CREATE TYPE pair AS (x int, y int);"
    "CREATE TABLE t0 (id int PRIMARY KEY, a int, b int);"
    "CREATE TABLE t1 (id int PRIMARY KEY, a mood, b pair, c mood[]);"
    "CREATE TABLE t2 (id int PRIMARY KEY, a int, b date); ALTER TABLE t2 REPLICA IDENTITY FULL;"
    "CREATE TABLE r0 (id int, d int, a int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);"
    "CREATE TABLE r1 (id int, d int, a int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);"
    "CREATE TABLE p0 PARTITION OF r0 FOR VALUES IN (0); CREATE TABLE p1 PARTITION OF r1 FOR VALUES IN (1);"
    "INSERT INTO t0 SELECT i, i, i FROM generate_series(0, 4) i;"
    "INSERT INTO t1 SELECT i, 'la', ROW(i, i)::pair, '{la,lb}' FROM generate_series(0, 4) i;"
    "INSERT INTO t2 SELECT i, i, date '2000-01-01' + i FROM generate_series(0, 4) i;"
    "INSERT INTO r0 SELECT i, 0, i FROM generate_series(0, 4) i;"
    "INSERT INTO r1 SELECT i, 1, i FROM generate_series(0, 4) i"
)

#: How tables get into the publication: by dbmazz, or by who made it before.
PUBLICATIONS = {
    "tables": "",
    "all": "CREATE PUBLICATION dbmazz_pub FOR ALL TABLES WITH (publish_via_partition_root)",
    "schemas": "CREATE PUBLICATION dbmazz_pub FOR TABLES IN SCHEMA public, other WITH (publish_via_partition_root)",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a session sees it.

    Attributes:
        name: With its schema, quoted.
        kind: `relkind`.
        columns: Name and type of each, as SQL writes it.
        key: Columns of the primary key.
        parent: The root that it is a partition of.
    """

    name: str
    kind: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    parent: str | None


class World:
    """The tables and types as a session sees them now."""

    def __init__(self, connection: Connection) -> None:
        self.tables = {
            name: Table(name, kind, tuple(map(tuple, columns)), tuple(key), parent)
            for name, kind, columns, key, parent in connection.execute(
                """
                SELECT format('%I.%I', n.nspname, c.relname), c.relkind::text,
                       ARRAY(SELECT ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod)] FROM pg_attribute a
                             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
                       ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
                             ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                             WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum),
                       (SELECT format('%I.%I', pn.nspname, p.relname) FROM pg_inherits h
                        JOIN pg_class p ON p.oid = h.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
                        WHERE h.inhrelid = c.oid)
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname IN ('public', 'other') AND c.relkind IN ('r', 'p') AND c.relname <> 'anchor'
                ORDER BY 1
                """
            )
        }
        ((self.labels, self.attributes),) = connection.execute(
            """
            SELECT ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = 'mood'::regtype ORDER BY oid),
                   ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = (
                         SELECT typrelid FROM pg_type WHERE oid = 'pair'::regtype)
                         AND attnum > 0 AND NOT attisdropped ORDER BY attnum)
            """
        ).fetchall()
        self.plain = [table for table in self.tables.values() if table.parent is None and table.kind == "r"]
        self.roots = [table for table in self.tables.values() if table.kind == "p"]
        self.captured = [table for table in self.tables.values() if table.parent is None]

    def value(self, type: str, number: int) -> str:
        """SQL for a value."""
        label = f"'{self.labels[number % len(self.labels)]}'::public.mood"
        match type.removeprefix("public."):
            case "integer" | "bigint":
                return str(number)
            case "text":
                return f"'v{number}'"
            case "date":
                return f"date '2000-01-01' + {number}"
            case "mood":
                return label
            case "mood[]":
                return f"ARRAY[{label}, 'la']" if "la" in self.labels else f"ARRAY[{label}]"
            case "pair":
                return f"ROW({', '.join(str(number + place) for place, _ in enumerate(self.attributes))})::public.pair"
            case _:
                return "NULL"


def rows(world: World, table: Table, a: int, n: int) -> list[str]:
    """Changes of some rows: what was there is updated, some comes, some goes."""
    if not table.columns or not table.key:
        return []
    others = [(name, type) for name, type in table.columns if name not in table.key]
    sets = ", ".join(f"{name} = {world.value(type, n + place)}" for place, (name, type) in enumerate(others))
    first = table.key[0]
    values = ", ".join(
        str(a % 5) if name == first else str(n % 3) if name in table.key else world.value(type, n + place)
        for place, (name, type) in enumerate(table.columns)
    )
    key_type = dict(table.columns)[first]
    if key_type not in ("integer", "bigint"):
        return []
    statements = [f"INSERT INTO {table.name} VALUES ({values}) ON CONFLICT DO NOTHING"]
    if sets:
        statements.append(f"UPDATE {table.name} SET {sets} WHERE {first} % 5 = {(a + 1) % 5}")
    if n % 4 == 0:
        statements.append(f"DELETE FROM {table.name} WHERE {first} % 5 = {(a + 2) % 5}")
    return statements
