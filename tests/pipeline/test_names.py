"""Names of schemas, tables, columns and publications, however odd, through every statement that the sink has."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.errors import DestinationConflict, DestinationError
from dbmazz_core.model.policies import BadValuePolicy, Mode
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import TableConfig
from dbmazz_core.table_ref import TableRef, quote_identifier
from tests.support.lab import Lab, toast
from tests.support.oracle import assert_equal

ODD = [
    'with "quotes"',
    " blanks ",
    "UPPER",
    "Mixed_Case",
    "ünïcödé",
    "日本語テーブル",
    "x" * 63,
    "é" * 31 + "x",
    "😀",
    "1st",
    "a.b",
    "a,b",
    ".",
    ",",
    "*",
    "back\\slash",
    "100%",
    "%s %(x)s",
    "{} {0}",
    "$1",
    "it's",
    "new\nline\ttab",
    ";--",
    "/*",
    "?",
    "@",
    "#",
    "^x.*$",
    "^.*$",
]
KEYWORDS = [
    "select", "table", "order", "user", "group", "all", "desc", "end", "when", "lateral", "qualify", "pivot", "using",
    "main", "temp", "system", "memory", "information", "rowid", "struct", "map", "count", "unnest", "range", "exclude",
    "duckdb_tables", "read_csv", "sqlite_master", "columns", "t", "s", "f", "m", "o0", "pg_like"[3:], "null", "true",
    "default", "interval", "date",
]  # fmt: skip


@pytest.mark.each_value
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("names", [ODD, KEYWORDS], ids=["odd", "keywords"])
def test_odd_names_of_columns(lab: Lab, identity: str, names: list[str], mode: Mode) -> None:
    """Each is a key's, a number's and a large text's name in turn."""
    lab = lab.kept(mode)
    tables = []
    for number in range(3):
        columns = [quote_identifier(name) for name in names]
        keys, numbers, texts = (columns[(number + kind) % 3 :: 3] for kind in range(3))
        table = f"t{number}"
        tables.append(table)
        listed = [f"{c} int" for c in keys + numbers] + [f"{c} text" for c in texts]
        lab.execute(
            f"CREATE TABLE {table} ({', '.join(listed)}, PRIMARY KEY ({', '.join(keys)}));"
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}"
        )
        values = ", ".join(["i"] * len(keys + numbers) + [f"{toast(number)} || i"] * len(texts))
        lab.execute(f"INSERT INTO {table} SELECT {values} FROM generate_series(1, 4) i")
    lab.capture()
    for table in tables:
        query = "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        first = [column for (column,) in lab.database.fetch(query, table)]
        lab.transactions(
            f"UPDATE {table} SET {first[len(first) // 3 + 2]} = 7",
            f"UPDATE {table} SET {first[0]} = 100 WHERE {first[0]} = 1; DELETE FROM {table} WHERE {first[0]} = 2",
            f"INSERT INTO {table} SELECT * FROM {table} WHERE false; UPDATE {table} SET {first[-1]} = 'new' "
            f"WHERE {first[0]} = 3; UPDATE {table} SET {first[1]} = 9, {first[-1]} = 'x' WHERE {first[0]} = 4",
        )
    lab.capture_and_compare(*tables)


@pytest.mark.parametrize(
    "mode", [Mode.MIRROR, *(pytest.param(mode, marks=pytest.mark.slow) for mode in (Mode.SOFT_DELETE, Mode.CHANGELOG))]
)
def test_odd_names_of_schemas_and_tables(lab: Lab, mode: Mode) -> None:
    refs = [TableRef(name, name) for name in [*ODD, *KEYWORDS]]
    # Equal names in two schemas.
    refs += [TableRef("public", "t"), TableRef("t", "public"), TableRef("public", "select")]
    with lab.database.connect() as connection:
        for schema in dict.fromkeys(ref.schema for ref in refs):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(schema)}".encode())
        for number, ref in enumerate(refs):
            connection.execute(f"CREATE TABLE {ref.sql} (id int PRIMARY KEY, n int, big text)".encode())
            connection.execute(
                f"INSERT INTO {ref.sql} SELECT i, {number}, {toast(1)} FROM generate_series(1, 4) i".encode()
            )
    lab = replace(lab, tables=",".join(str(ref) for ref in refs)).kept(mode)
    lab = lab.configured(source=lab.settings.get("source", {}) | {"publication": 'Pub "1", 100% é'})
    lab.capture()
    with lab.database.connect() as connection:
        for ref in refs:
            connection.execute(
                f"UPDATE {ref.sql} SET n = 9 WHERE id = 1; UPDATE {ref.sql} SET id = 20 WHERE id = 2;"
                f"DELETE FROM {ref.sql} WHERE id = 3; INSERT INTO {ref.sql} VALUES (5, 5, '')".encode()
            )
    result = lab.capture()
    assert set(result.tables) == set(refs)
    for ref in refs:
        if mode is Mode.MIRROR:
            assert_equal(lab.database, lab.path, ref.sql, as_table=f"destination.{ref.sql}")
        elif ref.schema not in ("temp", "system"):  # which the oracle's own SQL could not tell from DuckDB's
            lab.assert_equal(ref.sql)
    lab.pipeline.snapshot([refs[0], TableRef("temp", "temp")])
    assert all(state.rows for state in lab.pipeline.status().tables)
    assert [state.table for state in lab.pipeline.status().tables] == sorted(refs)


