"""Tables without a key, which are bags of rows, and TRUNCATE: inside one batch and over several."""

from __future__ import annotations

import duckdb
import pytest

from tests.support.lab import BIG_TABLE, BOTH, Lab, run, toast

keeps_signs_of_zeros = pytest.mark.skipif(
    duckdb.__version__.startswith("1."), reason="DuckDB 1 compresses a column of 0 and -0 to one value (tried, 1.5.0)"
)

# -- tables without a key

BAG = "CREATE TABLE t (a int, b text); INSERT INTO t SELECT 1, 'x' FROM generate_series(1, 5);"


def test_a_delete_removes_one_of_equal_rows(trap: Lab) -> None:
    run(
        trap,
        BAG + "INSERT INTO t VALUES (NULL, NULL), (NULL, NULL), (2, NULL)",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 1)",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a IS NULL)",
        "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (NULL, '')",
        "DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 1 LIMIT 3)",
    )


def test_updates_among_duplicates(trap: Lab) -> None:
    run(
        trap,
        BAG + f"INSERT INTO t SELECT 3, {toast('same')} FROM generate_series(1, 3)",
        "UPDATE t SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 1)",
        "UPDATE t SET a = a WHERE a = 1",
        "UPDATE t SET a = a + 1 WHERE ctid IN (SELECT ctid FROM t WHERE a = 1 LIMIT 2)",
        "UPDATE t SET a = 4 WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 3)",
        "UPDATE t SET a = NULL, b = NULL WHERE b = 'x'",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE a = 3)",
    )


@keeps_signs_of_zeros
def test_zeros_of_both_signs_are_two_rows_without_a_key(trap: Lab) -> None:
    """Equal to every database, but not the same value."""
    run(
        trap,
        "CREATE TABLE t (f float8); INSERT INTO t VALUES ('-0'), (0), (0), ('NaN'), ('NaN')",
        "INSERT INTO t VALUES ('-0'), (0); DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE f::text = '-0')",
        "UPDATE t SET f = '-0' WHERE ctid = (SELECT min(ctid) FROM t WHERE f::text = '0')",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE f = 'NaN')",
    )


@keeps_signs_of_zeros
@pytest.mark.parametrize(("old", "new"), [("0", "-0"), ("-0", "0")])
@pytest.mark.parametrize("type", ["float8", "real"])
def test_a_zero_changes_its_sign_in_a_table_without_a_key(lab: Lab, type: str, old: str, new: str) -> None:
    run(lab, f"CREATE TABLE t (f {type}); INSERT INTO t VALUES ('{old}'), ('{new}')", f"UPDATE t SET f = '{new}'")


def test_a_bag_of_every_kind_of_value(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (b bytea, j json, n numeric, d numeric(9,3), u uuid, f real, ts timestamptz, c char(4));"
        "INSERT INTO t SELECT '\\x00', '{\"a\": 1}', 1.50, 1.5, '00000000-0000-0000-0000-000000000001', 'NaN',"
        " 'infinity', 'c' FROM generate_series(1, 3); INSERT INTO t SELECT FROM generate_series(1, 3)",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE n IS NOT NULL)",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE n IS NULL)",
        "UPDATE t SET n = 1.5 WHERE ctid = (SELECT min(ctid) FROM t WHERE n IS NOT NULL)",
        "UPDATE t SET n = 1.500 WHERE ctid = (SELECT max(ctid) FROM t WHERE n = 1.5)",
    )


# -- TRUNCATE


@BOTH
def test_truncate_between_changes(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET n = 0 WHERE id = 1",
        f"TRUNCATE t; INSERT INTO t VALUES (1, 1, {toast('again')}), (2, 2, 'b'); UPDATE t SET n = 9",
        "UPDATE t SET id = 5 WHERE id = 1; DELETE FROM t WHERE id = 2",
        "INSERT INTO t VALUES (1, 1, 'c')",
    )


def test_truncate_last_and_twice(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)",
        "INSERT INTO t VALUES (3)",
        "TRUNCATE t; INSERT INTO t VALUES (1), (4); TRUNCATE t",
    )


def test_truncate_of_several_tables_and_by_cascade(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
        "CREATE TABLE b (id serial PRIMARY KEY, a int REFERENCES a);"
        "CREATE TABLE c (v int); CREATE TABLE other (id int PRIMARY KEY);"
        "INSERT INTO a (v) VALUES ('x'), ('y'); INSERT INTO b (a) VALUES (1), (2); INSERT INTO c VALUES (1), (1);"
        "INSERT INTO other VALUES (1)",
        "INSERT INTO a (v) VALUES ('z')",
        "TRUNCATE a, c RESTART IDENTITY CASCADE; INSERT INTO a (v) VALUES ('new'); INSERT INTO c VALUES (1);"
        "INSERT INTO b (a) VALUES (1)",
        "INSERT INTO c VALUES (1); INSERT INTO other VALUES (2)",
        "TRUNCATE b; INSERT INTO b (a) VALUES (1)",
        tables=("a", "b", "c", "other"),
    )


def test_a_rolled_back_truncate_and_savepoints(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)",
        "BEGIN; UPDATE t SET v = 9; SAVEPOINT s; TRUNCATE t; INSERT INTO t VALUES (3, 3); ROLLBACK TO s;"
        "DELETE FROM t WHERE id = 2; COMMIT",
        "BEGIN; INSERT INTO t VALUES (4, 4); ROLLBACK",
    )
