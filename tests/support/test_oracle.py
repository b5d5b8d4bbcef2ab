"""The oracle has to fail when it should, and only then."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase

ORDERS = [(1, "first"), (2, None), (3, "third")]


@pytest.fixture
def destination(database: SourceDatabase, duckdb_path: Path) -> Path:
    """A destination that equals the source."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    change(
        duckdb_path,
        "CREATE SCHEMA IF NOT EXISTS public",
        "CREATE TABLE public.orders (id INTEGER, note VARCHAR)",
    )
    for key, note in ORDERS:
        database.execute("INSERT INTO orders VALUES (%s, %s)", key, note)
        with duckdb.connect(str(duckdb_path)) as duck:
            duck.execute("INSERT INTO public.orders VALUES (?, ?)", [key, note])
    return duckdb_path


def change(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as duck:
        for statement in statements:
            duck.execute(statement)


def test_equal_tables_pass(database: SourceDatabase, destination: Path) -> None:
    assert_equal(database, destination, "public.orders")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE public.orders SET note = 'other' WHERE id = 1", "key ('1',).*note: 'first' -> 'other'"),
        ("UPDATE public.orders SET note = '' WHERE id = 2", "note: None -> ''"),
        ("DELETE FROM public.orders WHERE id = 3", "only in the source: ('3', 'third')"),
        ("INSERT INTO public.orders VALUES (4, 'new')", "only in the destination: ('4', 'new')"),
        ("INSERT INTO public.orders VALUES (1, 'first')", "only in the destination: ('1', 'first')"),
        ("ALTER TABLE public.orders RENAME note TO remark", "columns of the destination: ['id', 'remark']"),
        ("ALTER TABLE public.orders ADD COLUMN more INTEGER", "columns of the destination"),
    ],
)
def test_a_difference_in_the_destination_fails(
    database: SourceDatabase, destination: Path, statement: str, message: str
) -> None:
    change(destination, statement)
    with pytest.raises(AssertionError) as failure:
        assert_equal(database, destination, "public.orders")
    for part in message.split(".*"):
        assert part in str(failure.value)


def test_a_row_that_only_the_source_has_fails(database: SourceDatabase, destination: Path) -> None:
    database.execute("INSERT INTO orders VALUES (4, 'late')")
    with pytest.raises(AssertionError, match=r"only in the source: \('4', 'late'\)"):
        assert_equal(database, destination, "public.orders")


def test_columns_in_another_order_fail(database: SourceDatabase, duckdb_path: Path) -> None:
    database.execute("CREATE TABLE t (a int, b int)")
    change(duckdb_path, "CREATE TABLE t (b INTEGER, a INTEGER)")
    with pytest.raises(AssertionError, match="columns"):
        assert_equal(database, duckdb_path, "t")


def test_equal_rows_are_counted(database: SourceDatabase, duckdb_path: Path) -> None:
    database.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
    change(duckdb_path, "CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1), (1)")
    assert_equal(database, duckdb_path, "t")
    change(duckdb_path, "INSERT INTO t VALUES (1)")
    with pytest.raises(AssertionError, match="only in the destination"):
        assert_equal(database, duckdb_path, "t")


def test_long_lists_of_differences_are_cut(database: SourceDatabase, duckdb_path: Path) -> None:
    database.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a")
    change(duckdb_path, "CREATE TABLE t (a INTEGER)")
    with pytest.raises(AssertionError, match="and 980 more") as failure:
        assert_equal(database, duckdb_path, "t")
    assert str(failure.value).count("\n") < 30


def test_options(database: SourceDatabase, destination: Path) -> None:
    change(
        destination,
        "ALTER TABLE public.orders ADD COLUMN _dbmazz_deleted BOOLEAN DEFAULT false",
        "INSERT INTO public.orders VALUES (9, 'gone', true)",
        "ALTER TABLE public.orders RENAME TO kept",
    )
    with duckdb.connect(str(destination)) as writing:
        assert_equal(
            database,
            writing,
            "public.orders",
            as_table="public.kept",
            where="NOT _dbmazz_deleted",
            ignore=("_dbmazz_deleted",),
        )


