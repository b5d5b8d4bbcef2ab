"""Mode changelog: every change is there, in order, and folds back into what the source has."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.errors import BadValue
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import FlushConfig, SnapshotConfig
from tests.support.lab import BOTH, Lab, toast, variant
from tests.support.oracle import assert_equal

IN_ORDER = "ORDER BY _dbmazz_commit_lsn, _dbmazz_ordinal, id"


@pytest.fixture
def history(lab: Lab) -> Lab:
    """Everything in mode changelog."""
    return lab.kept(Mode.CHANGELOG)


def test_every_change_with_its_rows_before_and_after(history: Lab) -> None:
    history.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a')")
    history.capture()
    history.transactions(
        "INSERT INTO t VALUES (2, NULL); UPDATE t SET v = 'b' WHERE id = 2",
        "UPDATE t SET id = 3 WHERE id = 2; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (4, 'x'); TRUNCATE t",
    )
    history.capture()
    changes = (
        "SELECT _dbmazz_op, _dbmazz_ordinal, id, v, _dbmazz_old_id, _dbmazz_old_v, _dbmazz_known_old, "
        f"_dbmazz_unchanged FROM public.t {IN_ORDER}"
    )
    assert history.rows(changes) == [
        ("snapshot", 0, 1, "a", None, None, [], []),
        ("insert", 1, 2, None, None, None, [], []),
        ("update", 2, 2, "b", None, None, [], []),
        ("update", 1, 3, "b", 2, None, ["id"], []),
        ("delete", 2, None, None, 1, None, ["id"], []),
        ("insert", 3, 4, "x", None, None, [], []),
        ("truncate", 4, None, None, None, None, [], []),
    ]
    positions = history.rows(
        "SELECT count(DISTINCT _dbmazz_commit_lsn), count(DISTINCT _dbmazz_xid), count(DISTINCT _dbmazz_commit_ts), "
        "bool_and(_dbmazz_synced_at >= _dbmazz_commit_ts - INTERVAL 5 seconds) FROM public.t "
        "WHERE _dbmazz_op <> 'snapshot'"
    )
    assert positions == [(2, 2, 2, True)]
    assert history.rows(
        "SELECT _dbmazz_commit_lsn = snapshot_lsn, _dbmazz_commit_ts, _dbmazz_xid FROM public.t, _dbmazz.tables "
        "WHERE _dbmazz_op = 'snapshot'"
    ) == [(True, None, None)]


@pytest.mark.parametrize(
    ("change", "update"),
    [
        ("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (code)", "UPDATE t SET id = id + 100"),
        ("ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key", "UPDATE t SET id = id + 100"),
        ("ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t REPLICA IDENTITY FULL", "UPDATE t SET id = 7"),
    ],
    ids=["another primary key", "another identity", "another key under FULL"],
)
@pytest.mark.parametrize("seen", [True, variant(False)], ids=["rows behind it", "no row behind it"])
def test_with_another_key_it_begins_anew(history: Lab, change: str, update: str, seen: bool) -> None:
    """An update that leaves its key alone says nothing of the row before: without knowing the key of then, which of
    the rows it changed could not be told."""
    history.execute("CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL CONSTRAINT t_code_key UNIQUE, n int)")
    history.execute("INSERT INTO t SELECT i, i, i FROM generate_series(1, 3) i")
    history.capture_and_compare("t")
    history.transactions("UPDATE t SET code = code + 10", change, *([update] if seen else []))
    assert "has its rows found by" in history.capture_and_compare("t").copy_anew[history.ref("t")]
    history.transactions(update, "DELETE FROM t WHERE code = 12", "INSERT INTO t VALUES (12, 12, 12)")
    assert not history.capture_and_compare("t").copy_anew
    history.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    history.execute("UPDATE t SET n = 0")
    # The key is the primary key's again where it was that of another index.
    assert bool(history.capture_and_compare("t").copy_anew) == ("USING INDEX" in change)
    history.execute("UPDATE t SET n = 1")
    assert not history.capture_and_compare("t").copy_anew


@pytest.mark.parametrize(
    ("change", "unchanged", "known"),
    [
        ('{0} big TO "it\'s"; {0} id TO key', ["it's"], ["key"]),
        ("{0} id TO x; {0} big TO id; {0} x TO big", ["id"], ["big"]),
        ("ALTER TABLE t DROP n; {0} big TO n", ["n"], ["id"]),
    ],
    ids=["renamed", "exchanged", "in another one's place"],
)
def test_columns_that_are_renamed_are_so_in_lists_too(
    history: Lab, change: str, unchanged: list[str], known: list[str]
) -> None:
    history.execute(f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t VALUES (1, 1, {toast('x')})")
    history.capture()
    history.transactions("UPDATE t SET n = 2", "UPDATE t SET id = 2")
    history.capture()
    history.execute(change.format("ALTER TABLE t RENAME"))
    assert not history.capture_and_compare("t").copy_anew
    last = "SELECT _dbmazz_unchanged, _dbmazz_known_old FROM public.t ORDER BY _dbmazz_commit_lsn DESC LIMIT 1"
    assert history.rows(last) == [(unchanged, known)]


@pytest.mark.each_value
@pytest.mark.parametrize("key", ["PRIMARY KEY", ""], ids=["with a key", "without"])
@pytest.mark.parametrize("default", [5, None])
def test_a_new_column_is_in_the_rows_before_and_after_that_there_are(
    history: Lab, key: str, default: int | None
) -> None:
    history.execute(f"CREATE TABLE t (id int {key}, v int); ALTER TABLE t REPLICA IDENTITY FULL")
    history.execute("INSERT INTO t VALUES (1, 1), (2, 2), (2 + 1, 3)")
    history.capture()
    history.transactions("UPDATE t SET v = 9 WHERE id = 1; DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (4, 4)")
    history.capture()
    history.execute(f"ALTER TABLE t ADD COLUMN n int{'' if default is None else f' DEFAULT {default}'}")
    assert not history.capture_and_compare("t").copy_anew
    found = history.rows(
        "SELECT _dbmazz_op, n, _dbmazz_old_n, _dbmazz_known_old FROM public.t WHERE _dbmazz_op <> 'snapshot' "
        "ORDER BY _dbmazz_ordinal"
    )
    names = ["id", "v", "n"]
    assert found == [
        ("update", default, default, names),
        ("delete", None, default, names),
        ("insert", default, None, []),
    ]
    history.transactions("UPDATE t SET v = 8, n = 7 WHERE id = 1", "DELETE FROM t WHERE id = 3")
    history.capture_and_compare("t")


def test_under_replica_identity_full_the_row_before_is_whole(history: Lab) -> None:
    history.execute("CREATE TABLE t (id int PRIMARY KEY, d date, big text); ALTER TABLE t REPLICA IDENTITY FULL")
    history.execute(f"INSERT INTO t VALUES (1, '0044-03-15 BC', {toast(1)})")
    history.capture()
    history.transactions("UPDATE t SET d = 'infinity'", "DELETE FROM t")
    history.capture()
    rows = history.rows(
        "SELECT _dbmazz_op, d::VARCHAR, big = first(big) OVER (), _dbmazz_old_d::VARCHAR, _dbmazz_known_old, "
        f"_dbmazz_unchanged FROM public.t {IN_ORDER}"
    )
    assert rows == [
        ("snapshot", "0044-03-15 (BC)", True, None, [], []),
        ("update", "infinity", True, "0044-03-15 (BC)", ["id", "d", "big"], []),
        ("delete", None, None, "infinity", ["id", "d", "big"], []),
    ]


def test_an_unchanged_value_that_was_not_sent_is_named(history: Lab) -> None:
    history.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text);"
        f"INSERT INTO t VALUES (1, 0, {toast('a')}, {toast('b')}), (2, 0, NULL, {toast('b')})"
    )
    history.capture()
    history.transactions("UPDATE t SET n = 1", "UPDATE t SET a = NULL WHERE id = 1", "UPDATE t SET id = 3 WHERE id = 1")
    history.capture_and_compare("t")
    assert history.rows(
        f"SELECT id, a IS NULL, b IS NULL, _dbmazz_unchanged FROM public.t WHERE _dbmazz_op = 'update' {IN_ORDER}"
    ) == [
        (1, True, True, ["a", "b"]),
        (2, True, True, ["b"]),
        (1, True, True, ["b"]),
        (3, True, True, ["b"]),
    ]


@BOTH
def test_copied_again_the_history_goes_on(history: Lab, identity: str) -> None:
    history.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'); CREATE TABLE bag (x int); INSERT INTO bag VALUES (1), (1), (NULL)"
    )
    history.capture()
    history.transactions("UPDATE t SET v = 'c' WHERE id = 1; DELETE FROM bag WHERE x IS NULL")
    history.capture_and_compare("t", "bag")
    before = history.rows(f"SELECT * FROM public.t {IN_ORDER}")
    history.transactions("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (3, 'unseen'); INSERT INTO bag VALUES (2)")
    history.pipeline.snapshot([history.ref("t"), history.ref("bag")])
    history.assert_equal("t", "bag")
    rows = history.rows(f"SELECT * FROM public.t {IN_ORDER}")
    assert rows[: len(before)] == before
    assert [(row[0], row[4]) for row in rows[len(before) :]] == [("truncate", -1), ("snapshot", 0), ("snapshot", 0)]
    history.transactions("UPDATE t SET id = 4 WHERE id = 3; UPDATE bag SET x = 5")
    history.capture_and_compare("t", "bag")
    history.pipeline.snapshot()
    history.capture_and_compare("t", "bag")


def test_copied_again_with_other_columns_the_history_is_carried_over(history: Lab) -> None:
    history.execute(
        "CREATE TABLE t (id int PRIMARY KEY, gone int, v text); INSERT INTO t VALUES (1, 1, '7'), (2, 2, 'x')"
    )
    history.capture()
    history.transactions("DELETE FROM t WHERE id = 2")
    history.capture()
    history.execute(
        "ALTER TABLE t DROP COLUMN gone; ALTER TABLE t ALTER v TYPE int USING v::int;"
        "ALTER TABLE t ADD more int DEFAULT 5"
    )
    history.pipeline.snapshot([history.ref("t")])
    history.assert_equal("t")
    assert history.rows(f"SELECT _dbmazz_op, id, _dbmazz_old_id, v, more FROM public.t {IN_ORDER}") == [
        ("snapshot", 1, None, 7, None),
        ("snapshot", 2, None, None, None),
        ("delete", None, 2, None, None),
        ("truncate", None, None, None, None),
        ("snapshot", 1, None, 7, 5),
    ]


def test_a_copy_from_before_the_history_sets_the_history_aside(history: Lab) -> None:
    """A server that was restored from a backup, and another server, have lower LSNs."""
    history.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    history.capture()
    for number in (1, 2):
        with duckdb.connect(str(history.path)) as destination:
            destination.execute("UPDATE public.t SET _dbmazz_commit_lsn = 1152921504606846976")
        before = history.rows("FROM public.t")
        history.pipeline.snapshot([history.ref("t")])
        history.capture_and_compare("t")
        assert history.rows(f"FROM public.t_before_{number}") == before
    details = history.rows("SELECT detail FROM _dbmazz.schema_history WHERE kind = 'new_history'")
    assert ["public.t_before_1" in details[0][0], "public.t_before_2" in details[1][0]] == [True, True]


def test_a_transaction_too_large_for_memory_is_appended_as_a_whole(history: Lab) -> None:
    history.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    history.capture()
    history = history.configured(flush=FlushConfig(max_bytes=1_000_000))
    history.execute(
        "INSERT INTO t SELECT i, repeat('x', 300) FROM generate_series(1, 30000) i; UPDATE t SET v = 'y' WHERE id <= 5;"
        "TRUNCATE t; INSERT INTO t SELECT i FROM generate_series(1, 3) i"
    )
    result = history.capture_and_compare("t")
    assert (result.flushes, result.changes) == (1, 30008)
    assert history.rows(
        "SELECT count(*), count(DISTINCT _dbmazz_ordinal), max(_dbmazz_ordinal), count(DISTINCT _dbmazz_synced_at) "
        "FROM public.t"
    ) == [(30009, 30009, 30009, 1)]


def test_names_that_meet_those_of_the_changelog(history: Lab) -> None:
    """A column `known` has its row before in `_dbmazz_old_known`."""
    history.execute('CREATE TABLE t (known int PRIMARY KEY, "old" text, "Op ""x""" int, unchanged text)')
    history.execute("ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'a', 1, 'b')")
    history.capture()
    history.transactions(
        'UPDATE t SET known = 2, "Op ""x""" = 3', "DELETE FROM t", "INSERT INTO t VALUES (5, NULL, 1, '')"
    )
    history.capture_and_compare("t")
    assert history.rows("SELECT _dbmazz_old_known FROM public.t WHERE _dbmazz_op = 'delete'") == [(2,)]


