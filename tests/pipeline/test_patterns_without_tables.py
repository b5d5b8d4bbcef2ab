"""Patterns of TABLES that match nothing any more: the other tables are captured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dbmazz_core.errors import TableNotFound
from tests.support.lab import Lab

GONE = {
    "moved away": "ALTER TABLE aux.u SET SCHEMA elsewhere",
    "dropped": "DROP TABLE aux.u",
    "schema dropped": "DROP SCHEMA aux CASCADE",
    "unlogged": "ALTER PUBLICATION dbmazz_pub DROP TABLE aux.u; ALTER TABLE aux.u SET UNLOGGED",
}


@pytest.fixture
def two(lab: Lab) -> Lab:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE SCHEMA aux; CREATE SCHEMA elsewhere;"
        "CREATE TABLE aux.u (id int PRIMARY KEY); INSERT INTO t VALUES (1); INSERT INTO aux.u VALUES (1)"
    )
    lab = replace(lab, tables="public.*, aux.*")
    lab.capture_and_compare("t", "aux.u")
    return lab


@pytest.mark.parametrize("statement", GONE.values(), ids=GONE)
def test_the_last_table_of_a_pattern_is_gone(two: Lab, statement: str) -> None:
    two.transactions(statement, "INSERT INTO t VALUES (2)")
    result = two.capture_and_compare("t")
    assert any("aux" in warning for warning in result.warnings), result.warnings
    assert two.pipeline.check().ok
    assert any("aux" in finding.what for finding in two.pipeline.check().warnings)
    two.pipeline.snapshot()
    two.assert_equal("t")


def test_the_table_comes_back(two: Lab) -> None:
    two.execute("ALTER TABLE aux.u SET SCHEMA elsewhere")
    two.capture()
    two.transactions("INSERT INTO elsewhere.u VALUES (2)", "ALTER TABLE elsewhere.u SET SCHEMA aux")
    assert not [warning for warning in two.capture_and_compare("t", "aux.u").warnings if "aux" in warning]


def test_nothing_matches_at_all_or_a_named_table_is_gone(two: Lab) -> None:
    two.execute("DROP TABLE aux.u")
    for tables in ("aux.*", "public.*, aux.u", "public.*, aux.*, public.missing"):
        with two.nothing_changes("public.t"), pytest.raises(TableNotFound):
            replace(two, tables=tables).capture()
