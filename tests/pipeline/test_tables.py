"""A table's life: copied at first, added later, copied again, left out for a while, changed in the stream."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import duckdb
import pytest

from dbmazz_core.errors import DestinationConflict, UnknownValue
from dbmazz_core.settings.config import SnapshotConfig
from tests.support.lab import Lab, toast

SHOP = (
    "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, n int, big text);"
    "CREATE TABLE bag (x int); ALTER TABLE bag REPLICA IDENTITY FULL;"
    "INSERT INTO a SELECT i, 'a' || i FROM generate_series(1, 2000) i;"
    f"INSERT INTO b SELECT i, i, v FROM generate_series(1, 500) i, {toast('b')} v(v);"
    "INSERT INTO bag SELECT i % 7 FROM generate_series(1, 300) i"
)
ALL = ("a", "b", "bag")


@contextmanager
def traffic(lab: Lab) -> Iterator[None]:
    """Writes to all tables as long as it lasts."""
    done = threading.Event()

    def write() -> None:
        with lab.database.connect() as connection:
            n = 0
            while not done.is_set():
                n += 1
                connection.execute(
                    f"BEGIN; INSERT INTO a VALUES ({10_000 + n}, 'new');"
                    f"UPDATE a SET v = v || {n} WHERE id % 97 = {n % 97};"
                    f"UPDATE b SET n = n + 1 WHERE id % 50 = {n % 50};"
                    f"UPDATE b SET id = -id WHERE id = {n}; DELETE FROM a WHERE id = {n};"
                    f"INSERT INTO bag VALUES ({n % 7});"
                    f"DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE x = {n % 5}); COMMIT".encode()
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def converge(lab: Lab, *tables: str) -> None:
    lab.capture()
    lab.assert_equal(*tables)


# -- copying


def test_tables_are_copied_while_they_are_written_to(lab: Lab) -> None:
    lab.execute(SHOP)
    chunks = SnapshotConfig(chunk_size=100, parallel_workers=2)
    with traffic(lab):
        first = lab.configured(snapshot=chunks).capture()
        lab.capture()
    assert first.tables[lab.ref("b")].snapshot_rows == 500
    converge(lab, *ALL)


def test_a_table_is_copied_again_while_changes_flow(lab: Lab) -> None:
    lab.execute(SHOP)
    lab.capture()
    with traffic(lab):
        lab.capture()
        before = lab.checkpoint
        result = lab.pipeline.snapshot([lab.ref("b")])
        assert (set(result.rows), result.rows[lab.ref("b")], lab.checkpoint) == ({lab.ref("b")}, 500, before)
        lab.capture()
        copied = lab.capture(resnapshot=[lab.ref("bag")])
        assert copied.tables[lab.ref("bag")].snapshot_rows is not None
        assert copied.tables[lab.ref("a")].snapshot_rows is None
    converge(lab, *ALL)


def test_all_tables_are_copied_again(lab: Lab) -> None:
    lab.execute(SHOP)
    lab.capture()
    with traffic(lab):
        lab.capture()
        lab.pipeline.snapshot()
        lab.capture()
    converge(lab, *ALL)


def test_copying_again_leaves_no_ghosts(lab: Lab) -> None:
    """spiceai/docs#2089."""
    lab.execute(SHOP)
    lab.capture()
    lab.execute("DELETE FROM a WHERE id > 10")
    lab.pipeline.snapshot([lab.ref("a")])
    lab.assert_equal("a")
    lab.capture_and_compare(*ALL)


