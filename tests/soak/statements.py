"""SQL of one step: rendered when it runs, from what the catalog says the table looks like to that session.

So the generator needs no model of schemas, transactions and what was rolled back of them: PostgreSQL is the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.soak.tables import is_known, value

Connection = psycopg.Connection[tuple[Any, ...]]

#: Keys are numbered 0 to this, so that changes meet.
KEYS = 12
#: Where a row waits while two exchange their keys.
_ELSEWHERE = 25


@dataclass(frozen=True, slots=True)
class Column:
    """A column; `name` is quoted."""

    name: str
    type: str
    nullable: bool
    in_key: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a session sees it now.

    Attributes:
        oid: In the catalog.
        name: Quoted, without the schema, which is `public`.
        columns: Those that can be written.
        keys: Columns of its primary key and unique indexes; each has a name and columns in order.
        leaves: Its partitions that have rows, or itself.
        server: Major version.
    """

    oid: int
    name: str
    columns: tuple[Column, ...]
    keys: tuple[tuple[str, tuple[str, ...]], ...]
    leaves: tuple[str, ...]
    server: int

    def column(self, name: str) -> Column:
        """One by name."""
        return next(column for column in self.columns if column.name == name)

    @property
    def others(self) -> list[Column]:
        """Columns in no key."""
        return [column for column in self.columns if not column.in_key]

    def key_of(self, number: str | int, columns: Sequence[str]) -> list[str]:
        """Expressions for a numbered key; of two columns neither alone is unique."""
        if len(columns) == 1:
            return [value(self.column(columns[0]).type, str(number), in_key=True)]
        return [
            value(self.column(name).type, f"({number}) {'%' if i == 0 else '/'} 5", in_key=True)
            for i, name in enumerate(columns)
        ]

    def row(self, key: str, number: str) -> str:
        """Expressions for all columns."""
        keys = {
            name: expression
            for _, columns in reversed(self.keys)
            for name, expression in zip(columns, self.key_of(key, columns), strict=True)
        }
        return ", ".join(keys.get(column.name) or self.value(column, number) for column in self.columns)

    @staticmethod
    def value(column: Column, number: str) -> str:
        """An expression for one column in no key."""
        return value(column.type, number, nullable=column.nullable)

    def where(self, a: int, n: int) -> str:
        """Which rows: one key (or one of equal rows), a fraction, or a few."""
        if self.keys:
            _, columns = self.keys[n % len(self.keys)]
            return match(columns, self.key_of(a, columns))
        return f"(tableoid, ctid) IN (SELECT tableoid, ctid FROM {self.name} WHERE {self.some(a)} LIMIT {1 + n % 2})"

    def some(self, a: int) -> str:
        """About a quarter of the rows, the same for equal rows."""
        return f"(hashtext(coalesce({self.columns[0].name}::text, '')) & 3) = {a % 4}"

    def chosen(self, n: int) -> list[Column]:
        """Some columns in no key."""
        others = self.others
        return [column for i, column in enumerate(others) if (n >> i) & 1] or others[:1]

    def assignments(self, n: int) -> str:
        """SET of some columns in no key, by the row's own value or to a new one."""
        return ", ".join(f"{column.name} = {self.value(column, str(n))}" for column in self.chosen(n))


def match(columns: Sequence[str], expressions: Sequence[str]) -> str:
    """SQL for: these columns have these values."""
    return " AND ".join(f"{name} = {expression}" for name, expression in zip(columns, expressions, strict=True))


_TABLES = """
SELECT c.oid, quote_ident(c.relname) FROM pg_class c JOIN pg_namespace s ON s.oid = relnamespace
WHERE nspname = 'public' AND relkind IN ('r', 'p') AND NOT relispartition ORDER BY c.oid
"""
_COLUMNS = """
SELECT quote_ident(attname), format_type(atttypid, atttypmod), NOT attnotnull,
       EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND attnum = ANY (indkey))
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""
_KEYS = """
SELECT quote_ident(c.relname), (SELECT array_agg(quote_ident(attname) ORDER BY place)
    FROM unnest(indkey::int2[]) WITH ORDINALITY AS k (number, place)
    JOIN pg_attribute ON attrelid = indrelid AND attnum = number)
