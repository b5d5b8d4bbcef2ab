"""Tables that are elsewhere for a while: part of another one, in another schema, unlogged. Nothing in the stream says
what became of their rows meanwhile, and where all tables are published nothing says that they were away.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from dbmazz_core.errors import TableNotFound, TableNotSupported
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab

T = TableRef("public", "t")
TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2);"
    "CREATE TABLE other (id int PRIMARY KEY)"
)
ALL = "FOR ALL TABLES WITH (publish_via_partition_root = true)"
PUBLICATIONS = pytest.mark.parametrize(
    "publication",
    [
        pytest.param(ALL, id="all tables"),
        pytest.param("FOR ALL TABLES", id="all tables, partitions as such"),
        pytest.param("FOR TABLES IN SCHEMA public", id="the schema", marks=pytest.mark.since(15)),
    ],
)
ATTACHED = (
    "CREATE TABLE r (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"
    "ALTER TABLE r ATTACH PARTITION t FOR VALUES FROM (0) TO (10)"
)


GONE = "ALTER TABLE t SET UNLOGGED"
BACK = "ALTER TABLE t SET LOGGED"


@pytest.mark.each_value
@PUBLICATIONS
@pytest.mark.parametrize(
    ("changes", "after"),
    [
        ((GONE, "INSERT INTO t VALUES (3, 3)", BACK), ()),
        ((f"{GONE}; INSERT INTO t VALUES (3, 3); {BACK}",), ("INSERT INTO t VALUES (4, 4)",)),
        (("TRUNCATE t", GONE, "INSERT INTO t VALUES (3, 3)", BACK), ("INSERT INTO t VALUES (4, 4)",)),
        ((f"TRUNCATE t; {GONE}; INSERT INTO t VALUES (3, 3); {BACK}",), ()),
        ((f"TRUNCATE t; {GONE}; INSERT INTO t VALUES (3, 3); {BACK}; INSERT INTO t VALUES (4, 4)",), ()),
    ],
    ids=[
        "then nothing",
        "in one transaction, then rows",
        "behind a TRUNCATE, then rows",
        "behind a TRUNCATE of the same transaction",
        "behind a TRUNCATE of the same transaction, then rows of it",
    ],
)
def test_a_table_that_was_unlogged_for_a_while(
    lab: Lab, publication: str, changes: tuple[str, ...], after: tuple[str, ...]
) -> None:
    lab.execute(TABLES)
    lab.execute(f"CREATE PUBLICATION dbmazz_pub {publication}")
    lab.capture_and_compare("t")
    lab.transactions(*changes, *after)
    assert list(lab.capture_and_compare("t").copy_anew) == [T]
    lab.execute("UPDATE t SET v = 9; INSERT INTO t VALUES (5, 5)")
    assert not lab.capture_and_compare("t").copy_anew


def test_a_window_while_a_table_is_unlogged(lab: Lab) -> None:
    """Left out of its schema, refused by name; then copied anew."""
    lab.execute(TABLES)
    lab.execute(f"CREATE PUBLICATION dbmazz_pub {ALL}")
    lab.capture_and_compare("t", "other")
    lab.transactions("ALTER TABLE t SET UNLOGGED", "INSERT INTO t VALUES (3, 3)", "INSERT INTO other VALUES (3)")
    with lab.nothing_changes("public.t", "public.other"), pytest.raises(TableNotSupported) as refused:
        replace(lab, tables="t, other").capture()
    assert refused.value.remedy == 'ALTER TABLE "public"."t" SET LOGGED; or leave it out of TABLES'
    lab.capture_and_compare("other")
    lab.execute("ALTER TABLE t SET LOGGED")
    lab.capture_and_compare("t", "other")


@pytest.mark.each_value
@PUBLICATIONS
@pytest.mark.parametrize("column", ["v int", "v text"], ids=["index", "TOAST table and index"])
def test_a_truncated_table_is_not_copied_for_that(lab: Lab, publication: str, column: str) -> None:
    """Its storage is another one too, but the stream says why."""
    lab.execute(TABLES.replace("v int", column))
    lab.execute(f"CREATE PUBLICATION dbmazz_pub {publication}")
    lab.capture_and_compare("t")
    lab.transactions("TRUNCATE t, other", "INSERT INTO t VALUES (3, 3)", "TRUNCATE t", "INSERT INTO t VALUES (4, 4)")
    assert not lab.capture_and_compare("t", "other").copy_anew


@pytest.mark.each_value
@pytest.mark.parametrize("after", [(), ("INSERT INTO t VALUES (4, 4)",)], ids=["then nothing", "then rows"])
@pytest.mark.parametrize("tables", ["public.*", "public.t"])
def test_a_table_that_was_a_partition_for_a_while(lab: Lab, tables: str, after: tuple[str, ...]) -> None:
    """Its rows came under its root's name, whether that one is captured or not."""
    lab.execute(TABLES)
    lab.execute(f"CREATE PUBLICATION dbmazz_pub {ALL}")
    lab = replace(lab, tables=tables)
    lab.capture_and_compare("t")
    lab.transactions(ATTACHED, "INSERT INTO t VALUES (3, 3)", "ALTER TABLE r DETACH PARTITION t", *after)
    assert list(lab.capture_and_compare("t").copy_anew) == [T]
    lab.execute("UPDATE t SET v = 9; INSERT INTO t VALUES (5, 5)")
    assert not lab.capture_and_compare("t").copy_anew


