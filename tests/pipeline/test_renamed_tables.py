"""Tables that take other names, each other's, or that of one that is gone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.pipeline.test_schema_changes import START, copied_anew
from tests.support.lab import BOTH, Lab


@BOTH
def test_a_renamed_table_is_followed(lab: Lab, identity: str) -> None:
    lab.execute(START.format(identity=identity) + "; CREATE TABLE other (id int PRIMARY KEY); CREATE SCHEMA elsewhere")
    lab = replace(lab, tables="public.*, elsewhere.*")
    lab.execute("CREATE TABLE elsewhere.x (id int PRIMARY KEY)")
    lab.capture_and_compare("t", "other")
    lab.transactions(
        "INSERT INTO t VALUES (60, 1, 'a')",
        "ALTER TABLE t RENAME TO renamed",
        "INSERT INTO renamed VALUES (61, 1, 'b')",
    )
    result = lab.capture_and_compare("renamed", "other")
    assert result.changes == 2
    assert not copied_anew(result)
    lab.transactions(
        "DELETE FROM renamed WHERE id < 5",
        "ALTER TABLE renamed SET SCHEMA elsewhere",
        "INSERT INTO elsewhere.renamed VALUES (62, 1, 'c')",
    )
    result = lab.capture_and_compare("elsewhere.renamed", "other")
    assert not copied_anew(result)
    assert [
        name
        for (name,) in lab.rows(
            "SELECT table_schema || '.' || table_name FROM information_schema.tables "
            "WHERE table_name IN ('t', 'renamed')"
        )
    ] == ["elsewhere.renamed"]


def test_two_tables_that_exchange_their_names(lab: Lab) -> None:
    lab.execute("CREATE TABLE a (id int PRIMARY KEY, x int); CREATE TABLE b (id int PRIMARY KEY, y text)")
    lab.execute("INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (2, 'two')")
    lab.capture_and_compare("a", "b")
    lab.transactions(
        "UPDATE a SET x = 5",
        "ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b",
        "INSERT INTO a VALUES (3, 'three'); INSERT INTO b VALUES (4, 4)",
    )
    assert not copied_anew(lab.capture_and_compare("a", "b"))


@pytest.mark.each_value
@pytest.mark.parametrize("seen", [True, False], ids=["a window between", "at once"])
@pytest.mark.parametrize(
    ("renames", "tables"),
    [
        (["b RENAME TO c"], "ac"),
        (["b RENAME TO c", "a RENAME TO b"], "bc"),
    ],
    ids=["one", "a chain"],
)
def test_a_table_that_takes_the_name_of_one_that_is_gone(lab: Lab, seen: bool, renames: list[str], tables: str) -> None:
    """The destination keeps a dropped table, and under its name the new one is copied."""
    for table in "abc":
        lab.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, of_{table} int); INSERT INTO {table} VALUES (1, 1)")
    lab.capture_and_compare("a", "b", "c")
    lab.transactions("DROP TABLE c")
    if seen:
        lab.capture_and_compare("a", "b")
    lab.transactions(
        *(f"ALTER TABLE {rename}" for rename in renames),
        *(f"INSERT INTO {table} VALUES (2, 2)" for table in tables),
    )
    lab.capture_and_compare(*tables)
    lab.transactions(*(f"UPDATE {table} SET id = -id" for table in tables))
    lab.capture_and_compare(*tables)
