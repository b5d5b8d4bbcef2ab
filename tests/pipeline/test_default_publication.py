"""Captures without SOURCE_PUBLICATION_NAME: new slots get publications of their own, older captures keep theirs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import PublicationLacksTable, PublicationNotFound
from dbmazz_core.model.records import Insert
from tests.support.lab import Lab

BY_DEFAULT = {"publication": None}


@pytest.fixture
def older(lab: Lab) -> Lab:
    return begun(lab)


@pytest.fixture
def matrix_older(matrix_lab: Lab) -> Lab:
    return begun(matrix_lab)


def begun(lab: Lab) -> Lab:
    """A capture that began when the default was `dbmazz_pub`, with changes that wait in its slot."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (2, 2)", "UPDATE t SET v = 3")
    return replace(lab, tables="public.t").configured(source=BY_DEFAULT)


def published(lab: Lab) -> dict[str, list[str]]:
    """The tables by publication."""
    rows = lab.database.fetch(
        "SELECT pubname::text, array_agg(tablename::text ORDER BY 1) FROM pg_publication_tables GROUP BY 1 ORDER BY 1"
    )
    return dict(rows)


def assert_keeps(lab: Lab, name: str) -> None:
    """All commands name the publication; none of them has changed the source, and the window copies nothing anew."""
    before = published(lab)
    assert lab.pipeline.status().source.publication == lab.pipeline.source_status().publication == name
    report = lab.pipeline.check()
    assert report.ok
    assert any(f'publication "{name}"' in finding.what for finding in report.findings)
    assert lab.pipeline.has_changes()
    assert sum(isinstance(record, Insert) for record in lab.pipeline.peek()) == 1
    assert lab.pipeline.setup().done == ()
    result = lab.capture_and_compare("t")
    assert (result.changes, result.copy_anew) == (3, {})
    assert published(lab) == before


@pytest.mark.matrix
@pytest.mark.parametrize(
    "comment",
    [
        pytest.param(None, id="its slot is named"),
        pytest.param("'created by dbmazz'", id="no slot is named"),
        pytest.param("E'created by dbmazz\\nslot other serves 5f0c, /srv/x.duckdb on host db1'", id="another is named"),
        pytest.param("NULL", id="made by hand"),
    ],
)
def test_an_upgrade_in_the_middle_of_a_backlog(matrix_older: Lab, comment: str | None) -> None:
    older = matrix_older
    if comment is not None:
        older.execute(f"COMMENT ON PUBLICATION dbmazz_pub IS {comment}")
    assert_keeps(older, "dbmazz_pub")
    older.transactions("INSERT INTO t VALUES (4, 4)")
    assert older.capture_and_compare("t").changes == 1


def test_an_older_capture_and_a_new_one(older: Lab, tmp_path: Path) -> None:
    older.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    slot = f"{older.slot}_2"
    new = replace(older.configured(slot=slot), tables="public.u", path=tmp_path / "new.duckdb")
    try:
        new.capture_and_compare("u")
        assert published(older) == {"dbmazz_pub": ["t"], f"{slot}_pub": ["u"]}
        older.execute("INSERT INTO u VALUES (2)")
        result = older.capture_and_compare("t")
        assert (result.changes, result.copy_anew) == (3, {})
        assert new.capture_and_compare("u").changes == 1
        _, left = new.pipeline.teardown()
        assert f'left publication "{slot}_pub"' in left
        assert new.pipeline.teardown(drop_publication=True) == [f'dropped publication "{slot}_pub"']
    finally:
        new.pipeline.teardown()


def test_two_new_captures_of_one_table(lab: Lab, tmp_path: Path) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    first = lab.configured(source=BY_DEFAULT)
    second = replace(first.configured(slot=f"{lab.slot}_2"), path=tmp_path / "second.duckdb")
    try:
        first.capture_and_compare("t")
        second.capture_and_compare("t")
        lab.execute(f"ALTER PUBLICATION {first.slot}_pub DROP TABLE t")
        lab.execute("INSERT INTO t VALUES (2, 2)")
        result = second.capture_and_compare("t")
        assert (result.changes, result.copy_anew) == (1, {})
        with pytest.raises(PublicationLacksTable, match=f'"{first.slot}_pub"'):
            first.capture()
    finally:
        second.pipeline.teardown()