def test_a_root_that_is_published_for_a_while(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE r (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"
        "CREATE TABLE t PARTITION OF r FOR VALUES FROM (0) TO (100); INSERT INTO t VALUES (1, 1)"
    )
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE t WITH (publish_via_partition_root = true)")
    lab = replace(lab, tables="public.t")
    lab.capture_and_compare("t")
    lab.transactions(
        "ALTER PUBLICATION dbmazz_pub ADD TABLE r",
        "INSERT INTO t VALUES (3, 3)",
        "ALTER PUBLICATION dbmazz_pub DROP TABLE r",
    )
    assert list(lab.capture_and_compare("t").copy_anew) == [T]


@pytest.mark.since(15)
@pytest.mark.parametrize("after", [(), ("UPDATE t SET v = 9",)], ids=["then nothing", "then rows"])
def test_a_table_that_left_the_published_schema_for_a_while(lab: Lab, after: tuple[str, ...]) -> None:
    lab.execute("CREATE SCHEMA elsewhere;" + TABLES)
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLES IN SCHEMA public")
    lab.capture_and_compare("t")
    lab.transactions(
        "ALTER TABLE t SET SCHEMA elsewhere",
        "INSERT INTO elsewhere.t VALUES (3, 3)",
        "ALTER TABLE elsewhere.t SET SCHEMA public",
        *after,
    )
    assert list(lab.capture_and_compare("t").copy_anew) == [T]
    lab.execute("UPDATE t SET v = 10; INSERT INTO t VALUES (5, 5)")
    assert not lab.capture_and_compare("t").copy_anew


PARTITIONED = (
    "CREATE TABLE r (id int, p int) PARTITION BY RANGE (p); CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10);"
    "INSERT INTO r VALUES (1, 1); ALTER TABLE r REPLICA IDENTITY FULL; ALTER TABLE r1 REPLICA IDENTITY FULL;"
)
FOREIGN = (
    "CREATE EXTENSION file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw;"
    "CREATE FOREIGN TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (20) SERVER f"
    " OPTIONS (program 'echo 7,17', format 'csv')"
)
UNLOGGED = "CREATE UNLOGGED TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (20)"


@pytest.mark.parametrize(
    ("partition", "says", "mends"),
    [
        (UNLOGGED, "an unlogged table", "ALTER TABLE r2 SET LOGGED"),
        (FOREIGN, "a foreign table", "ALTER TABLE r DETACH PARTITION r2"),
    ],
    ids=["unlogged", "foreign"],
)
def test_a_partition_whose_changes_do_not_come(lab: Lab, partition: str, says: str, mends: str) -> None:
    """A copy would have its rows, and nothing would tell what becomes of them."""
    lab.execute(PARTITIONED)
    named = replace(lab, tables="r")
    named.capture_and_compare("r")
    lab.execute(partition)
    what = f"public.r is a partitioned table with public.r2, {says}, as a partition"
    with lab.nothing_changes("public.r"), pytest.raises(TableNotSupported, match=what) as refused:
        named.capture()
    assert "detach public.r2" in refused.value.remedy
    with pytest.raises(TableNotFound, match=f"has no table that can be captured: {what}"):
        lab.capture()
    lab.execute(mends)
    named.capture_and_compare("r")
