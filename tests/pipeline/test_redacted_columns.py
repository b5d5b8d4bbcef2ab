"""Columns that rules hide, under other names: their values never reach the destination without being asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import duckdb
import pytest

from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.by_table import parse_by_table
from dbmazz_core.settings.config import FlushConfig, TableConfig
from tests.pipeline.test_column_rules import chosen, everything
from tests.support.lab import Lab

START = (
    "CREATE TABLE t (id int PRIMARY KEY, secret text, note text);"
    "INSERT INTO t SELECT i, 'pw-' || i, 'note ' || i FROM generate_series(1, 20) i"
)
RULES = pytest.mark.parametrize(
    "rule",
    [
        {"exclude": "t.secret"},
        {"include": "t.id, t.note"},
        {"masks": "t.secret=hash"},
        {"masks": "t.secret=truncate:1"},
        {"masks": "t.secret=null"},
    ],
    ids=["exclude", "include", "hash", "truncate", "null"],
)
EXCHANGE = (
    "ALTER TABLE t RENAME secret TO passing; ALTER TABLE t RENAME note TO secret; ALTER TABLE t RENAME passing TO note"
)
#: After these the rules' names are all there, and a hidden column goes by one that they do not hide.
CHANGES = {
    "another takes its name": "ALTER TABLE t RENAME secret TO x; ALTER TABLE t ADD secret text",
    "exchanged": EXCHANGE,
    "shifted": "ALTER TABLE t RENAME secret TO x; ALTER TABLE t RENAME note TO secret; ALTER TABLE t ADD note text",
}
MOVED = pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
ROWS = pytest.mark.parametrize("row", ["", "INSERT INTO t (id) VALUES (60)"], ids=["no row", "a row"])


def assert_hidden(lab: Lab) -> None:
    """No secret is anywhere in the file."""
    assert "pw-" not in everything(lab)
    assert b"pw-" not in lab.path.read_bytes()


@pytest.mark.each_value
@RULES
@MOVED
@ROWS
def test_a_hidden_column_under_another_name_stops_the_window(
    lab: Lab, rule: dict[str, str], change: str, row: str
) -> None:
    lab.execute(START)
    if "include" in rule and " x;" in change:
        rule = {"include": "t.id, t.note, t.x"}
        lab.execute("ALTER TABLE t ADD x int")
    lab = chosen(lab, **rule)
    lab.capture()
    if "t.x" in rule.get("include", ""):
        lab.execute("ALTER TABLE t DROP x")
    lab.transactions("INSERT INTO t VALUES (50, 'pw-50', 'before')", change, *([row] if row else []))
    for _ in range(2):
        with (
            lab.nothing_changes("public.t"),
            pytest.raises(ConfigError, match=r"public\.t\.secret .* is called public\.t\.(x|note) now") as info,
        ):
            lab.capture()
    lab.assert_found_by_check(info.value)
    assert "dbmazz snapshot --tables 'public.t'" in info.value.remedy
    assert_hidden(lab)


@MOVED
def test_a_copy_under_rules_with_the_names_of_today(lab: Lab, change: str) -> None:
    lab.execute(START)
    chosen(lab, exclude="t.secret").capture()
    lab.execute(change)
    called = "x" if " x;" in change else "note"
    lab = chosen(lab, exclude=f"t.{called}")
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match="settings for columns have changed"):
        lab.capture()
    lab.pipeline.snapshot([lab.ref("t")])
    lab.transactions(f"UPDATE t SET {called} = 'pw-new'")
    lab.capture()
    assert_hidden(lab)


def test_a_snapshot_that_is_asked_for_shows_it(lab: Lab) -> None:
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    lab.execute(CHANGES["another takes its name"])
    with pytest.raises(ConfigError):
        lab.capture()
    lab.pipeline.snapshot([lab.ref("t")])
    lab.execute("INSERT INTO t VALUES (60, 'was secret', 'note', 'pw-60')")
    lab.capture()
    assert lab.rows("SELECT id, x, note FROM public.t WHERE id IN (1, 60) ORDER BY id") == [
        (1, "pw-1", "note 1"),
        (60, "was secret", "note"),
    ]
    assert "pw-60" not in everything(lab)


@pytest.mark.each_value
@RULES
@pytest.mark.parametrize(
    ("change", "back"),
    [
        (EXCHANGE, EXCHANGE),
        (
            "ALTER TABLE t RENAME secret TO x; ALTER TABLE t RENAME note TO secret",
            "ALTER TABLE t RENAME secret TO note; ALTER TABLE t RENAME x TO secret",
        ),
        (
            "ALTER TABLE t RENAME secret TO x; ALTER TABLE t ADD secret text",
            "ALTER TABLE t DROP secret; ALTER TABLE t RENAME x TO secret",
        ),
    ],
    ids=["exchanged", "moved", "another takes its name"],
)
def test_rows_from_between_a_change_and_its_undoing(lab: Lab, rule: dict[str, str], change: str, back: str) -> None:
    """The catalog is as it was; only the stream tells of what was between."""
    lab.execute(START)
    lab = chosen(lab, **rule)
    lab.capture()
    lab.transactions(
        change, "UPDATE t SET id = id + 100 WHERE id < 5; INSERT INTO t SELECT 61, 'pw-61', 'pw-61'", back,
        "UPDATE t SET note = 'plain' WHERE id = 61",
    )  # fmt: skip
    try:
        lab.capture()
    except ConfigError:
        lab.pipeline.snapshot([lab.ref("t")])
    names = "id, note"
    assert sorted(lab.rows(f"SELECT {names} FROM public.t")) == sorted(lab.database.fetch(f"SELECT {names} FROM t"))
    if rule != {"masks": "t.secret=truncate:1"}:
        assert_hidden(lab)


@pytest.mark.each_value
@MOVED
@pytest.mark.parametrize("rule", [{"exclude": "t.secret"}, {"masks": "t.secret=hash"}], ids=["exclude", "mask"])
def test_a_change_while_a_window_runs(lab: Lab, rule: dict[str, str], change: str) -> None:
    lab.execute(START)
    lab = chosen(lab, **rule).configured(flush=FlushConfig(size=10))
    lab.capture()
    lab.transactions(*(f"UPDATE t SET note = 'n{number}'" for number in range(5)))
    changes = iter([change])

    def meanwhile(progress: object) -> None:
        if statement := next(changes, None):
            lab.execute(statement)

    lab.capture(progress=meanwhile)
    assert_hidden(lab)
    lab.execute("INSERT INTO t (id) VALUES (60)")
    with pytest.raises(ConfigError, match=r"public\.t\.secret .* is called"):
        lab.capture()
    assert_hidden(lab)


@MOVED
def test_a_change_while_the_table_is_copied_anew(lab: Lab, change: str) -> None:
    """The window finds that the table has to be copied; the hidden column is renamed just before the copy."""
    lab.execute(START + "; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)")
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    lab.transactions(
        "ALTER TABLE t ALTER note TYPE varchar(50) USING upper(note)", "ALTER TABLE a ALTER id TYPE bigint",
        "INSERT INTO t VALUES (60)", "INSERT INTO a VALUES (2)",
    )  # fmt: skip
    changes = iter([change])

    def meanwhile(progress: object) -> None:
        if getattr(progress, "phase", "") == "snapshot" and (statement := next(changes, None)):
            lab.execute(statement)

    with pytest.raises(ConfigError, match=r"public\.t\.secret .* is called"):
        lab.capture(progress=meanwhile)
    assert next(changes, None) is None
    assert_hidden(lab)
    with pytest.raises(ConfigError, match=r"public\.t\.secret .* is called") as info:
        lab.capture()
    lab.assert_found_by_check(info.value)
    assert_hidden(lab)


@pytest.mark.each_value
@pytest.mark.parametrize("rule", [{"exclude": "t.secret"}, {"masks": "t.secret=hash"}], ids=["exclude", "mask"])
@pytest.mark.parametrize("abandoned", [False, True], ids=["followed", "to be copied anew"])
def test_a_table_whose_name_another_has_taken(lab: Lab, rule: dict[str, str], abandoned: bool) -> None:
    """The rules are by name, and now they are the other table's."""
    lab.execute(START)
    lab = chosen(lab, **rule)
    lab.capture()
    if abandoned:
        with duckdb.connect(str(lab.path)) as connection:
            connection.execute("UPDATE _dbmazz.tables SET state = 'changed'")
    lab.transactions(
        "ALTER TABLE t RENAME TO t_old; CREATE TABLE t (id int PRIMARY KEY, secret text, note text)",
        "INSERT INTO t VALUES (1, 'pw-x', 'x')", "INSERT INTO t_old VALUES (70, 'pw-70', 'y')",
    )  # fmt: skip
    for _ in range(2):
        with (
            lab.nothing_changes("public.t"),
            pytest.raises(ConfigError, match=r"public\.t\.secret .* is called public\.t_old\.secret now") as info,
        ):
            lab.capture()
    lab.assert_found_by_check(info.value)
    assert_hidden(lab)
    if "exclude" in rule and not abandoned:
        lab = chosen(lab, exclude="t.secret, t_old.secret")
        lab.capture()
        names = "id, note"
        for table in ("t", "t_old"):
            source = lab.database.fetch(f"SELECT {names} FROM {table}")
            assert sorted(lab.rows(f"FROM public.{table}")) == sorted(source)
        assert_hidden(lab)


