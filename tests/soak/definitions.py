"""DDL that takes names again: statements for a small world of names, rendered from what the catalog has.

All names come from small pools, so that they are dropped and taken again, exchanged, changed there and back, and go
round. Rows follow every change. PostgreSQL is the model: what does not fit the world as it is, it refuses.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.soak.world import ATTRIBUTES, COLUMNS, LABELS, PARTITIONS, TABLES, TYPES, Table, World, rows


def _of(tables: list[Table], a: int) -> Table | None:
    return tables[a % len(tables)] if tables else None


def _column(table: Table, n: int) -> tuple[str, str] | None:
    others = [column for column in table.columns if column[0] not in table.key]
    return others[n % len(others)] if others else None


def add_column(world: World, a: int, b: int, n: int) -> list[str]:
    """A name of the pool, free or not."""
    table = _of(world.captured, a)
    default = f" DEFAULT {world.value('integer', n)}" if n % 3 == 0 and TYPES[n % len(TYPES)] == "int" else ""
    kind = TYPES[n % len(TYPES)]
    kind = f"public.{kind}" if kind.startswith(("mood", "pair")) else kind
    return [f"ALTER TABLE {table.name} ADD COLUMN {COLUMNS[b % 4]} {kind}{default}"] if table else []


def drop_column(world: World, a: int, b: int, n: int) -> list[str]:
    """One that is in no key."""
    table = _of(world.captured, a)
    column = _column(table, n) if table else None
    return [f"ALTER TABLE {table.name} DROP COLUMN {column[0]}"] if table and column else []


def rename_column(world: World, a: int, b: int, n: int) -> list[str]:
    """To another name of the pool, or, where that is taken, both exchange theirs."""
    table = _of(world.captured, a)
    column = _column(table, n) if table else None
    if not table or not column:
        return []
    new = COLUMNS[b % 4]
    alter = f"ALTER TABLE {table.name} RENAME"
    if new in dict(table.columns) and new != column[0]:
        return [f"{alter} {column[0]} TO between; {alter} {new} TO {column[0]}; {alter} between TO {new}"]
    return [f"{alter} {column[0]} TO {new}"]


def exchange_with_key(world: World, a: int, b: int, n: int) -> list[str]:
    """A column and one of the key."""
    table = _of(world.plain, a)
    column = _column(table, n) if table else None
    if not table or not column or not table.key:
        return []
    alter, key = f"ALTER TABLE {table.name} RENAME", table.key[0]
    return [f"{alter} {column[0]} TO between; {alter} {key} TO {column[0]}; {alter} between TO {key}"]


def rename_label(world: World, a: int, b: int, n: int) -> list[str]:
    """To another of the pool; two may exchange theirs."""
    old, new = world.labels[a % len(world.labels)], LABELS[b % 5]
    alter = "ALTER TYPE public.mood RENAME VALUE"
    if new in world.labels and new != old:
        return [f"{alter} '{old}' TO 'between'; {alter} '{new}' TO '{old}'; {alter} 'between' TO '{new}'"]
    return [f"{alter} '{old}' TO '{new}'"]


def add_label(world: World, a: int, b: int, n: int) -> list[str]:
    """It can be used by the next transaction."""
    return [f"ALTER TYPE public.mood ADD VALUE '{LABELS[b % 5]}'{' BEFORE ' + repr(world.labels[0]) if n % 2 else ''}"]


def attribute(world: World, a: int, b: int, n: int) -> list[str]:
    """Added, dropped or renamed."""
    name, old = ATTRIBUTES[b % 3], world.attributes[a % len(world.attributes)] if world.attributes else "x"
    what = [f"ADD ATTRIBUTE {name} int", f"DROP ATTRIBUTE {old}", f"RENAME ATTRIBUTE {old} TO {name}"][n % 3]
    return [f"ALTER TYPE public.pair {what}"] if len(world.attributes) > 1 or n % 3 != 1 else []


def label_there_and_back(world: World, a: int, b: int, n: int) -> list[str]:
    """With rows in between."""
    old, alter = world.labels[a % len(world.labels)], "ALTER TYPE public.mood RENAME VALUE"
    table = next((table for table in world.plain if "mood" in str(table.columns) and table.key), None)
    if table is None:
        return rename_label(world, a, b, n)
    values = ", ".join(
        str(n % 5 + 5) if name in table.key else "'between'" if type.endswith("mood") else "NULL"
        for name, type in table.columns
    )
    filled = f"INSERT INTO {table.name} VALUES ({values}) ON CONFLICT DO NOTHING"
    return [f"{alter} '{old}' TO 'between'", filled, f"{alter} 'between' TO '{old}'"]


def column_again(world: World, a: int, b: int, n: int) -> list[str]:
    """Added, written to, dropped, and added again."""
    table, name = _of(world.captured, a), COLUMNS[b % 4]
    if table is None or name in dict(table.columns):
        return drop_column(world, a, b, n)
    added, set_ = f"ALTER TABLE {table.name} ADD COLUMN {name} int", f"UPDATE {table.name} SET {name} = {n}"
    return [added, set_, f"ALTER TABLE {table.name} DROP COLUMN {name}", *([added] if n % 3 else [])]


def name_for_a_while(world: World, a: int, b: int, n: int) -> list[str]:
    """Another table has a table's name, and rows, and goes again."""
    table = _of(world.plain, a)
    if table is None:
        return []
    schema, _, name = table.name.rpartition(".")
    columns = ", ".join(f"{column} {type}" for column, type in table.columns)
    values = ", ".join("3" if column in table.key else "NULL" for column, _ in table.columns)
    key = f", PRIMARY KEY ({', '.join(table.key)})" if table.key else ""
    return [
        f"ALTER TABLE {table.name} RENAME TO aside",
        f"CREATE TABLE {table.name} ({columns}{key})",
        "DO $$ BEGIN ALTER PUBLICATION dbmazz_pub ADD TABLE " + table.name + "; EXCEPTION WHEN OTHERS THEN END $$",
        f"INSERT INTO {table.name} VALUES ({values})",
        f"DROP TABLE {table.name}",
        f"ALTER TABLE {schema}.aside RENAME TO {name}",
    ]


