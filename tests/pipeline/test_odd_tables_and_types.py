"""Types of the user's own, names of every kind, and partitions."""

from __future__ import annotations

from dataclasses import replace

from tests.support.lab import Lab, run, toast

# -- types


def test_an_enum_gets_a_new_label_while_streaming(trap: Lab) -> None:
    """dlt#4102, debezium/dbz#304."""
    trap.execute(
        "CREATE TYPE mood AS ENUM ('good', 'bad');"
        "CREATE TABLE t (id int PRIMARY KEY, m mood, ms mood[]); INSERT INTO t VALUES (1, 'good', '{good,bad}')"
    )
    trap.capture_and_compare("t")
    trap.transactions(
        "INSERT INTO t VALUES (2, 'bad', '{bad}')",
        "ALTER TYPE mood ADD VALUE 'so, \"so\"' BEFORE 'bad'",
        "INSERT INTO t VALUES (3, 'so, \"so\"', ARRAY['so, \"so\"', 'good']::mood[]);"
        "UPDATE t SET m = 'so, \"so\"' WHERE id = 1",
        "ALTER TYPE mood RENAME VALUE 'good' TO 'fine'",
        "INSERT INTO t VALUES (4, 'fine', '{fine}')",
    )
    trap.capture()
    # Rows of before have the label that was theirs when they were written: PostgreSQL renames them without a change.
    trap.execute("UPDATE t SET ms = ms")
    trap.capture_and_compare("t")


def test_one_type_name_in_two_schemas(trap: Lab) -> None:
    """debezium/dbz#1529."""
    run(
        trap,
        "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TYPE a.kind AS ENUM ('x', 'y'); CREATE DOMAIN b.kind AS int;"
        "CREATE TYPE mood AS (a int, b text);"
        "CREATE TABLE t (id int PRIMARY KEY, one a.kind, two b.kind, three mood, four a.kind[], five b.kind[]);"
        "INSERT INTO t VALUES (1, 'x', 7, '(1,\"a b\")', '{x,y}', '{1,NULL}')",
        "INSERT INTO t SELECT 2, one, two, three, four, five FROM t",
        "UPDATE t SET one = 'y', two = 8; ALTER TYPE a.kind ADD VALUE 'z'",
        "UPDATE t SET one = 'z' WHERE id = 1; DELETE FROM t WHERE two = 8 AND id = 2",
    )


def test_a_domain_over_a_domain_is_its_base_type_as_a_key_too(trap: Lab) -> None:
    run(
        trap,
        "CREATE DOMAIN amount AS numeric(9,2); CREATE DOMAIN price AS amount CHECK (VALUE > 0);"
        f"CREATE TABLE t (id price PRIMARY KEY, v text); INSERT INTO t VALUES (1.5, {toast(1)}), (2, {toast(2)})",
        "UPDATE t SET id = 3 WHERE id = 1.50",
        "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2.00, 'two')",
    )


# -- names


def test_names_of_63_bytes_that_differ_at_their_end(trap: Lab) -> None:
    """Of 21 characters of three bytes each, and of 62 bytes that are the same."""
    wide, long = "€" * 21, "x" * 62
    run(
        trap,
        f'CREATE TABLE "{wide}" (id int PRIMARY KEY, "{"ü" * 31}" text);'
        f"CREATE TABLE {long}a (id int PRIMARY KEY, {long}1 text, {long}2 text); CREATE TABLE {long}b (id int)",
        f"INSERT INTO \"{wide}\" VALUES (1, {toast(1)}); INSERT INTO {long}a VALUES (1, 'a', 'b');"
        f"INSERT INTO {long}b VALUES (1), (1)",
        f'UPDATE "{wide}" SET id = 2; UPDATE {long}a SET {long}2 = NULL; DELETE FROM {long}b',
        tables=(f'public."{wide}"', f"{long}a", f"{long}b"),
    )


def test_any_name_for_schema_table_and_column(lab: Lab) -> None:
    names = ["select", "1st", "a.b", 'a "b"', "Ünï", "o'clock", "%s {x}", "\\", "$1 -- x", "*", "^.*$", " "]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    tables = [f"{name}.{name}" for name in quoted]
    lab = replace(lab, tables=",".join(tables))
    for name, table in zip(quoted, tables, strict=True):
        lab.execute(
            f"CREATE SCHEMA {name}; CREATE TABLE {table} ({name} int PRIMARY KEY, n int, v text);"
            f"INSERT INTO {table} VALUES (1, 1, {toast(1)}), (2, 2, 'b'), (3, 3, 'c')"
        )
    lab.capture_and_compare(*tables)
    for name, table in zip(quoted, tables, strict=True):
        lab.execute(f"UPDATE {table} SET n = 0; UPDATE {table} SET {name} = 9 WHERE {name} = 1")
        lab.execute(f"DELETE FROM {table} WHERE {name} = 2; INSERT INTO {table} VALUES (2, 2, NULL)")
    assert lab.capture_and_compare(*tables).changes == 6 * len(tables)


