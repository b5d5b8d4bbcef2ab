"""Which tables have changes that wait in the slot, without consuming any."""

from __future__ import annotations

import pytest

from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab

_TABLES = '''
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE "Größe, ""quoted""" (id int PRIMARY KEY);
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE other (id int);
'''


@pytest.fixture
def captured(lab: Lab) -> Lab:
    lab.tables = 'public.t, public."Größe, ""quoted""", public.parts'
    lab.execute(_TABLES)
    lab.capture()
    return lab


def waiting(lab: Lab, limit: int = 10_000) -> set[str]:
    found = lab.pipeline.waiting_tables(limit=limit)
    assert found is not None
    assert {table.schema for table in found} <= {"public"}
    return {table.name for table in found}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO other VALUES (1)", set()),
        ("INSERT INTO t VALUES (1, 'a')", {"t"}),
        ("TRUNCATE t", {"t"}),
        ("INSERT INTO parts VALUES (1)", {"parts"}),
        ('INSERT INTO "Größe, ""quoted""" VALUES (1); INSERT INTO t VALUES (1, NULL)', {"t", 'Größe, "quoted"'}),
        ("SELECT pg_logical_emit_message(true, 'app', 'text')", set()),
        ("INSERT INTO t VALUES (1, 'a'); ALTER TABLE t RENAME TO u", {"t"}),
    ],
)
def test_tables_with_changes(captured: Lab, statement: str, expected: set[str]) -> None:
    captured.execute(statement)
    assert waiting(captured) == expected
    assert waiting(captured) == expected  # nothing was consumed
    assert captured.pipeline.has_changes() is bool(expected)


def test_a_limit_leaves_out_later_transactions(captured: Lab) -> None:
    captured.transactions("INSERT INTO t VALUES (1, 'a')", "INSERT INTO parts VALUES (1)")
    assert waiting(captured) == {"t", "parts"}
    assert waiting(captured, limit=1) <= {"t", "parts"}
    assert "t" in waiting(captured, limit=1)


def test_an_answer_that_takes_too_long(captured: Lab) -> None:
    captured.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
    assert captured.pipeline.waiting_tables(timeout_s=0.001) is None
    assert captured.pipeline.has_changes(timeout_s=0.001)
    assert captured.pipeline.waiting_tables() == {TableRef("public", "t")}
