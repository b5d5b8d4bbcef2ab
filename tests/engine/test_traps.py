"""What has bitten change-data-capture systems inside one batch: each case as one window, judged by the oracle.

Every scenario runs as a whole in the stream (one flush), and again with a flush after every transaction, so that the
same changes meet an empty batch and a filled destination.
"""

from __future__ import annotations

import duckdb
import pytest

from dbmazz_core.config import FlushConfig
from dbmazz_core.errors import UnknownValue
from tests.engine.lab import Lab, toast

BOTH = pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])


@pytest.fixture(params=["one flush", "many flushes"])
def trap(request: pytest.FixtureRequest, lab: Lab) -> Lab:
    return lab if request.param == "one flush" else lab.configured(flush=FlushConfig(size=1))


def run(lab: Lab, setup: str, *transactions: str, tables: tuple[str, ...] = ("t",)) -> None:
    """Set up, copy, run the transactions, capture them in one window, compare."""
    lab.execute(setup)
    lab.capture_and_compare(*tables)
    lab.transactions(*transactions)
    lab.capture_and_compare(*tables)


# -- one key, many changes


@BOTH
def test_insert_update_delete_insert_of_one_key(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')",
        "BEGIN; INSERT INTO t VALUES (9, 'a'); UPDATE t SET v = 'b' WHERE id = 9; DELETE FROM t WHERE id = 9;"
        "INSERT INTO t VALUES (9, 'c'); COMMIT",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (1, 'new')",
        "UPDATE t SET v = 'newer' WHERE id = 1",
        "INSERT INTO t VALUES (8, 'gone'); DELETE FROM t WHERE id = 8",
        "UPDATE t SET v = 'x' WHERE id = 2; DELETE FROM t WHERE id = 2",
        "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 'once'); DELETE FROM t WHERE id = 3",
    )


@BOTH
def test_two_rows_swap_keys_via_a_third(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'one'), (2, 'two')",
        "UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1",
    )


@BOTH
def test_a_chain_of_key_changes(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 20) i",
        *(f"UPDATE t SET id = {i + 100} WHERE id = {i}" for i in range(1, 6)),
        *(f"UPDATE t SET id = {i + 99}, v = v || '!' WHERE id = {i + 100}" for i in range(1, 6)),
        "UPDATE t SET id = 1000 WHERE id = 100; DELETE FROM t WHERE id = 1000",
        "INSERT INTO t VALUES (1, 'another first'); UPDATE t SET id = 2 WHERE id = 1",
        "UPDATE t SET id = -id",
    )


def test_every_key_moves_by_one(trap: Lab) -> None:
    """Each new key is one that another row has just left."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, i FROM generate_series(1, 50) i",
        "DO $$ BEGIN FOR i IN REVERSE 50..1 LOOP UPDATE t SET id = id + 1 WHERE id = i; END LOOP; END $$",
        "INSERT INTO t VALUES (1, 'new')",
    )


# -- unchanged TOAST

BIG_TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t REPLICA IDENTITY {identity};"
    f"INSERT INTO t VALUES (1, 1, {toast('one')}), (2, 2, {toast('two')}), (3, 3, NULL), (4, 4, '')"
)


@BOTH
def test_a_key_change_leaves_the_toast_value_under_the_old_key(trap: Lab, identity: str) -> None:
    run(trap, BIG_TABLE.format(identity=identity), "UPDATE t SET id = id + 10")


@BOTH
def test_a_key_moves_away_and_back_with_its_toast_value(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET id = 11, n = 5 WHERE id = 1; UPDATE t SET id = 1, n = n + 1 WHERE id = 11",
    )


@BOTH
def test_two_rows_with_toast_values_swap_keys(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1",
    )


@BOTH
def test_a_row_moves_to_the_key_of_a_deleted_one_and_its_old_key_is_used_again(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "DELETE FROM t WHERE id = 2; UPDATE t SET id = 2 WHERE id = 1; INSERT INTO t VALUES (1, 9, 'new')",
        "UPDATE t SET id = 5 WHERE id = 2; UPDATE t SET n = n + 1 WHERE id = 5",
        f"UPDATE t SET id = 6, big = {toast('other')} WHERE id = 5; UPDATE t SET id = 7 WHERE id = 6",
    )


@BOTH
def test_an_unchanged_toast_value_is_in_the_destination(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET n = n + 10",
        "UPDATE t SET n = n + 10 WHERE id < 3",
        "UPDATE t SET big = NULL WHERE id = 1; UPDATE t SET n = 0 WHERE id = 1",
        f"UPDATE t SET big = {toast('three')} WHERE id = 3; UPDATE t SET n = 0 WHERE id = 3",
        "UPDATE t SET n = 7 WHERE id = 2; DELETE FROM t WHERE id = 2",
    )


@BOTH
def test_an_unchanged_toast_value_came_earlier_in_the_batch(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        f"INSERT INTO t VALUES (9, 9, {toast('nine')}); UPDATE t SET n = 10 WHERE id = 9;"
        "UPDATE t SET id = 10 WHERE id = 9; UPDATE t SET n = 11 WHERE id = 10",
        f"DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 0, {toast('uno')}); UPDATE t SET n = 1 WHERE id = 1",
        f"UPDATE t SET big = {toast('dos')} WHERE id = 2; UPDATE t SET id = 22 WHERE id = 2;"
        "UPDATE t SET n = n + 1 WHERE id = 22",
    )


@BOTH
def test_rows_lack_different_columns_in_one_batch(trap: Lab, identity: str) -> None:
    """artie#100."""
    sets = ["n = 0", "a = '-'", "b = NULL", "c = 'x'", "a = 'y', c = NULL", "a = '', b = '', c = ''", "id = id + 100"]
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text, c text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT i, i, a.v || i, b.v || i, c.v || i FROM generate_series(1, 49) i,"
        f"{toast('a')} AS a(v), {toast('b')} AS b(v), {toast('c')} AS c(v)",
        *(f"UPDATE t SET {set_} WHERE id % 7 = {i}" for i, set_ in enumerate(sets)),
        *(f"UPDATE t SET {set_} WHERE id / 7 = {i}" for i, set_ in enumerate(sets)),
    )