@pytest.mark.parametrize("stem", ["public", "Public", "shop", "select", "a.b", 'quo"te', "temp", "system"])
def test_the_file_may_be_called_like_a_schema(lab: Lab, tmp_path: Path, stem: str) -> None:
    lab = replace(lab, path=tmp_path / f"{stem}.duckdb", tables="public.t, shop.t")
    lab.execute("CREATE SCHEMA shop; CREATE TABLE shop.t (id int PRIMARY KEY, v int); INSERT INTO shop.t VALUES (1, 1)")
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, v int, big text); INSERT INTO t VALUES (1, 1, {toast(1)})")
    lab.capture()
    lab.execute(
        "UPDATE t SET id = 2; UPDATE shop.t SET v = 2; ALTER TABLE t ADD COLUMN n int; INSERT INTO t VALUES (7)"
    )
    lab.capture()
    lab.pipeline.snapshot([TableRef("shop", "t")])
    lab.capture()
    assert {state.rows for state in lab.pipeline.status().tables} == {1, 2}
    with duckdb.connect(str(lab.path), read_only=True) as connection:
        database = quote_identifier(str(connection.execute("SELECT current_database()").fetchall()[0][0]))
        assert connection.execute(f"SELECT id, v, n FROM {database}.public.t ORDER BY id").fetchall() == [
            (2, 1, None),
            (7, None, None),
        ]


def test_a_changelog_in_such_a_file_knows_the_rows_that_it_lost(lab: Lab, tmp_path: Path) -> None:
    """A quarantine asks the changelog for them by name."""
    tables = TableConfig(mode=ByTable(Mode.CHANGELOG), on_bad_value=ByTable(BadValuePolicy.QUARANTINE))
    lab = replace(lab, path=tmp_path / "public.duckdb").configured(tables=tables)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric(9,2), big text)")
    lab.execute(f"INSERT INTO t SELECT i, i, {toast(1)} FROM generate_series(1, 2) i")
    lab.capture()
    lab.execute("UPDATE t SET n = 'NaN' WHERE id = 1")
    assert lab.capture().tables[lab.ref("t")].quarantined == 1
    lab.execute("UPDATE t SET n = n + 1 WHERE id = 2; UPDATE t SET n = 1 WHERE id = 1")  # without their big values
    assert lab.capture().tables[lab.ref("t")].quarantined == 1
    assert lab.rows("SELECT row ->> 'id', column_name FROM public._dbmazz.quarantine ORDER BY commit_lsn") == [
        ("1", "n"),
        ("1", "big"),
    ]


def test_the_file_may_not_be_called_like_our_own_schema(lab: Lab, tmp_path: Path) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    lab = replace(lab, path=tmp_path / "_DBMAZZ.duckdb")
    with pytest.raises(DestinationError, match="cannot use the file name"):
        lab.capture()
    assert not lab.path.exists()


# -- names that are one to DuckDB


