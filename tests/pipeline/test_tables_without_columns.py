"""Tables without columns: left out of `schema.*`, an error where TABLES names them, also once all are dropped."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import TableNotSupported
from tests.support.lab import Lab


def test_table_without_columns_is_left_out_of_a_schema(lab: Lab) -> None:
    lab.execute("CREATE TABLE z (); CREATE TABLE y (a int); ALTER TABLE y DROP COLUMN a; INSERT INTO z DEFAULT VALUES")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    report = lab.pipeline.check()
    assert report.ok
    lab.capture_and_compare("t")
    assert lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == [("t",)]
    lab.execute("INSERT INTO z DEFAULT VALUES; INSERT INTO t VALUES (2)")
    lab.capture_and_compare("t")
    lab.execute("ALTER TABLE z ADD COLUMN a int DEFAULT 7; INSERT INTO t VALUES (3)")
    lab.capture_and_compare("t", "z")


def test_named_table_without_columns_is_an_error(lab: Lab) -> None:
    lab.execute("CREATE TABLE z (); CREATE TABLE t (id int PRIMARY KEY)")
    lab.tables = "public.t, public.z"
    with pytest.raises(TableNotSupported, match=r"public\.z is a table without columns") as caught:
        lab.capture()
    assert caught.value.object == "public.z"
    assert "COLUMNS_EXCLUDE" not in str(caught.value)
    lab.assert_found_by_check(caught.value)
    lab.execute(caught.value.remedy.partition(";")[0].replace("...", "a int"))
    lab.capture_and_compare("t", "z")


@pytest.mark.parametrize("rows", [False, True])
def test_captured_table_loses_its_last_column(lab: Lab, rows: bool) -> None:
    lab.execute("CREATE TABLE d (a int); INSERT INTO d VALUES (1); CREATE TABLE t (id int PRIMARY KEY)")
    lab.capture_and_compare("d", "t")
    lab.execute("ALTER TABLE d DROP COLUMN a; INSERT INTO t VALUES (1)")
    if rows:
        lab.execute("INSERT INTO d DEFAULT VALUES")
    named = lab.configured()
    named.tables = "public.d, public.t"
    with pytest.raises(TableNotSupported, match=r"public\.d is a table without columns"):
        named.capture()
    lab.capture_and_compare("t")
    lab.execute("ALTER TABLE d ADD COLUMN b text DEFAULT 'x'; INSERT INTO t VALUES (2)")
    lab.capture_and_compare("d", "t")