def test_a_toasted_key(trap: Lab) -> None:
    """The old key comes whenever a key column is stored out of line, and the new one is not sent."""
    run(
        trap,
        "CREATE TABLE t (id text PRIMARY KEY, v int); ALTER TABLE t ALTER id SET STORAGE EXTERNAL;"
        "INSERT INTO t SELECT repeat(i::text, 2500), i FROM generate_series(1, 3) i",
        "UPDATE t SET v = v + 10 WHERE v < 3",
        "UPDATE t SET id = repeat('x', 2500) WHERE v = 11; UPDATE t SET v = 5 WHERE v = 11",
        "DELETE FROM t WHERE v = 12",
    )


def test_an_unchanged_toast_value_that_nobody_knows_is_an_error_and_changes_nothing(lab: Lab) -> None:
    lab.execute(BIG_TABLE.format(identity="DEFAULT"))
    lab.capture()
    with duckdb.connect(str(lab.path)) as destination:
        destination.execute("DELETE FROM public.t WHERE id = 2")
    lab.execute("UPDATE t SET n = 5")
    with (
        lab.nothing_changes("public.t"),
        pytest.raises(UnknownValue, match=r"public\.t: transaction [0-9]+ committed at") as info,
    ):
        lab.capture()
    assert info.value.object == "public.t"
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")


# -- other constraints


@BOTH
def test_a_unique_value_moves_between_rows(trap: Lab, identity: str) -> None:
    """PeerDB#4169."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, email text UNIQUE);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        "UPDATE t SET email = NULL WHERE id = 1; UPDATE t SET email = 'a' WHERE id = 3;"
        "UPDATE t SET email = 'tmp' WHERE id = 2; UPDATE t SET email = 'b' WHERE id = 1",
        "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (4, 'a')",
    )


def test_a_unique_index_as_replica_identity(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, big text);"
        f"INSERT INTO t VALUES (1, 'a', {toast(1)}), (2, 'b', {toast(2)});"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
        "UPDATE t SET id = id + 10",
        "UPDATE t SET code = 'c' WHERE code = 'a'; DELETE FROM t WHERE code = 'b'",
    )


def test_the_replica_identity_changes_in_the_stream(trap: Lab) -> None:
    """Changes of one flush name their rows by different keys."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int, big text);"
        f"INSERT INTO t SELECT i, 'c' || i, 0, {toast('big')} || i FROM generate_series(1, 30) i",
        "UPDATE t SET n = 1 WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET id = 101 WHERE id = 1",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
        "UPDATE t SET n = 2 WHERE id % 3 = 0; DELETE FROM t WHERE id % 4 = 0; UPDATE t SET id = 102 WHERE id = 2",
        "UPDATE t SET code = 'x' WHERE id = 3; UPDATE t SET id = 103 WHERE id = 3",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "UPDATE t SET n = 3 WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0; UPDATE t SET id = 104 WHERE id = 7",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "UPDATE t SET n = 4 WHERE id % 9 = 0; DELETE FROM t WHERE id % 13 = 0; UPDATE t SET id = 105 WHERE id = 9",
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


def test_zeros_of_both_signs_are_two_rows_without_a_key(trap: Lab) -> None:
    """Equal to every database, but not the same value."""
    run(
        trap,
        "CREATE TABLE t (f float8); INSERT INTO t VALUES ('-0'), (0), (0), ('NaN'), ('NaN')",
        "INSERT INTO t VALUES ('-0'), (0); DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE f::text = '-0')",
        "UPDATE t SET f = '-0' WHERE ctid = (SELECT min(ctid) FROM t WHERE f::text = '0')",
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t WHERE f = 'NaN')",
    )


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


