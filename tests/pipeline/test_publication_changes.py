"""Publications that change while they are streamed from. The stream says nothing of what it leaves out meanwhile, so
what is in force of each table is looked up, and a table whose changes may have gone by unseen is copied anew. And
tables that are created later, inherit from others, or cannot be captured, for a while or at all.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint
from dbmazz_core.connectors.sources.postgres.catalog.publication import PublishedTable, read_publication
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables
from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.errors import PublicationNotFound, TableNotSupported
from tests.pipeline.test_publications import SCHEMA, T, filtered_equal
from tests.support.lab import Lab, toast

# -- what is in force


def in_force(lab: Lab) -> PublishedTable:
    with connect(lab.config.url) as connection:
        publication = read_publication(connection, "dbmazz_pub")
        assert publication is not None
        (table,) = find_tables(connection, lab.config.tables)
        return replace(publication.tables[T], columns=publication.columns_of(table))


@pytest.mark.since(15)
@pytest.mark.parametrize(
    ("change", "columns", "row_filter"),
    [
        ("SET TABLE t WHERE (id > 5)", ("id", "v", "w"), "(id > 5)"),
        ("SET TABLE t (id, v)", ("id", "v"), None),
        ("SET TABLE t (id, v) WHERE (id > 5)", ("id", "v"), "(id > 5)"),
    ],
)
def test_what_is_in_force_of_a_table(lab: Lab, change: str, columns: tuple[str, ...], row_filter: str | None) -> None:
    lab = replace(lab, tables="t")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int, w int); CREATE TABLE u (id int PRIMARY KEY)")
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE t")
    before = in_force(lab)
    assert (before.columns, before.row_filter) == (("id", "v", "w"), None)
    lab.execute("ALTER PUBLICATION dbmazz_pub ADD TABLE u; ALTER PUBLICATION dbmazz_pub SET TABLE t, u")
    assert in_force(lab) == before
    lab.execute(f"ALTER PUBLICATION dbmazz_pub {change}")
    after = in_force(lab)
    assert (after.columns, after.row_filter) == (columns, row_filter)
    assert after.entry != before.entry


ALTER = "ALTER PUBLICATION dbmazz_pub"
#: What lets changes go by without a word, and what ends it.
GAPS = [
    pytest.param(f"{ALTER} DROP TABLE t", f"{ALTER} ADD TABLE t", id="taken out and put in again"),
    pytest.param(
        f"{ALTER} SET (publish = 'insert')",
        f"{ALTER} SET (publish = 'insert, update, delete, truncate')",
        id="without updates for a while",
    ),
    pytest.param(
        f"{ALTER} SET TABLE t WHERE (id > 100)",
        f"{ALTER} SET TABLE t",
        id="with a filter for a while",
        marks=pytest.mark.since(15),
    ),
    pytest.param(
        f"{ALTER} SET TABLE t (id)",
        f"{ALTER} SET TABLE t",
        id="with fewer columns for a while",
        marks=pytest.mark.since(15),
    ),
    pytest.param(
        f"{ALTER} DROP TABLE t; {ALTER} ADD TABLES IN SCHEMA other",
        f"{ALTER} DROP TABLES IN SCHEMA other; {ALTER} ADD TABLE t",
        id="with another schema for a while",
        marks=pytest.mark.since(15),
    ),
    pytest.param(
        f"{ALTER} DROP TABLE t; ALTER TABLE t SET UNLOGGED",
        f"ALTER TABLE t SET LOGGED; {ALTER} ADD TABLE t",
        id="unlogged for a while",
    ),
]


@pytest.mark.parametrize(("opened", "closed"), GAPS)
def test_a_table_whose_changes_went_by_unseen_is_copied_anew(lab: Lab, opened: str, closed: str) -> None:
    lab = replace(lab, tables="t")
    lab.execute(
        f"CREATE SCHEMA other; CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, {toast(1)})"
    )
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE t")
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (2, 'x')", opened)
    lab.transactions(
        "UPDATE t SET v = 'unseen'", "INSERT INTO t VALUES (3, 'unseen')", closed, "INSERT INTO t VALUES (4)"
    )
    assert list(lab.capture_and_compare("t").copy_anew) == [T]
    lab.execute("UPDATE t SET v = 'seen' WHERE id = 1; DELETE FROM t WHERE id = 2")
    assert not lab.capture_and_compare("t").copy_anew


def test_changes_made_while_there_was_no_publication(lab: Lab) -> None:
    """PostgreSQL 18 leaves them out; the servers before it refuse to go on, though it was made again."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    lab.capture_and_compare("t")
    lab.transactions("DROP PUBLICATION dbmazz_pub", "UPDATE t SET v = 2", "CREATE PUBLICATION dbmazz_pub FOR TABLE t")
    if lab.database.server.major < 18:
        with lab.nothing_changes("public.t"), pytest.raises(PublicationNotFound, match="did not exist when") as info:
            lab.capture()
        assert "run `dbmazz snapshot`" in info.value.remedy
        lab.pipeline.snapshot()
        lab.assert_equal("t")
    else:
        assert list(lab.capture_and_compare("t").copy_anew) == [T]
    lab.execute("UPDATE t SET id = 7")
    assert not lab.capture_and_compare("t").copy_anew