def test_a_hidden_column_that_is_dropped_and_added_again(lab: Lab) -> None:
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    for number in range(2):
        lab.transactions("ALTER TABLE t DROP secret; ALTER TABLE t ADD secret text")
        if number:
            lab.transactions("UPDATE t SET secret = 'pw-again', note = 'again' WHERE id < 5")
        lab.capture()
        assert sorted(lab.rows("FROM public.t")) == sorted(lab.database.fetch("SELECT id, note FROM t"))
    assert_hidden(lab)
    # The new one is remembered too.
    lab.transactions(CHANGES["another takes its name"])
    with pytest.raises(ConfigError, match=r"public\.t\.secret .* is called public\.t\.x now"):
        lab.capture()
    assert_hidden(lab)


def test_a_dropped_hidden_column_is_forgotten(lab: Lab) -> None:
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    lab.execute("ALTER TABLE t DROP secret")
    with pytest.raises(ConfigError, match="does not exist"):
        lab.capture()
    lab = lab.configured(source={})
    lab.transactions("ALTER TABLE t ADD c text DEFAULT 'c'", "UPDATE t SET note = 'x' WHERE id = 1")
    lab.capture_and_compare("t")


def test_a_rule_without_its_column_is_not_to_be_taken_out(lab: Lab) -> None:
    lab.execute(START)
    chosen(lab, exclude="t.secret").capture()
    lab.execute("ALTER TABLE t RENAME secret TO x")
    with pytest.raises(ConfigError, match="does not exist"):
        chosen(lab, exclude="t.secret").capture()
    with pytest.raises(ConfigError, match=r"public\.t\.secret .* is called public\.t\.x now"):
        lab.capture()
    assert_hidden(lab)
    lab = chosen(lab, exclude="t.x")
    lab.transactions("INSERT INTO t VALUES (60, 'pw-60', 'n')")
    lab.capture()
    assert_hidden(lab)
    assert sorted(lab.rows("FROM public.t")) == sorted(lab.database.fetch("SELECT id, note FROM t"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"exclude": "t.secret"}, {"masks": "t.x=hash"}),
        ({"masks": "t.secret=hash"}, {"masks": "t.x=truncate:2"}),
        ({"masks": "t.secret=truncate:1"}, {"masks": "t.x=truncate:2"}),
    ],
    ids=["excluded", "hashed", "truncated"],
)
def test_a_weaker_rule_for_the_name_of_today(lab: Lab, before: dict[str, str], after: dict[str, str]) -> None:
    lab.execute(START)
    chosen(lab, **before).capture()
    lab.execute("ALTER TABLE t RENAME secret TO x")
    lab = chosen(lab, **after)
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match=r"t\.x now, where a weaker rule hides it"):
        lab.capture()
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture()
    assert_hidden(lab)