def test_an_older_capture_that_has_lost_its_slot(older: Lab) -> None:
    """The role that captures may not be allowed to create another publication."""
    older.database.execute("SELECT pg_drop_replication_slot(%s)", older.slot)
    assert older.pipeline.status().source.publication == "dbmazz_pub"
    older.pipeline.snapshot()
    older.assert_equal("t")
    assert published(older) == {"dbmazz_pub": ["t"]}
    older.transactions("INSERT INTO t VALUES (5, 5)")
    assert older.capture_and_compare("t").changes == 1


def test_torn_down_and_captured_anew(older: Lab) -> None:
    """Another slot of the database may use the publication, so that it stays; the next capture gets its own."""
    other = f"{older.slot}_2"
    older.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", other)
    try:
        _, left = older.pipeline.teardown()
        assert other in left
        older.path.unlink()
        older.capture_and_compare("t")
        assert published(older) == {"dbmazz_pub": ["t"], f"{older.slot}_pub": ["t"]}
    finally:
        older.database.execute("SELECT pg_drop_replication_slot(%s)", other)


def test_a_slot_that_was_copied_under_another_name(older: Lab, tmp_path: Path) -> None:
    """How a slot is renamed. A program without a destination reads on where the old one stood."""
    renamed = older.configured(slot=f"{older.slot}_2")
    older.database.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", older.slot, renamed.slot)
    older.database.execute("SELECT pg_drop_replication_slot(%s)", older.slot)
    try:
        with PostgresSource(renamed.config) as source:
            source.start()
            records = list(source.records(until=source.reachable_lsn()))
        assert sum(isinstance(record, Insert) for record in records) == 1
        assert published(older) == {"dbmazz_pub": ["t"]}
    finally:
        renamed.pipeline.teardown()


def test_the_publication_of_a_slot_was_dropped(lab: Lab) -> None:
    lab = lab.configured(source=BY_DEFAULT)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    lab.capture()
    lab.transactions(f"DROP PUBLICATION {lab.slot}_pub", "INSERT INTO t VALUES (2, 2)")
    for act in (lab.capture, lab.pipeline.setup):
        with pytest.raises(PublicationNotFound, match=f'"{lab.slot}_pub"'):
            act()
    lab.pipeline.snapshot()
    lab.assert_equal("t")
    assert published(lab) == {f"{lab.slot}_pub": ["t"]}


def test_a_slot_that_was_made_by_hand_before_the_publication(lab: Lab) -> None:
    lab = lab.configured(source=BY_DEFAULT)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    lab.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", lab.slot)
    lab.capture_and_compare("t")
    lab.execute("INSERT INTO t VALUES (1, 1)")
    assert lab.capture_and_compare("t").changes == 1
    assert published(lab) == {f"{lab.slot}_pub": ["t"]}


def test_an_explicit_name_wins_at_an_upgrade_and_for_a_new_slot(older: Lab, tmp_path: Path) -> None:
    new = replace(older, path=tmp_path / "new.duckdb").configured(
        slot=f"{older.slot}_2", source={"publication": "dbmazz_pub"}
    )
    try:
        new.capture_and_compare("t")
        assert published(older) == {"dbmazz_pub": ["t"]}
    finally:
        new.pipeline.teardown()
    older.execute(f"CREATE PUBLICATION {older.slot}_pub FOR TABLE t")
    assert_keeps(older, "dbmazz_pub")  # the comment names the slot: what was created by hand changes nothing by itself
    moved = older.configured(source={"publication": f"{older.slot}_pub"})
    older.execute("INSERT INTO t VALUES (4, 4)")
    assert moved.capture_and_compare("t").copy_anew.keys() == {older.ref("t")}


def test_an_older_capture_moves_to_a_publication_of_its_own(older: Lab) -> None:
    """As docs/cli.md says: with one snapshot, after which the default finds the new name."""
    older.configured(source={"publication": f"{older.slot}_pub"}).pipeline.snapshot()
    older.assert_equal("t")
    assert older.pipeline.status().source.publication == f"{older.slot}_pub"
    older.execute("ALTER PUBLICATION dbmazz_pub DROP TABLE t")
    older.execute("INSERT INTO t VALUES (6, 6)")
    result = older.capture_and_compare("t")
    assert (result.changes, result.copy_anew) == (1, {})