@pytest.mark.each_value
@pytest.mark.since(15)
@pytest.mark.parametrize("before", [None, "id > 2", "id < 7"])
@pytest.mark.parametrize("after", [None, "id > 5", "n IS NULL"])
def test_a_filter_changes_while_streaming(lab: Lab, before: str | None, after: str | None) -> None:
    lab = replace(lab, tables="t")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    lab.execute("INSERT INTO t SELECT i, nullif(i % 3, 0) FROM generate_series(1, 9) i")
    lab.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    lab.execute(f"CREATE PUBLICATION dbmazz_pub FOR TABLE t {where(before)}")
    lab.capture()
    filtered_equal(lab, before or "true")
    lab.transactions(
        "UPDATE t SET n = id WHERE id < 4",
        f"ALTER PUBLICATION dbmazz_pub SET TABLE t {where(after)}",
        "UPDATE t SET n = NULL WHERE id = 8; DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (10, NULL), (0, 1)",
    )
    assert bool(lab.capture().copy_anew) == (after != before)
    filtered_equal(lab, after or "true")
    lab.execute("UPDATE t SET id = id + 3000")
    assert not lab.capture().copy_anew
    filtered_equal(lab, after or "true")


def where(condition: str | None) -> str:
    return "" if condition is None else f"WHERE ({condition})"


@pytest.mark.since(15)
def test_a_column_list_changes_while_streaming(lab: Lab) -> None:
    lab = replace(lab, tables="t")
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, a int, b int); INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE t (id, a)")
    lab.capture()
    filtered_equal(lab, "true", columns="id, a")
    for columns in ("id, b", "id, a, b", "id"):
        lab.transactions(
            "UPDATE t SET a = a + 1, b = b + 1 WHERE id = 1",
            f"ALTER PUBLICATION dbmazz_pub SET TABLE t ({columns})",
            "UPDATE t SET a = a + 10, b = b + 10 WHERE id = 2",
        )
        assert list(lab.capture().copy_anew) == [T]
        filtered_equal(lab, "true", columns=columns)


@pytest.mark.since(15)
def test_a_publication_that_changes_while_a_table_is_copied(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the snapshot, and before anybody has looked: the row came under the filter of before."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (50, 'b')")
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE t WHERE (id > 10)")
    fingerprints, snapshots = ExportedSnapshot.fingerprints, []

    def altered(snapshot: ExportedSnapshot, oids: Collection[int]) -> dict[int, Fingerprint]:
        snapshots.append(snapshot.lsn)
        if len(snapshots) == 1:
            lab.transactions("INSERT INTO t VALUES (3, 'c')", "ALTER PUBLICATION dbmazz_pub SET TABLE t")
        return fingerprints(snapshot, oids)

    monkeypatch.setattr(ExportedSnapshot, "fingerprints", altered)
    lab.capture_and_compare("t")
    assert len(snapshots) == 2
    lab.execute("UPDATE t SET v = v || '!'")
    assert not lab.capture_and_compare("t").copy_anew