def test_as_strong_a_rule_for_the_name_of_today(lab: Lab) -> None:
    lab.execute(START)
    chosen(lab, exclude="t.secret").capture()
    lab.execute("ALTER TABLE t RENAME secret TO x")
    lab = chosen(lab, masks="t.x=null")
    lab.capture()
    assert lab.rows("SELECT count(*), count(x) FROM public.t") == [(20, 0)]
    assert_hidden(lab)


@pytest.mark.each_value
@pytest.mark.parametrize("mode", [Mode.SOFT_DELETE, Mode.CHANGELOG])
@MOVED
def test_in_other_modes(lab: Lab, mode: Mode, change: str) -> None:
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret").kept(mode)
    lab.capture()
    lab.transactions(change, "INSERT INTO t (id) VALUES (60)")
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match=r"public\.t\.secret .* is called"):
        lab.capture()
    assert_hidden(lab)


@MOVED
def test_of_a_partitioned_table(lab: Lab, change: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, secret text, note text) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 (note text, id int NOT NULL, secret text);"
        "ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (40);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (40) TO (100);"
        "INSERT INTO t SELECT i, 'pw-' || i, 'note ' || i FROM generate_series(1, 50) i"
    )
    lab = chosen(replace(lab, tables="public.t"), exclude="t.secret")
    lab.capture()
    lab.transactions(change, "INSERT INTO t (id) VALUES (60)")
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match=r"public\.t\.secret .* is called"):
        lab.capture()
    assert_hidden(lab)


