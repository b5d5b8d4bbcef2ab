"""What has bitten change-data-capture systems inside one batch: each case as one window, judged by the oracle.

Every scenario runs as a whole in the stream (one flush), and again with a flush after every transaction, so that the
same changes meet an empty batch and a filled destination.
"""

from __future__ import annotations

import duckdb
import pytest

from dbmazz_core.errors import UnknownValue
from tests.support.lab import BIG_TABLE, BOTH, Lab, run, toast

# -- one key, many changes


@BOTH
def test_insert_update_delete_insert_of_one_key(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'old'), (2, 'old'), (3, 'old')",
        "BEGIN; INSERT INTO t VALUES (9, 'a'); UPDATE t SET v = 'b' WHERE id = 9; DELETE FROM t WHERE id = 9;"
        "INSERT INTO t VALUES (9, 'c'); COMMIT",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (1, 'new')",
        "UPDATE t SET v = 'newer' WHERE id = 1",
        "INSERT INTO t VALUES (8, 'gone'); DELETE FROM t WHERE id = 8",
        "UPDATE t SET v = 'x' WHERE id = 2; DELETE FROM t WHERE id = 2",
        "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (3, 'once'); DELETE FROM t WHERE id = 3",
    )


@BOTH
def test_two_rows_swap_keys_via_a_third(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'one'), (2, 'two')",
        "UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1",
    )


@BOTH
def test_a_chain_of_key_changes(trap: Lab, identity: str) -> None:
    run(
        trap,
        f"CREATE TABLE t (id int PRIMARY KEY, v text); ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 20) i",
        *(f"UPDATE t SET id = {i + 100} WHERE id = {i}" for i in range(1, 6)),
        *(f"UPDATE t SET id = {i + 99}, v = v || '!' WHERE id = {i + 100}" for i in range(1, 6)),
        "UPDATE t SET id = 1000 WHERE id = 100; DELETE FROM t WHERE id = 1000",
        "INSERT INTO t VALUES (1, 'another first'); UPDATE t SET id = 2 WHERE id = 1",
        "UPDATE t SET id = -id",
    )


def test_every_key_moves_by_one(trap: Lab) -> None:
    """Each new key is one that another row has just left."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, i FROM generate_series(1, 50) i",
        "DO $$ BEGIN FOR i IN REVERSE 50..1 LOOP UPDATE t SET id = id + 1 WHERE id = i; END LOOP; END $$",
        "INSERT INTO t VALUES (1, 'new')",
    )


# -- unchanged TOAST


@BOTH
def test_a_key_change_leaves_the_toast_value_under_the_old_key(trap: Lab, identity: str) -> None:
    run(trap, BIG_TABLE.format(identity=identity), "UPDATE t SET id = id + 10")


@BOTH
def test_a_key_moves_away_and_back_with_its_toast_value(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET id = 11, n = 5 WHERE id = 1; UPDATE t SET id = 1, n = n + 1 WHERE id = 11",
    )


@BOTH
def test_two_rows_with_toast_values_swap_keys(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET id = -1 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2; UPDATE t SET id = 2 WHERE id = -1",
    )


@BOTH
def test_a_row_moves_to_the_key_of_a_deleted_one_and_its_old_key_is_used_again(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "DELETE FROM t WHERE id = 2; UPDATE t SET id = 2 WHERE id = 1; INSERT INTO t VALUES (1, 9, 'new')",
        "UPDATE t SET id = 5 WHERE id = 2; UPDATE t SET n = n + 1 WHERE id = 5",
        f"UPDATE t SET id = 6, big = {toast('other')} WHERE id = 5; UPDATE t SET id = 7 WHERE id = 6",
    )


@BOTH
def test_an_unchanged_toast_value_is_in_the_destination(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        "UPDATE t SET n = n + 10",
        "UPDATE t SET n = n + 10 WHERE id < 3",
        "UPDATE t SET big = NULL WHERE id = 1; UPDATE t SET n = 0 WHERE id = 1",
        f"UPDATE t SET big = {toast('three')} WHERE id = 3; UPDATE t SET n = 0 WHERE id = 3",
        "UPDATE t SET n = 7 WHERE id = 2; DELETE FROM t WHERE id = 2",
    )


@BOTH
def test_an_unchanged_toast_value_came_earlier_in_the_batch(trap: Lab, identity: str) -> None:
    run(
        trap,
        BIG_TABLE.format(identity=identity),
        f"INSERT INTO t VALUES (9, 9, {toast('nine')}); UPDATE t SET n = 10 WHERE id = 9;"
        "UPDATE t SET id = 10 WHERE id = 9; UPDATE t SET n = 11 WHERE id = 10",
        f"DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 0, {toast('uno')}); UPDATE t SET n = 1 WHERE id = 1",
        f"UPDATE t SET big = {toast('dos')} WHERE id = 2; UPDATE t SET id = 22 WHERE id = 2;"
        "UPDATE t SET n = n + 1 WHERE id = 22",
    )


@BOTH
def test_rows_lack_different_columns_in_one_batch(trap: Lab, identity: str) -> None:
    """artie#100."""
    sets = ["n = 0", "a = '-'", "b = NULL", "c = 'x'", "a = 'y', c = NULL", "a = '', b = '', c = ''", "id = id + 100"]
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text, c text);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        f"INSERT INTO t SELECT i, i, a.v || i, b.v || i, c.v || i FROM generate_series(1, 49) i,"
        f"{toast('a')} AS a(v), {toast('b')} AS b(v), {toast('c')} AS c(v)",
        *(f"UPDATE t SET {set_} WHERE id % 7 = {i}" for i, set_ in enumerate(sets)),
        *(f"UPDATE t SET {set_} WHERE id / 7 = {i}" for i, set_ in enumerate(sets)),
    )


