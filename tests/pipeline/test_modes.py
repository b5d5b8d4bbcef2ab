"""Modes: what soft_delete keeps, and that a table stays in its mode until it is made anew."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb_sql.bookkeeping import LAYOUT
from dbmazz_core.errors import ConfigError
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.by_table import parse_by_table, parse_schema_policy
from dbmazz_core.settings.config import FlushConfig, SnapshotConfig, TableConfig
from tests.support.lab import MARKS, Lab, toast
from tests.support.oracle import assert_equal

DEAD = "SELECT * EXCLUDE (_dbmazz_commit_lsn, _dbmazz_commit_ts, _dbmazz_synced_at, _dbmazz_deleted) FROM public.t "
DEAD += "WHERE _dbmazz_deleted ORDER BY ALL"


@pytest.fixture
def soft(lab: Lab) -> Lab:
    """Everything in mode soft_delete."""
    return lab.kept(Mode.SOFT_DELETE)


# -- soft_delete


def test_a_deleted_row_stays_with_its_values_and_says_when_it_went(soft: Lab) -> None:
    soft.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t VALUES (1, 1, {toast(1)}), (2, 2, '')"
    )
    soft.capture_and_compare("t")
    started = soft.rows("SELECT DISTINCT _dbmazz_commit_lsn, _dbmazz_commit_ts FROM public.t")
    assert started == soft.rows("SELECT snapshot_lsn, NULL FROM _dbmazz.tables")
    before = datetime.now(UTC)
    soft.transactions("UPDATE t SET n = 5 WHERE id = 1", "DELETE FROM t WHERE id = 1")
    soft.capture_and_compare("t")
    ((id, n, big, deleted, lsn, at, synced),) = soft.rows("SELECT * FROM public.t WHERE id = 1")
    assert (id, n, big, deleted) == (1, 5, soft.database.fetch(f"SELECT {toast(1)}")[0][0], True)
    assert started[0][0] <= lsn < soft.checkpoint
    assert before - timedelta(seconds=5) < at <= synced <= datetime.now(UTC) + timedelta(seconds=5)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_key_that_comes_again_takes_the_place_of_the_row_that_went(soft: Lab, size: int) -> None:
    soft = soft.configured(flush=FlushConfig(size=size))
    soft.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    soft.capture()
    soft.transactions("DELETE FROM t", "INSERT INTO t VALUES (1, 'again'), (3, 'new')", "DELETE FROM t WHERE id = 3")
    soft.capture_and_compare("t")
    # Key 3 came and went, whether or not a flush lay between.
    assert soft.rows(DEAD) == [(2, "b"), (3, "new")]
    assert soft.rows("SELECT count(*) FROM public.t WHERE id = 1") == [(1,)]


def test_a_key_change_marks_the_row_under_the_old_key(soft: Lab) -> None:
    soft.execute(f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t VALUES (1, 1, {toast(1)})")
    soft.capture()
    soft.transactions("UPDATE t SET id = 2, n = 2")
    soft.capture_and_compare("t")
    ((big,),) = soft.rows("SELECT big FROM public.t WHERE id = 2")
    assert soft.rows(DEAD) == [(1, 1, big)]
    soft.transactions("UPDATE t SET id = 1, n = 3")
    soft.capture_and_compare("t")
    assert soft.rows(DEAD) == [(2, 2, big)]


@pytest.mark.parametrize("size", [1, 1000])
def test_truncate_marks_all_rows_that_were_live(soft: Lab, size: int) -> None:
    soft = soft.configured(flush=FlushConfig(size=size))
    soft.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 4) i")
    soft.capture()
    soft.transactions("DELETE FROM t WHERE id = 4")
    soft.capture()
    ((first,),) = soft.rows("SELECT _dbmazz_commit_lsn FROM public.t WHERE id = 4")
    soft.transactions(
        "UPDATE t SET v = 9 WHERE id = 3", "TRUNCATE t; INSERT INTO t VALUES (1, 10)", "UPDATE t SET v = 11"
    )
    soft.capture_and_compare("t")
    assert soft.rows(DEAD) == [(2, 2), (3, 9), (4, 4)]
    times = (
        "SELECT count(DISTINCT _dbmazz_commit_ts), bool_and(_dbmazz_commit_lsn > ?) FROM public.t WHERE id IN (2, 3)"
    )
    assert soft.rows(times.replace("?", str(first))) == [(1, True)]
    assert soft.rows("SELECT _dbmazz_commit_lsn FROM public.t WHERE id = 4") == [(first,)]


def test_without_a_key_a_removal_marks_one_of_equal_rows(soft: Lab) -> None:
    soft.execute("CREATE TABLE t (a int, b text); INSERT INTO t SELECT 1, 'x' FROM generate_series(1, 3)")
    soft.capture()
    soft.transactions(
        "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)",
        "UPDATE t SET b = 'y' WHERE ctid = (SELECT min(ctid) FROM t)",
    )
    soft.capture_and_compare("t")
    assert soft.rows(DEAD) == [(1, "x"), (1, "x")]
    soft.transactions("INSERT INTO t VALUES (1, 'x')", "DELETE FROM t WHERE b = 'y'")
    soft.capture_and_compare("t")
    assert soft.rows(DEAD) == [(1, "x"), (1, "x"), (1, "y")]


def test_a_copy_keeps_the_rows_that_went_and_marks_those_that_went_unseen(soft: Lab) -> None:
    soft.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE bag (a int);"
        "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 6) i; INSERT INTO bag VALUES (1), (1), (1), (2)"
    )
    soft.capture()
    soft.transactions("DELETE FROM t WHERE id <= 2; DELETE FROM bag WHERE a = 2")
    soft.capture()
    marked = soft.rows("FROM public.t WHERE id = 1")
    # Not seen by any window, since the copy is newer.
    one = "(SELECT min(ctid) FROM bag WHERE a = 1)"
    soft.transactions(
        f"DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (2, 'again'); DELETE FROM bag WHERE ctid = {one}"
    )
    soft.pipeline.snapshot([soft.ref("t"), soft.ref("bag")])
    soft.assert_equal("t", "bag")
    assert soft.rows("FROM public.t WHERE id = 1") == marked
    assert soft.rows(DEAD) == [(1, "v1"), (3, "v3")]
    assert soft.rows(DEAD.replace("public.t", "public.bag")) == [(1,), (2,)]
    ((lsn, copied, at),) = soft.rows(
        "SELECT _dbmazz_commit_lsn, snapshot_lsn, _dbmazz_commit_ts FROM public.t, _dbmazz.tables "
        "WHERE id = 3 AND table_name = 't'"
    )
    assert (lsn, at) == (copied, None)
    soft.transactions("DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (3, 'back')")
    soft.capture_and_compare("t", "bag")
    assert soft.rows(DEAD) == [(1, "v1"), (4, "v4")]


def test_a_copy_carries_marked_rows_into_other_columns(soft: Lab) -> None:
    soft.execute(
        "CREATE TABLE t (id int PRIMARY KEY, gone int, v text);"
        "INSERT INTO t VALUES (1, 1, '7'), (2, 2, 'x'), (3, 3, '9')"
    )
    soft.capture()
    soft.transactions("DELETE FROM t WHERE id < 3")
    soft.capture()
    soft.execute(
        "ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ALTER v TYPE int USING v::int; ALTER TABLE t ADD more int"
    )
    soft.pipeline.snapshot([soft.ref("t")])
    soft.assert_equal("t")
    assert soft.rows(DEAD) == [(1, 7, None), (2, None, None)]  # 'x' is no integer


def test_a_copy_finds_rows_whose_key_is_written_in_another_way(soft: Lab) -> None:
    soft.execute("CREATE TABLE t (id float8 PRIMARY KEY, v int); INSERT INTO t VALUES (1.5, 1), (2, 2), (3, 3)")
    soft.capture()
    soft.transactions("ALTER TABLE t ALTER id TYPE text", "DELETE FROM t WHERE id = '3'")
    assert soft.capture_and_compare("t").copy_anew
    assert soft.rows(DEAD) == [("3.0", 3)]


def test_a_copy_works_whatever_somebody_added_to_the_table(soft: Lab) -> None:
    soft.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
    soft.capture()
    soft.transactions("DELETE FROM t WHERE id = 1")
    soft.capture()
    with duckdb.connect(str(soft.path)) as destination:
        destination.execute("CREATE INDEX mine ON public.t (v); CREATE VIEW public.w AS FROM public.t")
    soft.pipeline.snapshot([soft.ref("t")])
    soft.assert_equal("t")
    assert soft.rows(DEAD) == [(1, 1)]


def test_a_live_row_is_found_where_a_marked_one_has_todays_key(soft: Lab) -> None:
    """The replica identity changes: the marked row of the one key has the value of the other."""
    soft = soft.configured(flush=FlushConfig(size=1))
    soft.execute("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int, big text)")
    soft.execute(f"INSERT INTO t SELECT i, 'c' || i, 0, {toast('big')} || i FROM generate_series(1, 4) i")
    soft.capture()
    soft.transactions(
        "DELETE FROM t WHERE id = 1",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
        f"INSERT INTO t VALUES (1, 'other', 1, {toast('more')})",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "UPDATE t SET n = 2 WHERE id = 1",
        "UPDATE t SET n = 3, big = 'small' WHERE id = 1",
        "UPDATE t SET id = 9 WHERE id = 1",
        "DELETE FROM t WHERE id = 9",
    )
    soft.capture_and_compare("t")
    assert soft.rows("SELECT count(*), count(*) FILTER (_dbmazz_deleted) FROM public.t WHERE id IN (1, 9)") == [(3, 3)]


# -- modes by table, and changes of them


def test_each_table_has_its_own_mode(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY)"
    )
    lab.execute("INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (1), (2); INSERT INTO c VALUES (1), (2)")
    lab = lab.configured(tables=TableConfig(mode=parse_by_table("MODE", "mirror, b=soft_delete, c=changelog", Mode)))
    lab.capture()
    lab.transactions("DELETE FROM a WHERE id = 1; DELETE FROM b WHERE id = 1; DELETE FROM c WHERE id = 1")
    lab.capture()
    assert_equal(lab.database, lab.path, "public.a")
    assert_equal(lab.database, lab.path, "public.b", where="NOT _dbmazz_deleted", ignore=MARKS)
    assert lab.rows("SELECT _dbmazz_op FROM public.c ORDER BY _dbmazz_commit_lsn") == [("snapshot",)] * 2 + [
        ("delete",)
    ]
    found = {str(state.table): (state.mode.value, state.rows, state.complete) for state in lab.pipeline.status().tables}
    assert found == {
        "public.a": ("mirror", 1, True),
        "public.b": ("soft_delete", 1, True),
        "public.c": ("changelog", 3, True),
    }


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(Mode, 2)))
def test_another_mode_is_an_error_until_the_table_is_made_anew(lab: Lab, old: Mode, new: Mode) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
    lab = lab.kept(old)
    lab.capture()
    lab.transactions("DELETE FROM t WHERE id = 1; UPDATE t SET v = 3")
    changed = lab.kept(new)
    with lab.nothing_changes("public.t"), pytest.raises(ConfigError, match=f"mode {old}.*asks for {new}") as info:
        changed.capture()
    changed.assert_found_by_check(info.value)
    assert info.value.object == "MODE"
    assert "dbmazz snapshot --tables 'public.t'" in info.value.remedy
    # As the error says: left as it is, or made anew.
    lab.configured(tables=TableConfig(mode=parse_by_table("MODE", f"{new}, public.t={old}", Mode))).capture()
    changed.pipeline.snapshot([lab.ref("t")])
    changed.assert_equal("t")
    changed.transactions("DELETE FROM t; INSERT INTO t VALUES (5, 5)")
    changed.capture_and_compare("t")


def test_a_table_that_was_left_out_for_a_while_keeps_its_mode_too(lab: Lab) -> None:
    """Copying it again in another one would drop its history."""
    lab.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)")
    history = lab.kept(Mode.CHANGELOG)
    history.capture()
    replace(history, tables="public.a").capture()
    with pytest.raises(ConfigError, match=r"public\.b"):
        lab.configured(tables=TableConfig(mode=parse_by_table("MODE", "mirror, a=changelog", Mode))).capture()
    history.execute("INSERT INTO b VALUES (2)")
    history.capture_and_compare("b")


def test_without_a_snapshot_rows_that_were_never_seen_are_no_error(lab: Lab) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'old' FROM generate_series(1, 4) i"
    )
    soft = lab.kept(Mode.SOFT_DELETE).configured(snapshot=SnapshotConfig(enabled=False), flush=FlushConfig(size=1))
    soft.capture()
    soft.transactions(
        "UPDATE t SET v = 'seen' WHERE id = 1",
        "DELETE FROM t WHERE id = 2",
        "UPDATE t SET id = 7 WHERE id = 3",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (1, 'again'); UPDATE t SET v = 'more' WHERE id = 1",
    )
    soft.capture()
    live = "SELECT id, v FROM public.t WHERE NOT _dbmazz_deleted ORDER BY id"
    assert soft.rows(live) == [(1, "more"), (7, "old")]
    assert [state.complete for state in soft.pipeline.status().tables] == [False]


def test_a_file_of_the_layout_before_is_read_and_brought_up(lab: Lab) -> None:
    """It knew mirrors only, and not whether they were complete."""
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    lab.capture()
    with duckdb.connect(str(lab.path)) as destination:
        for column in ("mode", "complete", "identity"):
            destination.execute(f"ALTER TABLE _dbmazz.tables DROP COLUMN {column}")
        for column in ("commit_lsn", "xid"):
            destination.execute(f"ALTER TABLE _dbmazz.checkpoints DROP COLUMN {column}")
        destination.execute("DROP TABLE _dbmazz.schema_history; DROP TABLE _dbmazz.quarantine")
        destination.execute("UPDATE _dbmazz.layout SET version = 1; DELETE FROM public.t WHERE id = 1")
    (state,) = lab.pipeline.status().tables
    assert (state.mode, state.complete, state.rows) == (Mode.MIRROR, False, 1)
    lab.execute("DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (3)")
    lab.capture_and_compare("t")
    assert lab.rows("SELECT version FROM _dbmazz.layout") == [(LAYOUT,)]
    assert lab.rows("SELECT count(xid) FROM _dbmazz.checkpoints") == [(1,)]
    assert [(s.mode, s.complete) for s in lab.pipeline.status().tables] == [(Mode.MIRROR, False)]


def test_a_file_whose_tokens_hold_the_targets_is_read_and_brought_up(lab: Lab) -> None:
    """Layout 3 kept the destination's column behind each of the source's, within the token."""
    lab = lab.configured(tables=TableConfig(schema_changes=parse_schema_policy("SCHEMA_CHANGES", "ignore")))
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')")
    lab.capture()
    lab.execute("ALTER TABLE t RENAME v TO w")
    lab.execute("INSERT INTO t VALUES (2, 'two')")
    lab.capture()
    with duckdb.connect(str(lab.path)) as destination:
        ((token, targets),) = destination.execute("SELECT identity, targets FROM _dbmazz.tables").fetchall()
        assert json.loads(targets) == {"id": "id", "w": "v"}
        old = json.loads(token)
        old["columns"] = [[*column, json.loads(targets)[column[0]]] for column in old["columns"]]
        destination.execute("UPDATE _dbmazz.tables SET identity = ?", [json.dumps(old)])
        destination.execute("ALTER TABLE _dbmazz.tables DROP COLUMN targets; UPDATE _dbmazz.layout SET version = 3")
    lab.execute("INSERT INTO t VALUES (3, 'three')")
    lab.execute("ALTER TABLE t ADD n int")
    lab.execute("INSERT INTO t VALUES (4, 'four', 4)")
    assert not lab.capture().copy_anew
    assert lab.rows("SELECT id, v FROM public.t ORDER BY id") == [(1, "one"), (2, "two"), (3, "three"), (4, "four")]
    (recorded,) = lab.rows("SELECT targets FROM _dbmazz.tables")
    assert json.loads(recorded[0]) == {"id": "id", "w": "v", "n": None}


@pytest.mark.parametrize("mode", Mode)
def test_columns_come_one_by_one_with_rows_between(lab: Lab, mode: Mode) -> None:
    """DuckDB 1 alters no table whose rows the same transaction has changed, be it by a column's default."""
    lab = lab.kept(mode)
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int, w int); ALTER TABLE t REPLICA IDENTITY FULL")
    lab.execute("INSERT INTO t VALUES (1, 1, 1), (2, 2, 2)")
    lab.capture_and_compare("t")
    lab.execute("UPDATE t SET v = 3 WHERE id = 2")
    lab.capture_and_compare("t")
    lab.transactions(
        "ALTER TABLE t ADD COLUMN a int DEFAULT 5; ALTER TABLE t ADD COLUMN b int DEFAULT 6; ALTER TABLE t DROP w",
        "INSERT INTO t VALUES (3, 3)",
        "ALTER TABLE t ADD COLUMN c int DEFAULT 7; ALTER TABLE t RENAME v TO w",
        "DELETE FROM t WHERE id = 2",
    )
    lab.capture_and_compare("t")
    lab.execute("DELETE FROM t WHERE id = 1")
    lab.capture_and_compare("t")