def test_what_an_older_version_recorded_is_completed(lab: Lab) -> None:
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    with duckdb.connect(str(lab.path)) as connection:
        (row,) = connection.execute("SELECT identity FROM _dbmazz.tables").fetchall()
        kept = json.loads(row[0])
        del kept["hidden"]
        connection.execute("UPDATE _dbmazz.tables SET identity = ?", [json.dumps(kept)])
    lab.transactions("INSERT INTO t VALUES (60, 'pw-60', 'n')")
    assert not lab.capture().copy_anew
    lab.transactions(CHANGES["another takes its name"], "INSERT INTO t (id) VALUES (61)")
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match=r"is called public\.t\.x now"):
        lab.capture()
    assert_hidden(lab)


def test_another_table_goes_on_once_the_rules_are_right(lab: Lab) -> None:
    lab.execute(START + "; CREATE TABLE other (id int PRIMARY KEY)")
    chosen(lab, exclude="t.secret").capture()
    lab.transactions(CHANGES["another takes its name"], "INSERT INTO other VALUES (1)")
    with pytest.raises(DbmazzError):
        chosen(lab, exclude="t.secret").capture()
    lab = chosen(lab, exclude="t.secret, t.x")
    lab.transactions("INSERT INTO t VALUES (60, 'pw-60', 'n', 'pw-61')")
    lab.capture_and_compare("other")
    assert sorted(lab.rows("FROM public.t")) == sorted(lab.database.fetch("SELECT id, note FROM t"))
    assert_hidden(lab)


def test_no_mode_of_a_table_lets_it_through(lab: Lab) -> None:
    """Where the window may copy by itself, another setting for the table included."""
    lab.execute(START)
    lab = chosen(lab, exclude="t.secret")
    lab.capture()
    lab.execute(CHANGES["exchanged"])
    changed = lab.configured(tables=TableConfig(mode=parse_by_table("MODE", "soft_delete", Mode)))
    with pytest.raises(ConfigError):
        changed.capture()
    assert_hidden(lab)