def test_a_copy_that_breaks_leaves_the_old_rows(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t SELECT i, i FROM generate_series(1, 9) i")
    lab.capture()
    before = lab.rows("SELECT * FROM public.t ORDER BY ALL")

    def break_it(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.pipeline.snapshot([lab.ref("t")], progress=break_it)
    assert lab.rows("SELECT * FROM public.t ORDER BY ALL") == before
    lab.execute("DELETE FROM t WHERE id = 1")
    lab.capture_and_compare("t")


def test_without_a_snapshot_tables_begin_empty(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')")
    lab = lab.configured(snapshot=SnapshotConfig(enabled=False))
    lab.capture()
    assert lab.rows("SELECT * FROM public.t") == []
    lab.transactions(
        "INSERT INTO t VALUES (4, 'new')", "UPDATE t SET v = 'seen' WHERE id = 1", "DELETE FROM t WHERE id = 2"
    )
    lab.capture()
    assert lab.rows("SELECT * FROM public.t ORDER BY id") == [(1, "seen"), (4, "new")]
    lab.execute("DELETE FROM t WHERE id = 3; UPDATE t SET id = 7 WHERE id = 1; CREATE TABLE later (id int PRIMARY KEY)")
    lab.execute("INSERT INTO later VALUES (1)")
    lab.capture()
    lab.execute("INSERT INTO later VALUES (2)")
    lab.capture_and_compare("t")
    assert lab.rows("SELECT * FROM public.later") == [(2,)]


def test_without_a_snapshot_a_value_never_seen_is_an_error(lab: Lab) -> None:
    lab.execute(f"CREATE TABLE t (id int PRIMARY KEY, n int, big text); INSERT INTO t VALUES (1, 1, {toast(1)})")
    lab = lab.configured(snapshot=SnapshotConfig(enabled=False))
    lab.capture()
    lab.execute("UPDATE t SET n = 2")
    with lab.nothing_changes("public.t"), pytest.raises(UnknownValue, match=r"public\.t"):
        lab.capture()
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")


# -- coming and going


def test_a_table_is_added_later(lab: Lab) -> None:
    lab.execute("CREATE TABLE a (id int PRIMARY KEY, v int); INSERT INTO a VALUES (1, 1)")
    lab.capture()
    lab.execute("CREATE TABLE b (id int PRIMARY KEY, v int); INSERT INTO b VALUES (1, 1); UPDATE a SET v = 2")
    result = lab.capture_and_compare("a", "b")
    assert result.tables[lab.ref("b")].snapshot_rows == 1
    lab.execute("UPDATE a SET v = 3; UPDATE b SET v = 3")
    lab.capture_and_compare("a", "b")


def test_a_table_left_out_for_a_while_is_copied_again(lab: Lab) -> None:
    """The windows in between have passed over its changes."""
    lab.execute("CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int)")
    lab.execute("INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1), (2, 2)")
    lab.capture_and_compare("a", "b")
    without = replace(lab, tables="public.a")
    lab.execute("UPDATE a SET v = 2; UPDATE b SET v = 2; DELETE FROM b WHERE id = 2")
    without.capture_and_compare("a")
    lab.execute("UPDATE a SET v = 3; INSERT INTO b VALUES (3, 3)")
    lab.capture_and_compare("a", "b")


def test_a_table_made_while_a_window_runs_waits_for_the_next(lab: Lab) -> None:
    """With a publication of all tables its changes are in the stream at once."""
    lab.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION dbmazz_pub FOR ALL TABLES")
    lab.capture()
    lab.execute("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1); INSERT INTO a VALUES (1)")
    replace(lab, tables="public.a").capture_and_compare("a")
    lab.execute("INSERT INTO b VALUES (2); UPDATE b SET id = 3 WHERE id = 1")
    lab.capture_and_compare("a", "b")


# -- names


@pytest.mark.parametrize(
    ("setup", "object"),
    [
        ('CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE "T" (id int PRIMARY KEY)', 'public.(t|"T")'),
        ('CREATE TABLE t (id int PRIMARY KEY, v int, "V" int)', 'public.t."V"'),
        ("CREATE TABLE t (id int PRIMARY KEY, _dbmazz_xid int)", "public.t._dbmazz_xid"),
        ("CREATE TABLE t (id int PRIMARY KEY, _dbmazz_count int)", "public.t._dbmazz_count"),
    ],
)
def test_names_that_duckdb_cannot_tell_apart_are_refused(lab: Lab, setup: str, object: str) -> None:
    lab.execute(setup)
    with pytest.raises(DestinationConflict) as info:
        lab.capture()
    assert re.fullmatch(object, info.value.object)


def test_a_table_of_somebody_else_is_not_replaced_whatever_its_case(lab: Lab) -> None:
    with duckdb.connect(str(lab.path)) as destination:
        destination.execute("CREATE SCHEMA public; CREATE TABLE public.Orders AS SELECT 'precious' AS v")
    lab.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    with pytest.raises(DestinationConflict, match=r'public\."Orders"'):
        lab.capture()
    assert lab.rows("SELECT * FROM public.Orders") == [("precious",)]


# -- changed in the stream


def test_a_key_that_was_added_later_is_not_believed_of_earlier_changes(lab: Lab) -> None:
    """REPLICA IDENTITY FULL does not say in the stream what the key is; the catalog knows only today's."""
    lab.execute("CREATE TABLE t (id int NOT NULL, v int); INSERT INTO t VALUES (1, 1), (1, 2)")
    lab.capture_and_compare("t")
    lab.transactions(
        "INSERT INTO t VALUES (2, 1), (2, 2), (1, 1)",
        "DELETE FROM t WHERE v = 1",
        "INSERT INTO t VALUES (1, 5); DELETE FROM t WHERE v = 5",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
        "UPDATE t SET v = v + 1",
    )
    lab.capture_and_compare("t")
    lab.transactions("UPDATE t SET id = id + 1 WHERE id = 2", "INSERT INTO t VALUES (2, 2)")
    lab.capture_and_compare("t")


def test_a_key_that_is_gone(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); ALTER TABLE t REPLICA IDENTITY FULL")
    lab.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET v = 5 WHERE id = 1", "ALTER TABLE t DROP CONSTRAINT t_pkey", "INSERT INTO t SELECT * FROM t"
    )
    lab.capture_and_compare("t")


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v int",
        "ALTER TABLE t ALTER COLUMN v TYPE int USING v * 2",
        "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v int)",
        "ALTER TABLE t RENAME TO old; ALTER TABLE u RENAME TO t",
    ],
)
def test_a_table_that_changed_but_looks_the_same_in_the_stream(lab: Lab, change: str) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)")
    lab.execute(
        "CREATE PUBLICATION dbmazz_pub FOR ALL TABLES; INSERT INTO t VALUES (1, 1); INSERT INTO u VALUES (2, 2)"
    )
    lab = replace(lab, tables="public.t")
    lab.capture_and_compare("t")
    lab.transactions(change, "INSERT INTO t VALUES (3, 3)")
    lab.capture_and_compare("t")
    lab.transactions("INSERT INTO t VALUES (4, 4)", "UPDATE t SET v = 0")
    lab.capture_and_compare("t")
