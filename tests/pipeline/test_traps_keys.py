"""Keys of all types and shapes, and tables of odd shapes: inside one batch and over several."""

from __future__ import annotations

import pytest

from tests.support.lab import BIG_TABLE, BOTH, Lab, run, toast

# -- keys of all kinds


@pytest.mark.each_value
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
