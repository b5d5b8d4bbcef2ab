"""Columns that PostgreSQL does not send are named wherever somebody looks for them."""

from __future__ import annotations

import pytest

from dbmazz_core.table_ref import TableRef
from dbmazz_dagster.metadata import column_schema
from tests.cli.command import Dbmazz
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase

pytestmark = pytest.mark.since(15)


def assert_said(lab: Lab, column: str) -> None:
    for result in (lab.capture(), lab.capture(), lab.pipeline.snapshot()):
        assert any(column in warning and "public.g" in warning for warning in result.warnings), result
        assert result.to_dict()["warnings"] == list(result.warnings)
    (state,) = lab.pipeline.status().tables
    assert state.unpublished == (column,)
    (described,) = lab.pipeline.tables()
    assert column not in [c.name for c in described.columns]
    constraints = column_schema(described).constraints
    assert constraints is not None
    assert f"not sent by PostgreSQL: {column}" in constraints.other
    command = Dbmazz.of(lab.database, lab.path, "public.*")
    command.variables["SOURCE_SLOT_NAME"] = lab.slot
    assert command.json("status")["tables"]["public.g"]["unpublished_columns"] == [column]
    assert f"public.g lacks columns that PostgreSQL does not send: {column}\n" in command.run("status").stdout
    assert column in command.run("capture").stderr


def test_a_generated_column_that_is_not_sent(lab: Lab) -> None:
    version = lab.database.server.major
    kind = "VIRTUAL" if version >= 18 else "STORED"
    lab.execute(f"CREATE TABLE g (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) {kind})")
    assert_said(lab, "twice")


def test_a_column_outside_the_publications_list(lab: Lab) -> None:
    lab.execute("CREATE TABLE g (id int PRIMARY KEY, a int, extra int)")
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE g (id, a) WITH (publish_via_partition_root)")
    assert_said(lab, "extra")


def test_nothing_is_said_of_tables_that_are_sent_whole(lab: Lab, database: SourceDatabase) -> None:
    database.execute("CREATE TABLE g (id int PRIMARY KEY, a int)")
    assert not lab.capture().warnings
    assert lab.pipeline.status().tables[0].unpublished == ()
    assert lab.pipeline.status().tables[0].table == TableRef("public", "g")