FROM pg_index JOIN pg_class c ON c.oid = indexrelid
WHERE indrelid = %s AND indisunique AND indpred IS NULL AND indexprs IS NULL ORDER BY NOT indisprimary, c.relname
"""
_LEAVES = """
WITH RECURSIVE tree AS (
    SELECT %s::oid AS oid UNION ALL SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = tree.oid
) SELECT quote_ident(relname) FROM tree JOIN pg_class USING (oid) WHERE relkind = 'r' ORDER BY oid
"""


def table_names(connection: Connection) -> list[str]:
    """Captured tables, quoted, in the order of their creation."""
    return [name for _, name in connection.execute(_TABLES)]


def look_up(connection: Connection, number: int) -> Table | None:
    """A table by its number, None if there is none."""
    tables = connection.execute(_TABLES).fetchall()
    if not tables:
        return None
    return find(connection, tables[number % len(tables)][0])


def find(connection: Connection, oid: int) -> Table | None:
    """A table by its OID, None if there is none."""
    found = [name for table, name in connection.execute(_TABLES) if table == oid]
    if not found:
        return None
    columns = [Column(*row) for row in connection.execute(_COLUMNS, [oid]) if is_known(row[1])]
    keys = [(index, tuple(names)) for index, names in connection.execute(_KEYS, [oid])]
    leaves = tuple(leaf for (leaf,) in connection.execute(_LEAVES, [oid]))
    return Table(oid, found[0], tuple(columns), tuple(keys), leaves, connection.info.server_version // 10000)


# -- each takes the table and three numbers, and gives statements


def insert(table: Table, a: int, b: int, n: int) -> str:
    """Up to six rows; if one of the keys is taken, none."""
    return f"INSERT INTO {table.name} ({_names(table)}) {rows(table, a, a + b % 6, n)}"


def insert_first(table: Table | None, count: int) -> str:
    """Rows to begin with."""
    assert table is not None
    return f"INSERT INTO {table.name} ({_names(table)}) {rows(table, 0, count - 1, 0)}"


def insert_new(table: Table, a: int, b: int, n: int) -> str:
    """Those whose keys are free: speculative insertions."""
    return insert(table, a, b, n) + " ON CONFLICT DO NOTHING"


def insert_many(table: Table, a: int, b: int, n: int) -> str:
    """A transaction too large for the smaller buffers."""
    first = 100 + a * 10
    query = rows(table, first, first + 40 * (b + 1), n)
    return f"INSERT INTO {table.name} ({_names(table)}) {query} ON CONFLICT DO NOTHING"


def upsert(table: Table, a: int, b: int, n: int) -> str:
    """INSERT ON CONFLICT DO UPDATE."""
    if not table.keys or not table.others:
        return insert(table, a, b, n)
    _, columns = table.keys[0]
    sets = ", ".join(f"{column.name} = EXCLUDED.{column.name}" for column in table.chosen(n))
    return insert(table, a, b, n) + f" ON CONFLICT ({', '.join(columns)}) DO UPDATE SET {sets}"


def merge(table: Table, a: int, b: int, n: int) -> str:
    """Updates, deletes and inserts of one statement; PostgreSQL 15 and newer."""
    if not table.keys or not table.others or table.server < 15:
        return upsert(table, a, b, n)
    _, columns = table.keys[0]
    condition = match([f"t.{name}" for name in columns], table.key_of("i", columns))
    return (
        f"MERGE INTO {table.name} t USING (SELECT i FROM generate_series({a}, {a + b % 6}) i) s ON {condition} "
        f"WHEN MATCHED AND i % 3 = {n % 3} THEN DELETE WHEN MATCHED THEN UPDATE SET {table.assignments(n)} "
        f"WHEN NOT MATCHED THEN INSERT ({_names(table)}) VALUES ({table.row('i', f'i * 31 + {n}')})"
    )


def update_one(table: Table, a: int, b: int, n: int) -> str:
    """Some columns of one row."""
    return _update(table, n, table.where(a, b))


def update_some(table: Table, a: int, b: int, n: int) -> str:
    """Some columns of a quarter of the rows."""
    return _update(table, n, table.some(a))


def update_all(table: Table, a: int, b: int, n: int) -> str:
    """Some columns of all rows."""
    return _update(table, n, "true")


def touch(table: Table, a: int, b: int, n: int) -> str:
    """An update that changes nothing."""
    name = table.columns[n % len(table.columns)].name
    return f"UPDATE {table.name} SET {name} = {name} WHERE {table.some(a)}"


def move(table: Table, a: int, b: int, n: int) -> str:
    """A row gets another key, perhaps another partition, perhaps other values."""
    if not table.keys:
        return update_one(table, a, b, n)
    _, columns = table.keys[n % len(table.keys)]
    new = table.key_of(b + 4 * (n % 3), columns)
    sets = [f"{name} = {expression}" for name, expression in zip(columns, new, strict=True)]
    if n % 3 == 0 and table.others:
        sets.append(table.assignments(n))
    free = f"NOT EXISTS (SELECT FROM {table.name} WHERE {match(columns, new)})"
    return f"UPDATE {table.name} SET {', '.join(sets)} WHERE {match(columns, table.key_of(a, columns))} AND {free}"


def swap(table: Table, a: int, b: int, n: int) -> str:
    """Two rows exchange their keys by way of a third."""
    if not table.keys:
        return update_some(table, a, b, n)
    _, columns = table.keys[n % len(table.keys)]

    def change(old: int, new: int) -> str:
        sets = ", ".join(f"{c} = {e}" for c, e in zip(columns, table.key_of(new, columns), strict=True))
        return f"UPDATE {table.name} SET {sets} WHERE {match(columns, table.key_of(old, columns))}"

    return ";\n".join([change(a, _ELSEWHERE), change(b, a), change(_ELSEWHERE, b)])


def shift(table: Table, a: int, b: int, n: int) -> str:
    """Every key moves by one, to what another row has just left."""
    if not table.keys:
        return touch(table, a, b, n)
    _, columns = table.keys[n % len(table.keys)]
    sets = ", ".join(f"{c} = {e}" for c, e in zip(columns, table.key_of("j + 1", columns), strict=True))
    return (
        f"DELETE FROM {table.name} WHERE {match(columns, table.key_of(KEYS, columns))};\n"
        f"DO $$ BEGIN FOR j IN REVERSE {KEYS - 1}..{a} LOOP UPDATE {table.name} SET {sets} "
        f"WHERE {match(columns, table.key_of('j', columns))}; END LOOP; END $$"
    )


def delete_one(table: Table, a: int, b: int, n: int) -> str:
    """One row."""
    return f"DELETE FROM {table.name} WHERE {table.where(a, n)}"


def delete_some(table: Table, a: int, b: int, n: int) -> str:
    """A quarter of the rows."""
    return f"DELETE FROM {table.name} WHERE {table.some(a)}"


def reinsert(table: Table, a: int, b: int, n: int) -> str:
    """A key is deleted and inserted again, perhaps deleted once more."""
    statements = [delete_one(table, a, b, 0), insert(table, a, 0, n)]
    if n % 2:
        statements.append(update_one(table, a, 0, n + 1))
    if n % 5 == 0:
        statements.append(delete_one(table, a, b, 0))
    return ";\n".join(statements)


def truncate(table: Table, a: int, b: int, n: int) -> str:
    """TRUNCATE, perhaps with rows before and after it."""
    before = [insert_new(table, a, 1, n)] if n % 2 else []
    after = [insert_new(table, b, 2, n)] if n % 3 else []
    return ";\n".join([*before, f"TRUNCATE {table.name}{' RESTART IDENTITY' if n % 7 == 0 else ''}", *after])


def identity(table: Table, a: int, b: int, n: int) -> str:
    """Another replica identity, of every partition by itself."""
    choices = ["FULL"]
    if table.keys:
        choices.append("DEFAULT")
        if len(table.leaves) == 1 and len(table.keys) > 1:
            choices += [f"USING INDEX {index}" for index, _ in table.keys]
    choice = choices[n % len(choices)]
    return ";\n".join(f"ALTER TABLE {leaf} REPLICA IDENTITY {choice}" for leaf in table.leaves)


def message(table: Table, a: int, b: int, n: int) -> str:
    """A logical message, which is not ours to read."""
    return f"SELECT pg_logical_emit_message({'true' if n % 2 else 'false'}, 'p', repeat('x', {n * 10}))"


def noise(table: Table, a: int, b: int, n: int) -> str:
    """WAL that concerns no captured table."""
    return f"INSERT INTO history.noise SELECT repeat('n', {n}) FROM generate_series(1, {b + 1})"


def rows(table: Table, first: int, last: int, n: int) -> str:
    """A query that gives rows of the table's shape. Without a key many are equal."""
    number = f"i * 31 + {n}" if table.keys else f"i % 3 + {n % 2}"
    key = "i" if table.keys else "i % 4"
    return f"SELECT {table.row(key, number)} FROM generate_series({first}, {last}) i"


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


def _update(table: Table, n: int, where: str) -> str:
    if not table.others:
        name = table.columns[0].name
        return f"UPDATE {table.name} SET {name} = {name} WHERE {where}"
    return f"UPDATE {table.name} SET {table.assignments(n)} WHERE {where}"


#: By name; the first is what a failure is reduced to.
STATEMENTS: dict[str, Callable[[Table, int, int, int], str]] = {
    function.__name__: function
    for function in (
        insert, update_one, delete_one, touch, update_some, update_all, delete_some, move, swap, shift, reinsert,
        insert_new, upsert, merge, insert_many, truncate, identity, message, noise,
    )
}  # fmt: skip
#: These lock out readers of the table until their transaction ends.
EXCLUSIVE = {"truncate", "identity", "truncate_several"}
