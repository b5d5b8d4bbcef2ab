"""A slot serves one destination: a second one, which would move it on, is refused unless it is to take over."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb import sink as duckdb_sink
from dbmazz_core.errors import SlotAheadOfCheckpoint, SlotServesOther
from tests.support.lab import Lab


@pytest.fixture
def first(lab: Lab) -> Lab:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture()
    return lab


@pytest.fixture
def second(first: Lab, tmp_path: Path) -> Lab:
    """The same settings with another, new file."""
    (tmp_path / "d2").mkdir()
    return replace(first.configured(slot=first.slot), path=tmp_path / "d2" / "shop.duckdb")


def comment(lab: Lab) -> str:
    ((text,),) = lab.database.fetch(
        "SELECT obj_description(oid, 'pg_publication') FROM pg_publication WHERE pubname = %s", lab.config.publication
    )
    assert isinstance(text, str)
    return text


def test_a_second_file_is_refused_by_every_command_and_nothing_changes(first: Lab, second: Lab) -> None:
    first.execute("INSERT INTO t VALUES (2)")
    for act in (second.capture, second.pipeline.snapshot):
        with pytest.raises(SlotServesOther, match=f"serves {first.path} on host ") as info:
            act()
        assert str(second.path) in str(info.value)
        second.assert_found_by_check(info.value)
    assert not second.path.exists()
    first.capture_and_compare("t")


def test_the_second_file_takes_over_when_told_and_the_first_is_refused_then(first: Lab, second: Lab) -> None:
    second.pipeline.snapshot(take_over=True)
    first.execute("INSERT INTO t VALUES (2)")
    second.capture_and_compare("t")
    assert str(second.path) in comment(first)
    assert str(first.path) not in comment(first)
    with pytest.raises(SlotAheadOfCheckpoint):
        first.capture()
    with pytest.raises(SlotServesOther, match=str(second.path)):
        first.pipeline.snapshot()
    second.execute("INSERT INTO t VALUES (3)")
    second.capture_and_compare("t")


def test_the_printed_remedies_work(first: Lab, second: Lab) -> None:
    with pytest.raises(SlotServesOther, match=r"--take-over.*") as info:
        second.capture()
    assert "SOURCE_SLOT_NAME" in info.value.remedy
    other = second.configured(slot=f"{first.slot}_2")
    try:
        other.capture_and_compare("t")
        first.execute("INSERT INTO t VALUES (2)")
        first.capture_and_compare("t")
        other.capture_and_compare("t")
        assert comment(first).count("slot ") == 2
    finally:
        other.pipeline.teardown()


@pytest.mark.parametrize("how", ["removed", "moved", "moved before its first copy was complete", "slot dropped"])
def test_what_needs_no_taking_over(lab: Lab, second: Lab, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of the same place made anew, the file in another place or on another host, another slot of that name."""
    match how:
        case "removed":
            lab.path.unlink()
            taken = lab
        case "moved":
            shutil.move(lab.path, second.path)
            taken = second
        case "moved before its first copy was complete":
            with duckdb.connect(str(lab.path)) as file:
                file.execute("DELETE FROM _dbmazz.checkpoints; DELETE FROM _dbmazz.tables; DROP TABLE public.t")
            shutil.move(lab.path, second.path)
            taken = second
        case _:
            lab.pipeline.teardown(drop_publication=False)
            taken = second
    if taken is second:
        monkeypatch.setattr(duckdb_sink.socket, "gethostname", lambda: "another")
    lab.execute("INSERT INTO t VALUES (2)")
    taken.capture_and_compare("t")


def test_a_file_that_was_removed_on_another_host_needs_taking_over(first: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first.path.unlink()
    monkeypatch.setattr(duckdb_sink.socket, "gethostname", lambda: "another")
    with pytest.raises(SlotServesOther, match=r"on host .*on host another"):
        first.capture()
    first.pipeline.snapshot(take_over=True)
    first.capture_and_compare("t")


def test_a_publication_of_somebody_else_keeps_its_comment(lab: Lab) -> None:
    lab.execute(
        f"CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION {lab.config.publication} FOR TABLE t; "
        f"COMMENT ON PUBLICATION {lab.config.publication} IS 'of the billing team'"
    )
    lab.capture_and_compare("t")
    assert comment(lab) == "of the billing team"


def test_a_window_that_goes_on_writes_no_comment(first: Lab) -> None:
    row = "SELECT d.xmin::text FROM pg_description d WHERE d.classoid = 'pg_publication'::regclass"
    before = first.database.fetch(row)
    first.execute("INSERT INTO t VALUES (2)")
    first.capture_and_compare("t")
    assert len(before) == 1
    assert first.database.fetch(row) == before