#: PostgreSQL type and literal; DuckDB type and literal of the same value; a literal of another value.
SAME = [
    ("boolean", "true", "BOOLEAN", "true", "false"),
    ("bigint", "9007199254740993", "BIGINT", "9007199254740993", "9007199254740992"),
    ("numeric(10,3)", "1.50", "DECIMAL(10,3)", "1.5", "1.501"),
    ("numeric", "'NaN'", "DOUBLE", "'NaN'", "0"),
    ("numeric", "1.500", "VARCHAR", "'1.500'", "'1.5'"),
    ("money", "1234.5", "DECIMAL(19,2)", "1234.50", "1234.51"),
    ("real", "0.1", "FLOAT", "0.1", "0.10000001"),
    ("double precision", "1e300", "DOUBLE", "1e300", "1.0000000000000002e300"),
    ("double precision", "'NaN'", "DOUBLE", "'NaN'", "'Infinity'"),
    ("double precision", "'-0'", "DOUBLE", "'-0.0'", "0.0"),
    ("text", "'é'", "VARCHAR", "'é'", "'e'"),
    ("text", "'a '", "VARCHAR", "'a '", "'a'"),
    ("char(5)", "'ab'", "VARCHAR", "'ab   '", "'abc'"),
    ("bytea", "'\\x00ff41'", "BLOB", "'\\x00\\xFFA'", "'\\x00\\xFFB'"),
    ("uuid", "'6b4d5b3a-0000-4000-8000-000000000001'",
     "UUID", "'6B4D5B3A-0000-4000-8000-000000000001'", "uuid()"),
    ("jsonb", """'{"a": 1}'""", "JSON", """'{"a": 1}'""", """'{"a":1}'"""),
    ("date", "'0044-03-15 BC'", "DATE", "'0044-03-15 (BC)'", "'0044-03-15'"),
    ("date", "'infinity'", "DATE", "'infinity'", "'-infinity'"),
    ("time", "'24:00'", "TIME", "'24:00:00'", "'23:59:59'"),
    ("timestamp", "'2024-02-29 10:00:00.5'",
     "TIMESTAMP", "'2024-02-29 10:00:00.500'", "'2024-02-29 10:00:00.51'"),
    ("timestamptz", "'2024-02-29 10:00:00+02'",
     "TIMESTAMPTZ", "'2024-02-29 08:00:00Z'", "'2024-02-29 10:00:00Z'"),
    ("timestamptz", "'0044-03-15 01:00Z BC'",
     "TIMESTAMPTZ", "'0044-03-15 (BC) 01:00:00Z'", "'0044-03-15 01:00:00Z'"),
    ("interval", "'1 year 14 mons -3 days 04:05:06.70'", "INTERVAL",
     "'26 months' + INTERVAL '-3 days' + INTERVAL '14706700000 microseconds'", "'26 months'"),
    ("interval", "'-00:00:00.1'", "INTERVAL", "'-100000 microseconds'", "'100000 microseconds'"),
    ("int[]", "'{1,NULL,3}'", "INTEGER[]", "[1, NULL, 3]", "[1, 3]"),
    ("int[]", "'[5:6]={1,2}'", "INTEGER[]", "[1, 2]", "[2, 1]"),
    ("text[]", r"""'{{"a \"b\"",NULL},{"NULL","c,d\\"}}'""", "VARCHAR[][]",
     r"""[['a "b"', NULL], ['NULL', 'c,d\']]""", """[['a "b"', NULL], [NULL, 'c,d']]"""),
    ("boolean[]", "'{t,f}'", "BOOLEAN[]", "[true, false]", "[true, true]"),
    ("bytea[]", r"ARRAY['\x01ff'::bytea]", "BLOB[]", r"['\x01\xFF'::BLOB]", r"['\x01'::BLOB]"),
    ("numeric(5,2)[]", "'{1.5}'", "DECIMAL(5,2)[]", "[1.50]", "[1.51]"),
    ("int[]", "'{}'", "INTEGER[]", "[]", "NULL"),
    ("int[]", "'{1,2}'", "VARCHAR", "'{1,2}'", "'{1, 2}'"),
    ("inet", "'10.0.0.0/8'", "VARCHAR", "'10.0.0.0/8'", "'10.0.0.0'"),
    ("int4range", "'[1,5)'", "VARCHAR", "'[1,5)'", "'[1,4]'"),
    ("positive", "5", "INTEGER", "5", "6"),
    ("box[]", "'{(3,4),(1,2);(1,1),(0,0)}'", "VARCHAR[]", "['(3,4),(1,2)', '(1,1),(0,0)']", "['(3,4)', '(1,2)']"),
    ("positive[]", "'{1,NULL}'", "INTEGER[]", "[1, NULL]", "[1]"),
    ("timetz", "'24:00:00-03:30'", "TIMETZ", "'24:00:00-03:30'", "'24:00:00-03:30:01'"),
    ("hstore[]", """ARRAY['a=>1'::hstore, NULL]""",
     "MAP(VARCHAR, VARCHAR)[]", "[MAP {'a': '1'}, NULL]", "[MAP {'a': '2'}, NULL]"),
    ("hstore", """'a=>1, "b c"=>NULL'""",
     "MAP(VARCHAR, VARCHAR)", "MAP {'b c': NULL, 'a': '1'}", "MAP {'a': '1'}"),
]  # fmt: skip


@pytest.mark.parametrize(("source_type", "source", "type_", "same", "other"), SAME, ids=lambda value: str(value)[:24])
def test_a_value_equals_itself_and_nothing_else(
    database: SourceDatabase,
    duckdb_path: Path,
    source_type: str,
    source: str,
    type_: str,
    same: str,
    other: str,
) -> None:
    database.execute("CREATE DOMAIN positive AS int CHECK (value > 0)")
    database.execute("CREATE EXTENSION hstore")
    database.execute(f"CREATE TABLE t (v {source_type}); INSERT INTO t VALUES ({source}), (NULL)")
    cast = f"CAST({same} AS {type_})" if "INTERVAL" not in same else f"INTERVAL {same}"
    change(duckdb_path, f"CREATE TABLE t (v {type_})", f"INSERT INTO t VALUES ({cast}), (NULL)")
    assert_equal(database, duckdb_path, "t")
    # Not an UPDATE: DuckDB leaves out one from -0 to 0.
    change(duckdb_path, "DELETE FROM t WHERE v IS NOT NULL", f"INSERT INTO t VALUES (CAST({other} AS {type_}))")
    with pytest.raises(AssertionError, match="only in the source"):
        assert_equal(database, duckdb_path, "t")