# -- what comes, goes and is refused


@pytest.mark.parametrize("publishes", ["FOR TABLE a", "FOR ALL TABLES", SCHEMA])
def test_a_table_that_is_created_later(lab: Lab, publishes: str) -> None:
    lab.execute(f"CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION dbmazz_pub {publishes}")
    lab.capture()
    lab.transactions(
        "CREATE TABLE b (id int PRIMARY KEY, v int); INSERT INTO b VALUES (1, 1); INSERT INTO a VALUES (1)",
        "UPDATE b SET v = 2",
    )
    lab.capture_and_compare("a", "b")
    lab.execute("UPDATE b SET id = 7; DELETE FROM a")
    lab.capture_and_compare("a", "b")


def test_inheriting_tables_stay_out_of_their_parent(lab: Lab) -> None:
    lab.execute("CREATE TABLE parent (id int PRIMARY KEY, v int)")
    lab.execute("CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")
    lab.execute("INSERT INTO parent VALUES (1, 1); INSERT INTO child VALUES (2, 2)")
    lab.capture()
    lab.execute("UPDATE parent SET v = v + 1; INSERT INTO child VALUES (3, 3)")
    lab.execute("TRUNCATE ONLY parent; INSERT INTO parent VALUES (9)")
    lab.capture()
    assert lab.rows("SELECT * FROM public.parent") == [(9, None)]
    lab.assert_equal("child")


@pytest.mark.parametrize(
    ("relation", "what"),
    [
        ("UNLOGGED TABLE x (id int PRIMARY KEY)", "an unlogged table: it writes no WAL"),
        ("VIEW x AS SELECT 1 AS id", "a view"),
        ("MATERIALIZED VIEW x AS SELECT 1 AS id", "a materialized view"),
        ("SEQUENCE x", "a sequence"),
        ("FOREIGN TABLE x (id int) SERVER far", "a foreign table: its rows are on another server"),
    ],
)
def test_what_cannot_be_captured_is_refused_with_a_reason(lab: Lab, relation: str, what: str) -> None:
    lab.execute("CREATE FOREIGN DATA WRAPPER none; CREATE SERVER far FOREIGN DATA WRAPPER none")
    lab.execute(f"CREATE {relation}; CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(TableNotSupported, match=f"public.x is {what}"):
        replace(lab, tables="t, x").capture()
    said = any(f"public.x is left out: it is {what.split(':')[0]}" in w.what for w in lab.pipeline.check().warnings)
    assert said == (what != "a sequence")  # nobody means these by `public.*`
    lab.capture_and_compare("t")


def test_an_unlogged_table_is_captured_once_it_is_logged(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE UNLOGGED TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)"
    )
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR ALL TABLES")
    lab.capture_and_compare("a")
    lab.transactions("INSERT INTO t VALUES (2)", "ALTER TABLE t SET LOGGED", "INSERT INTO t VALUES (3)")
    lab.capture_and_compare("a", "t")
    lab.transactions("DELETE FROM t WHERE id = 1", "ALTER TABLE t SET UNLOGGED", "INSERT INTO t VALUES (4)")
    lab.capture_and_compare("a")
    with pytest.raises(TableNotSupported, match="unlogged") as info:
        replace(lab, tables="a, t").capture()
    lab.execute(info.value.remedy.split(";")[0])
    lab.capture_and_compare("a", "t")
    lab.execute("UPDATE t SET id = id + 10")
    lab.capture_and_compare("a", "t")