@pytest.mark.parametrize(
    ("setup", "object"),
    [
        ('CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE "T" (id int PRIMARY KEY)', 'public.(t|"T")'),
        ('CREATE SCHEMA "Public"; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE "Public".t (id int PRIMARY KEY)',
         '(public|"Public").t'),
        ("CREATE TABLE t (id int PRIMARY KEY, v int, \"V\" int)", 'public.t."V"'),
        ('CREATE SCHEMA "INFORMATION_SCHEMA"; CREATE TABLE "INFORMATION_SCHEMA".t (id int PRIMARY KEY)',
         '"INFORMATION_SCHEMA".t'),
        ("CREATE TABLE t (id int PRIMARY KEY, _dbmazz_xid int)", "public.t._dbmazz_xid"),
        ("CREATE TABLE t (id int PRIMARY KEY, \"_DBMAZZ_n\" int)", 'public.t."_DBMAZZ_n"'),
        ("CREATE SCHEMA _dbmazz; CREATE TABLE _dbmazz.tables (id int PRIMARY KEY)", "_dbmazz.tables"),
        ("CREATE SCHEMA \"_DBMAZZ\"; CREATE TABLE \"_DBMAZZ\".mine (id int PRIMARY KEY)", '"_DBMAZZ".mine'),
    ],
)  # fmt: skip
def test_names_that_are_one_to_duckdb_are_found_by_check_and_change_nothing(lab: Lab, setup: str, object: str) -> None:
    lab.execute(setup)
    schemas = [
        s for (s,) in lab.database.fetch("SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|inf)'")
    ]
    lab = replace(lab, tables=",".join(f"{quote_identifier(s)}.*" for s in schemas))
    (found,) = lab.pipeline.check().errors
    assert isinstance(found, DestinationConflict)
    assert re.fullmatch(object, found.object)
    with pytest.raises(DestinationConflict) as info:
        lab.capture()
    assert (info.value.what, info.value.remedy) == (found.what, found.remedy)
    assert not lab.path.exists()
    assert lab.database.fetch("SELECT count(*) FROM pg_publication") == [(0,)]
    assert lab.database.fetch("SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s", lab.slot) == [(0,)]


def test_letters_beyond_ascii_keep_their_case_in_duckdb_too(lab: Lab) -> None:
    lab.execute(
        'CREATE TABLE "É" (id int PRIMARY KEY, "ä" int, "Ä" int); CREATE TABLE "é" (id int PRIMARY KEY, v text);'
        """INSERT INTO "É" VALUES (1, 2, 3); INSERT INTO "é" VALUES (1, 'small')"""
    )
    lab.capture()
    lab.execute("""UPDATE "É" SET "Ä" = 4; UPDATE "é" SET v = 'changed'""")
    lab.capture_and_compare('public."É"', 'public."é"')


def test_a_column_that_is_one_with_another_comes_while_streaming(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    lab.capture()
    lab.execute('ALTER TABLE t ADD COLUMN "V" int; INSERT INTO t VALUES (2, 2, 2)')
    with lab.nothing_changes("public.t"), pytest.raises(DestinationConflict, match="'v' and 'V'") as info:
        lab.capture()
    assert "dbmazz snapshot --tables 'public.t'" in info.value.remedy
    lab.execute('ALTER TABLE t RENAME COLUMN "V" TO w')
    lab.pipeline.snapshot([TableRef("public", "t")])
    lab.capture_and_compare("t")


@pytest.mark.parametrize(
    ("renames", "tables"),
    [
        (['c RENAME TO "C"'], ("a", "b", '"C"')),
        (["c RENAME TO x", 'b RENAME TO "C"'], ("a", '"C"', "x")),
        (["c RENAME TO x", 'b RENAME TO "C"', 'x RENAME TO "B"'], ("a", '"B"', '"C"')),
    ],
    ids=["one", "two", "exchanged"],
)
def test_a_table_renamed_to_another_case_is_followed(lab: Lab, renames: list[str], tables: tuple[str, ...]) -> None:
    for table in "abc":
        lab.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, of_{table} int); INSERT INTO {table} VALUES (1, 1)")
    lab.capture_and_compare("a", "b", "c")
    lab.transactions(*(f"ALTER TABLE {rename}" for rename in renames))
    lab.transactions(*(f"INSERT INTO {table} VALUES (2, 2)" for table in tables))
    assert not lab.pipeline.check().errors
    assert lab.capture_and_compare(*tables).copy_anew == {}


@pytest.mark.parametrize("seen", [True, False], ids=["a window between", "at once"])
def test_what_is_kept_of_a_table_that_is_gone_may_be_dropped(lab: Lab, seen: bool) -> None:
    """It is in the way of one whose name is the same to DuckDB; the remedy helps."""
    lab.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY); INSERT INTO c VALUES (1)")
    lab.capture_and_compare("a", "c")
    lab.execute("DROP TABLE c")
    if seen:
        lab.capture_and_compare("a")
        assert lab.rows("FROM public.c") == [(1,)]
    lab.execute('CREATE TABLE "C" (id int PRIMARY KEY); INSERT INTO "C" VALUES (2)')
    with lab.nothing_changes("public.a", "public.c"), pytest.raises(DestinationConflict, match=r"public\.c") as info:
        lab.capture()
    lab.assert_found_by_check(info.value)
    with duckdb.connect(str(lab.path)) as connection:
        connection.execute("DROP TABLE public.c")
    lab.capture_and_compare("a", 'public."C"')
    status = lab.pipeline.status()
    assert status.destination_error is None
    assert [(str(table.table), table.rows) for table in status.tables] == [('public."C"', 1), ("public.a", 0)]