def test_without_a_snapshot_the_history_begins_with_the_first_change(history: Lab) -> None:
    history.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    history = history.configured(snapshot=SnapshotConfig(enabled=False))
    history.capture()
    history.execute("DELETE FROM t; INSERT INTO t VALUES (2)")
    history.capture()
    assert history.rows(f"SELECT _dbmazz_op, id, _dbmazz_old_id FROM public.t {IN_ORDER}") == [
        ("delete", None, 1),
        ("insert", 2, None),
    ]


def test_a_value_that_does_not_fit_is_an_error_before_and_after(history: Lab) -> None:
    """DuckDB's timestamps end earlier than PostgreSQL's."""
    history.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamp); ALTER TABLE t REPLICA IDENTITY FULL")
    history.configured(snapshot=SnapshotConfig(enabled=False)).capture()
    history.transactions("INSERT INTO t VALUES (1, '294276-12-31 23:59:59')", "DELETE FROM t")
    with history.nothing_changes("public.t"), pytest.raises(BadValue, match=r"public\.t, column at .* transaction \d+"):
        history.capture()


# -- as documented


@BOTH
def test_the_documented_view_is_the_history_and_the_present(history: Lab, identity: str) -> None:
    history.execute(
        f"CREATE TABLE orders (id int PRIMARY KEY, note text, big text);"
        f"ALTER TABLE orders REPLICA IDENTITY {identity};"
        f"INSERT INTO orders VALUES (1, 'a', {toast(1)}), (2, 'b', NULL), (3, NULL, {toast(3)})"
    )
    history.capture()
    text = (Path(__file__).parents[2] / "docs" / "modes.md").read_text()
    (view,) = re.findall(r"<!-- history -->\n```sql\n(.*?)```", text, re.DOTALL)
    with duckdb.connect(str(history.path)) as destination:
        destination.execute(view)

    def compare() -> None:
        history.capture()
        extra = ("valid_from", "valid_to", "is_current")
        assert_equal(
            history.database, history.path, "public.orders", as_table="orders_history", where="is_current", ignore=extra
        )

    compare()
    history.transactions(
        "UPDATE orders SET note = 'x' WHERE id < 3",
        "UPDATE orders SET big = NULL WHERE id = 1; UPDATE orders SET note = 'y' WHERE id = 1",
        "UPDATE orders SET id = 5 WHERE id = 2; INSERT INTO orders VALUES (2, 'again', 'small')",
        "DELETE FROM orders WHERE id = 5; INSERT INTO orders VALUES (6, '', '')",
    )
    compare()
    states = history.rows(
        "SELECT note, is_current, valid_from < valid_to FROM orders_history WHERE id = 1 ORDER BY valid_from"
    )
    assert states == [("x", False, True), ("x", False, False), ("y", True, None), ("a", False, None)]
    history.transactions(
        "TRUNCATE orders; INSERT INTO orders VALUES (1, 'new', '')", "UPDATE orders SET note = 'newer'"
    )
    compare()
    history.pipeline.snapshot([history.ref("orders")])
    compare()
    history.transactions("DELETE FROM orders")
    compare()
