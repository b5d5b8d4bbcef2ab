"""Tables that PostgreSQL's planner cannot look at under an empty search path: indexes on functions with bare names."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import SourceNotReady
from dbmazz_core.model.policies import TableErrorPolicy
from dbmazz_core.settings.by_table import ByTable
from dbmazz_core.settings.config import SnapshotConfig
from tests.support.lab import Lab

#: f is a bare name in the body of w, which the planner inlines. PostgreSQL 17 creates an index only if it finds f under
#: a safe path; the function may be replaced afterwards.
BEFORE = "CREATE FUNCTION w(c int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';"
AFTER = (
    "CREATE FUNCTION {0}f() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1';"
    "CREATE OR REPLACE FUNCTION w(c int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 FROM f()';"
)
#: The text of regclass depends on the search path.
TABLE = (
    "CREATE TABLE v (i int PRIMARY KEY, j int, r regclass, big text); INSERT INTO v "
    "SELECT i, i, 'v', repeat('x', 300) FROM generate_series(1, 1000) AS i; ANALYZE v;"
)


def assert_equal(lab: Lab, rows: int) -> None:
    where = "count(*), sum(i), sum(j), sum(length(big)), min(r::text), max(r::text) FROM public.v"
    (expected,) = lab.database.fetch(f"SELECT {where}")
    assert expected[0] == rows
    assert lab.rows(f"SELECT {where}") == [(*expected[:4], "public.v", "public.v")]


@pytest.mark.parametrize(
    "expression",
    [
        "CREATE INDEX ON v (w(i))",
        "CREATE INDEX ON v (i) WHERE w(i) > 0",
        "CREATE STATISTICS s ON (w(i)), (w(j)) FROM v",
    ],
)
def test_an_expression_with_a_function_of_bare_names(lab: Lab, expression: str) -> None:
    lab.execute(f"{BEFORE} {TABLE} {expression}; {AFTER.format('')}")
    lab = lab.configured(snapshot=SnapshotConfig(chunk_size=100, parallel_workers=2))
    lab.capture()
    assert_equal(lab, 1000)
    lab.execute("INSERT INTO v VALUES (0, 0, 'v', 'y'); DELETE FROM v WHERE i = 5")
    lab.capture()
    assert_equal(lab, 1000)
    lab.pipeline.snapshot()
    assert_equal(lab, 1000)


@pytest.mark.since(15)
def test_with_partitions_and_a_row_filter(lab: Lab) -> None:
    lab.execute(
        BEFORE + "CREATE TABLE v (i int PRIMARY KEY, r regclass) PARTITION BY RANGE (i);"
        "CREATE TABLE p PARTITION OF v FOR VALUES FROM (0) TO (9); CREATE INDEX ON p (w(i));"
        "INSERT INTO v VALUES (1, 'v'), (2, 'v');"
        + AFTER.format("")
        + "CREATE PUBLICATION dbmazz_pub FOR TABLE v WHERE (i > 1) WITH (publish_via_partition_root)"
    )
    lab.capture()
    assert lab.rows("FROM public.v") == [(2, "public.v")]


def test_a_function_that_the_role_does_not_find_either(lab: Lab) -> None:
    """The error names table, function and way out."""
    lab.execute(f"CREATE SCHEMA app; {BEFORE} {TABLE} CREATE INDEX ON v (w(i))")
    lab.execute(f"SET search_path = public, app; {AFTER.format('app.')}")
    with pytest.raises(SourceNotReady, match=r"plan a query of public\.v: function f\(\) does not exist") as info:
        lab.capture()
    assert 'SQL function "w"' in info.value.what
    assert info.value.object == "public.v"
    _, _, remedy = info.value.remedy.partition(": ")
    name = lab.database.name
    assert remedy == f'ALTER ROLE "postgres" IN DATABASE "{name}" SET search_path = ...;'
    lab.execute(remedy.replace("...", "public, app, pg_catalog"))
    with pytest.raises(SourceNotReady, match="another schema comes before pg_catalog") as info:
        lab.capture()
    lab.execute(info.value.remedy.partition(": ")[2].replace("...", "public, app"))
    lab.capture()
    assert_equal(lab, 1000)
    lab.execute("UPDATE v SET j = 0 WHERE i = 3")
    lab.capture()
    assert_equal(lab, 1000)


def test_the_others_go_on_without_the_table(lab: Lab) -> None:
    lab.execute(f"CREATE SCHEMA app; {BEFORE} {TABLE} CREATE INDEX ON v (w(i)); CREATE TABLE good (id int PRIMARY KEY)")
    lab.execute(f"SET search_path = public, app; {AFTER.format('app.')}")
    lab = lab.configured(on_error=ByTable(TableErrorPolicy.ISOLATE))
    result = lab.capture_and_compare("good")
    assert [*result.in_trouble] == [lab.ref("v")]
    lab.execute(f'ALTER DATABASE "{lab.database.name}" SET search_path = public, app')
    assert not lab.capture().in_trouble
    assert_equal(lab, 1000)