def rename_table(world: World, a: int, b: int, n: int) -> list[str]:
    """To another of the pool; two may exchange theirs."""
    table, new = _of(world.plain, a), f"public.{TABLES[b % 3]}"
    if table is None or not table.name.startswith("public.t"):
        return []
    if new in world.tables and new != table.name:
        old = table.name.removeprefix("public.")
        return [
            f"ALTER TABLE {table.name} RENAME TO between; ALTER TABLE {new} RENAME TO {old};"
            f"ALTER TABLE public.between RENAME TO {TABLES[b % 3]}"
        ]
    return [f"ALTER TABLE {table.name} RENAME TO {TABLES[b % 3]}"]


def create_table(world: World, a: int, b: int, n: int) -> list[str]:
    """Under a name of the pool that is free."""
    columns = ", ".join(f"{name} int" for name in COLUMNS[: 1 + n % 3])
    return [f"CREATE TABLE public.{TABLES[b % 3]} (id int PRIMARY KEY, {columns})"]


def drop_table(world: World, a: int, b: int, n: int) -> list[str]:
    """Its name is taken again at once, or later."""
    table = _of(world.plain, a)
    if table is None:
        return []
    return [f"DROP TABLE {table.name}", *(create_table(world, a, b, n) if n % 2 else [])]


def set_schema(world: World, a: int, b: int, n: int) -> list[str]:
    """There or back."""
    table = _of(world.plain, a)
    if table is None:
        return []
    return [f"ALTER TABLE {table.name} SET SCHEMA {'other' if table.name.startswith('public.') else 'public'}"]


def attach(world: World, a: int, b: int, n: int) -> list[str]:
    """A partition changes its root, leaves it, or comes."""
    root, name, bound = _of(world.roots, a), f"public.{PARTITIONS[b % 3]}", f"FOR VALUES IN ({b % 3})"
    partition = world.tables.get(name)
    if root is None:
        return []
    if partition is None:
        return [f"CREATE TABLE {name} PARTITION OF {root.name} {bound}"]
    attached = f"ALTER TABLE {root.name} ATTACH PARTITION {name} {bound}"
    if partition.parent is None:
        return [f"DELETE FROM {name} WHERE d IS DISTINCT FROM {b % 3}", attached]  # its rows have to fit the bound
    detached = f"ALTER TABLE {partition.parent} DETACH PARTITION {name}"
    return [detached] if n % 3 == 0 else [detached, attached]


def drop_partition(world: World, a: int, b: int, n: int) -> list[str]:
    """Or truncate it, or make it again."""
    root, name = _of(world.roots, a), f"public.{PARTITIONS[b % 3]}"
    if root is None or name not in world.tables:
        return attach(world, a, b, n)
    if n % 3 == 0:
        return [f"TRUNCATE {name}"]
    again = f"CREATE TABLE {name} PARTITION OF {root.name} FOR VALUES IN ({b % 3})"
    return [f"DROP TABLE {name}", *([again] if n % 3 == 1 else [])]