# -- keys of all kinds


@BOTH
@pytest.mark.parametrize(
    ("type", "values"),
    [
        ("text", ["''", "'a'", "'A'", "'ä'", "'a '"]),
        ("uuid", [f"'0000000{i}-0000-0000-0000-000000000000'" for i in range(5)]),
        ("numeric", ["0", "1.50", "-1e30", "1e-30", "'NaN'"]),
        ("numeric(12,2)", ["0", "1.5", "-1.50", "9999999999.99", "3"]),
        ("bigint", ["0", "-1", "9223372036854775807", "-9223372036854775808", "5"]),
        ("float8", ["0", "'NaN'", "'Infinity'", "0.1", "1e300"]),
        ("bytea", ["''", "'\\x00'", "'\\x0000'", "'\\xff'", "'a'"]),
        ("date", ["'0044-03-15 BC'", "'infinity'", "'2000-01-01'", "'12000-01-01'", "'-infinity'"]),
        ("timestamptz", ["'0044-03-15 BC'", "'infinity'", "'2000-01-01'", "'2000-01-01 00:00:00.000001'", "now()"]),
        ("time", ["'24:00'", "'00:00'", "'12:00:00.5'", "'01:00'", "'02:00'"]),
        ("boolean", ["true", "false"]),
        ("char(3)", ["'a'", "'ab'", "'abc'", "''", "'ä'"]),
    ],
)
def test_keys_of_type(lab: Lab, identity: str, type: str, values: list[str]) -> None:
    rows = ", ".join(f"({value}, {n}, {toast(n)})" for n, value in enumerate(values))
    run(
        lab,
        f"CREATE TABLE t (id {type} PRIMARY KEY, n int, big text); ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t VALUES {rows}",
        "UPDATE t SET n = n + 100",
        "DELETE FROM t WHERE n = 100",
        f"UPDATE t SET id = {values[0]} WHERE n = 101",
        f"INSERT INTO t VALUES ({values[1]}, 7, NULL)",
        "UPDATE t SET n = 0",
    )


@BOTH
def test_composite_keys(trap: Lab, identity: str) -> None:
    run(
        trap,
        "CREATE TABLE t (v text, b text, n int, a int, big text, PRIMARY KEY (a, b));"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT 'v', b, 0, a, {toast('v')} || a || b"
        " FROM generate_series(1, 3) a, unnest('{x,y}'::text[]) b",
        "UPDATE t SET b = 'z' WHERE a = 1 AND b = 'x'",
        "UPDATE t SET a = 9 WHERE a = 2",
        "DELETE FROM t WHERE b = 'y' AND a = 3; INSERT INTO t VALUES ('new', 'y', 1, 3, NULL)",
        "UPDATE t SET n = n + 1",
    )


@BOTH
def test_tables_of_key_columns_only(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (a int, b int, PRIMARY KEY (a, b)); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 1), (1, 2), (2, 1)",
        "UPDATE t SET a = a WHERE b = 1",
        "UPDATE t SET b = 3 WHERE b = 2",
        "DELETE FROM t WHERE a = 2; INSERT INTO t VALUES (2, 1)",
    )


@BOTH
def test_updates_that_change_nothing(trap: Lab, identity: str) -> None:
    run(trap, BIG_TABLE.format(identity=identity), "UPDATE t SET n = n", "UPDATE t SET id = id, big = big")


@BOTH
def test_a_row_of_toast_and_key_only(trap: Lab, identity: str) -> None:
    """Nothing but the key is sent of an update that changes nothing."""
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, big text); ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t VALUES (1, {toast(1)}), (2, {toast(2)})",
        "UPDATE t SET big = big",
        "UPDATE t SET id = id + 1 WHERE id = 2",
    )


@BOTH
def test_names_that_need_quotes(trap: Lab, identity: str) -> None:
    run(
        trap,
        'CREATE TABLE "T ""q"" ä" ("select" int PRIMARY KEY, "1 x""y" text, "_dbmazz" text, n int);'
        f'ALTER TABLE "T ""q"" ä" REPLICA IDENTITY {identity};'
        f"""INSERT INTO "T ""q"" ä" VALUES (1, {toast(1)}, 'x', 1), (2, {toast(2)}, 'y', 2)""",
        """UPDATE "T ""q"" ä" SET n = 5""",
        """UPDATE "T ""q"" ä" SET "select" = 5 WHERE "select" = 1; DELETE FROM "T ""q"" ä" WHERE "select" = 2""",
        tables=('public."T ""q"" ä"',),
    )