def test_a_toasted_key(trap: Lab) -> None:
    """The old key comes whenever a key column is stored out of line, and the new one is not sent."""
    run(
        trap,
        "CREATE TABLE t (id text PRIMARY KEY, v int); ALTER TABLE t ALTER id SET STORAGE EXTERNAL;"
        "INSERT INTO t SELECT repeat(i::text, 2500), i FROM generate_series(1, 3) i",
        "UPDATE t SET v = v + 10 WHERE v < 3",
        "UPDATE t SET id = repeat('x', 2500) WHERE v = 11; UPDATE t SET v = 5 WHERE v = 11",
        "DELETE FROM t WHERE v = 12",
    )


def test_an_unchanged_toast_value_that_nobody_knows_is_an_error_and_changes_nothing(lab: Lab) -> None:
    lab.execute(BIG_TABLE.format(identity="DEFAULT"))
    lab.capture()
    with duckdb.connect(str(lab.path)) as destination:
        destination.execute("DELETE FROM public.t WHERE id = 2")
    lab.execute("UPDATE t SET n = 5")
    with (
        lab.nothing_changes("public.t"),
        pytest.raises(UnknownValue, match=r"public\.t: transaction [0-9]+ committed at") as info,
    ):
        lab.capture()
    assert info.value.object == "public.t"
    lab.pipeline.snapshot([lab.ref("t")])
    lab.capture_and_compare("t")


# -- other constraints


@BOTH
def test_a_unique_value_moves_between_rows(trap: Lab, identity: str) -> None:
    """PeerDB#4169."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, email text UNIQUE);"
        f"ALTER TABLE t REPLICA IDENTITY {identity};"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        "UPDATE t SET email = NULL WHERE id = 1; UPDATE t SET email = 'a' WHERE id = 3;"
        "UPDATE t SET email = 'tmp' WHERE id = 2; UPDATE t SET email = 'b' WHERE id = 1",
        "DELETE FROM t WHERE id = 3; INSERT INTO t VALUES (4, 'a')",
    )


def test_a_unique_index_as_replica_identity(trap: Lab) -> None:
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, big text);"
        f"INSERT INTO t VALUES (1, 'a', {toast(1)}), (2, 'b', {toast(2)});"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
        "UPDATE t SET id = id + 10",
        "UPDATE t SET code = 'c' WHERE code = 'a'; DELETE FROM t WHERE code = 'b'",
    )


@pytest.mark.parametrize("trap", ["one flush", "many flushes", "soft_delete"], indirect=True)
def test_the_replica_identity_changes_in_the_stream(trap: Lab) -> None:
    """Changes of one flush name their rows by different keys. A changelog does not tell which one it was."""
    run(
        trap,
        "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int, big text);"
        f"INSERT INTO t SELECT i, 'c' || i, 0, {toast('big')} || i FROM generate_series(1, 30) i",
        "UPDATE t SET n = 1 WHERE id % 2 = 0; DELETE FROM t WHERE id % 5 = 0; UPDATE t SET id = 101 WHERE id = 1",
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_code_key",
        "UPDATE t SET n = 2 WHERE id % 3 = 0; DELETE FROM t WHERE id % 4 = 0; UPDATE t SET id = 102 WHERE id = 2",
        "UPDATE t SET code = 'x' WHERE id = 3; UPDATE t SET id = 103 WHERE id = 3",
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "UPDATE t SET n = 3 WHERE id % 7 = 0; DELETE FROM t WHERE id % 11 = 0; UPDATE t SET id = 104 WHERE id = 7",
        "ALTER TABLE t REPLICA IDENTITY DEFAULT",
        "UPDATE t SET n = 4 WHERE id % 9 = 0; DELETE FROM t WHERE id % 13 = 0; UPDATE t SET id = 105 WHERE id = 9",
    )