def make_fill_truncate(world: World, a: int, b: int, n: int) -> list[str]:
    """A partition is made, filled and truncated; in one transaction that leaves no trace in the catalog."""
    root, name = _of(world.roots, a), f"public.{PARTITIONS[b % 3]}"
    if root is None or name in world.tables:
        return drop_partition(world, a, b, n)
    values = ", ".join(
        "7" if column == root.key[0] else str(b % 3) if column == "d" else "NULL" for column, _ in root.columns
    )
    filled = f"INSERT INTO {root.name} VALUES ({values})"
    return [f"CREATE TABLE {name} PARTITION OF {root.name} FOR VALUES IN ({b % 3})", filled, f"TRUNCATE {name}"]


def pass_through(world: World, a: int, b: int, n: int) -> list[str]:
    """A partition goes to the other root, is written to there, and leaves it, perhaps for its own."""
    name, d = f"public.{PARTITIONS[b % 3]}", b % 3
    partition = world.tables.get(name)
    others = [root for root in world.roots if partition and root.name != partition.parent]
    if partition is None or partition.parent is None or not others:
        return attach(world, a, b, n)
    other, bound = others[0], f"FOR VALUES IN ({d})"
    values = ", ".join(
        "8" if column == other.key[0] else str(d) if column == "d" else "NULL" for column, _ in other.columns
    )
    return [
        f"ALTER TABLE {partition.parent} DETACH PARTITION {name}",
        f"ALTER TABLE {other.name} ATTACH PARTITION {name} {bound}",
        f"INSERT INTO {other.name} VALUES ({values}) ON CONFLICT DO NOTHING",
        f"ALTER TABLE {other.name} DETACH PARTITION {name}",
        *([f"ALTER TABLE {partition.parent} ATTACH PARTITION {name} {bound}"] if n % 2 else []),
    ]


def identity(world: World, a: int, b: int, n: int) -> list[str]:
    """Of a table, or of each partition."""
    table = _of(list(world.tables.values()), a)
    return [f"ALTER TABLE {table.name} REPLICA IDENTITY {['FULL', 'DEFAULT'][n % 2]}"] if table else []


def key(world: World, a: int, b: int, n: int) -> list[str]:
    """The primary key passes on to another column that can be one."""
    table = _of(world.plain, a)
    column = _column(table, n) if table else None
    if not table or not column or not table.key or column[1] not in ("integer", "bigint"):
        return []
    name = table.name.rpartition(".")[2]
    return [
        f"ALTER TABLE {table.name} REPLICA IDENTITY FULL; UPDATE {table.name} SET {column[0]} = {table.key[0]} + 10;"
        f"DO $$ BEGIN EXECUTE (SELECT 'ALTER TABLE {table.name} DROP CONSTRAINT ' || quote_ident(conname) FROM "
        f"pg_constraint WHERE conrelid = '{table.name}'::regclass AND contype = 'p'); END $$;"
        f"ALTER TABLE {table.name} ADD CONSTRAINT {name}_{column[0]}_{n} PRIMARY KEY ({column[0]});"
        f"ALTER TABLE {table.name} REPLICA IDENTITY {['FULL', 'DEFAULT'][n % 2]}"
    ]


def operations(world: World, a: int, b: int, n: int) -> list[str]:
    """What is published, there and back, with rows in between that do not come."""
    table = _of(world.captured, a)
    between = rows(world, table, a, n) if table else []
    return [
        "ALTER PUBLICATION dbmazz_pub SET (publish = 'insert')",
        *between,
        "ALTER PUBLICATION dbmazz_pub SET (publish = 'insert, update, delete, truncate')",
    ]


def publication(world: World, a: int, b: int, n: int) -> list[str]:
    """A table leaves the publication and comes back, with rows in between that do not come."""
    table = _of(world.captured, a)
    if table is None:
        return []
    alter = "ALTER PUBLICATION dbmazz_pub"
    return [f"{alter} DROP TABLE {table.name}", *rows(world, table, a, n), f"{alter} ADD TABLE {table.name}"]


def truncate(world: World, a: int, b: int, n: int) -> list[str]:
    """A table, or a root."""
    table = _of(world.captured, a)
    return [f"TRUNCATE {table.name}"] if table else []


#: By name.
CHANGES: dict[str, Callable[[World, int, int, int], list[str]]] = {
    function.__name__: function
    for function in (
        add_column, drop_column, rename_column, exchange_with_key, rename_label, add_label, attribute, rename_table,
        create_table, drop_table, set_schema, attach, drop_partition, identity, key, operations, publication, truncate,
        make_fill_truncate, pass_through, label_there_and_back, column_again, name_for_a_while,
    )
}  # fmt: skip