def test_column_names_that_polars_takes_for_patterns(trap: Lab) -> None:
    """`*` for all columns, `^...$` for those that match: with values left out, with moves, and without a key."""
    columns = '"v1" text, "*" text, "^v.*$" float8, "^.*$" date'
    values = f"{toast('v1')}, {toast('star')}, i / 7.0, date '2024-01-01' - i * 300000"
    run(
        trap,
        f'CREATE TABLE t ("^k.*$" int, "k2" int, {columns}, PRIMARY KEY ("^k.*$", k2)); CREATE TABLE bag ({columns});'
        f"INSERT INTO t SELECT i, -i, {values} FROM generate_series(1, 6) i;"
        f"INSERT INTO bag SELECT {values} FROM generate_series(1, 3) i, generate_series(1, 2)",
        'UPDATE t SET v1 = 1 WHERE k2 = -1; UPDATE t SET "*" = 2 WHERE k2 = -2; UPDATE t SET "^v.*$" = 3 WHERE k2 = -3',
        'UPDATE t SET "^k.*$" = 10 WHERE k2 = -1; UPDATE t SET k2 = 10 WHERE k2 = -4; DELETE FROM t WHERE k2 = -5',
        'UPDATE bag SET "*" = NULL WHERE ctid = (SELECT min(ctid) FROM bag)',
        "DELETE FROM bag WHERE ctid = (SELECT max(ctid) FROM bag); INSERT INTO bag SELECT * FROM bag",
        tables=("t", "bag"),
    )


def test_tables_of_one_name_in_two_schemas(trap: Lab) -> None:
    lab = replace(trap, tables="public.*, other.*")
    run(
        lab,
        "CREATE SCHEMA other; CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE other.t (v text);"
        "INSERT INTO t VALUES (1, 'public'); INSERT INTO other.t VALUES ('other'), ('other')",
        "INSERT INTO t VALUES (2, 'public'); DELETE FROM other.t WHERE ctid = (SELECT min(ctid) FROM other.t)",
        "TRUNCATE other.t; UPDATE t SET id = 3 WHERE id = 1",
        tables=("public.t", "other.t"),
    )


# -- partitions

PARTITIONED = (
    "CREATE TABLE p (id int, day date, big text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
    "CREATE TABLE p_24 PARTITION OF p FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);"
    # Its columns in another order, as after a life of its own.
    "CREATE TABLE p_24_a (big text, dropped int, day date NOT NULL, id int NOT NULL);"
    "ALTER TABLE p_24_a DROP COLUMN dropped; ALTER TABLE p_24 ATTACH PARTITION p_24_a FOR VALUES IN (1, 2, 3);"
    "CREATE TABLE p_24_b PARTITION OF p_24 DEFAULT; CREATE TABLE p_rest PARTITION OF p DEFAULT;"
    f"INSERT INTO p SELECT i, date '2023-12-30' + i, v FROM generate_series(1, 6) i, {toast('p')} v(v)"
)


def test_rows_move_between_partitions(trap: Lab) -> None:
    """Whether the root sees an update or a delete and an insert; with values out of line."""
    run(
        trap,
        PARTITIONED,
        "UPDATE p SET day = '2024-06-01' WHERE id = 1",
        "UPDATE p SET id = 9 WHERE id = 3; UPDATE p SET id = 3 WHERE id = 5",
        "UPDATE p SET day = day + 366",
        "DELETE FROM p WHERE id = 2; INSERT INTO p VALUES (2, '2024-02-02', 'back')",
        tables=("p",),
    )


def test_partitions_with_identities_of_their_own(trap: Lab) -> None:
    run(
        trap,
        PARTITIONED + "; ALTER TABLE p_24_a REPLICA IDENTITY FULL; ALTER TABLE p_rest REPLICA IDENTITY FULL",
        "UPDATE p SET day = '2024-06-01' WHERE id = 1",
        "UPDATE p SET big = 'small' WHERE id < 4; DELETE FROM p WHERE id = 6",
        "UPDATE p SET id = id + 10",
        tables=("p",),
    )


def test_truncate_of_a_partitioned_table_empties_all_partitions(trap: Lab) -> None:
    run(trap, PARTITIONED, "TRUNCATE p; INSERT INTO p VALUES (1, '2024-02-02', 'first')", tables=("p",))


def test_partitions_captured_one_by_one(trap: Lab) -> None:
    """Named by themselves, each is a table of its own; a row that moves leaves one and comes to the other."""
    run(
        replace(trap, tables="p_rest, p_24_a, p_24_b"),
        PARTITIONED,
        "UPDATE p SET day = '2024-06-01' WHERE id = 1; UPDATE p SET id = 8 WHERE id = 3",
        "TRUNCATE p_24_b; INSERT INTO p VALUES (7, '2024-03-03', 'seven')",
        "TRUNCATE p; INSERT INTO p VALUES (1, '2024-02-02', 'first')",
        tables=("p_rest", "p_24_a", "p_24_b"),
    )
