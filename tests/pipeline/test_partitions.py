"""Partitioned tables: captured as one table by their root, or partition by partition."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dbmazz_core.errors import DbmazzError, PublicationLacksTable, ReplicaIdentityInsufficient, TableNotSupported
from dbmazz_core.table_ref import TableRef
from tests.support.lab import Lab, toast
from tests.support.postgres_fixtures import SourceDatabase

R = TableRef("public", "r")

#: Two levels: r1 and r2 hold rows, and r3, which is partitioned again into r3a and r3b.
PARTITIONED = f"""
CREATE TABLE r (id int, p int, v text, big text, PRIMARY KEY (id, p)) PARTITION BY RANGE (p);
CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10);
CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (20);
CREATE TABLE r3 PARTITION OF r FOR VALUES FROM (20) TO (40) PARTITION BY RANGE (p);
CREATE TABLE r3a (v text, big text, p int NOT NULL, id int NOT NULL, PRIMARY KEY (id, p));
ALTER TABLE r3 ATTACH PARTITION r3a FOR VALUES FROM (20) TO (30);
CREATE TABLE r3b PARTITION OF r3 FOR VALUES FROM (30) TO (40);
INSERT INTO r SELECT i, i, 'x' || i, {toast("big")} || i FROM generate_series(0, 39, 3) i;
"""
ROOT = "CREATE PUBLICATION dbmazz_pub FOR TABLE r WITH (publish_via_partition_root = true)"
R4 = "CREATE TABLE r4 PARTITION OF r FOR VALUES FROM (40) TO (50)"
LEAVES = ("r1", "r2", "r3a", "r3b")

CHANGES = [
    "INSERT INTO r VALUES (1, 1, 'a', NULL), (35, 31, 'b', ''), (4, 22, 'e', 'short')",
    "UPDATE r SET p = p + 10 WHERE p < 10",  # r1 to r2
    "UPDATE r SET p = 39, v = 'moved' WHERE id = 1",  # over two levels
    "UPDATE r SET v = v || '!' WHERE p > 12",
    "UPDATE r SET id = id + 100 WHERE p BETWEEN 20 AND 35",
    "UPDATE r SET id = id + 1000, p = 39 - p WHERE id BETWEEN 100 AND 133",
    "DELETE FROM r WHERE id % 2 = 0",
    "DELETE FROM r3b WHERE id % 3 = 0; INSERT INTO r3a VALUES ('direct', NULL, 20, 77)",
    f"UPDATE r SET big = {toast('other')} WHERE p < 15",
]


@pytest.fixture
def matrix(matrix_database: SourceDatabase, duckdb_path: Path) -> Lab:
    return Lab(matrix_database, duckdb_path)


# -- the root


@pytest.mark.each_value
@pytest.mark.matrix
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("each", [True, False], ids=["a window each", "one window"])
def test_changes_of_partitions_are_those_of_the_root(matrix: Lab, identity: str, each: bool) -> None:
    matrix.execute(PARTITIONED)
    if identity == "FULL":
        matrix.execute("".join(f"ALTER TABLE {table} REPLICA IDENTITY FULL;" for table in ("r", *LEAVES)))
    matrix.capture_and_compare("r")
    for change in CHANGES:
        matrix.execute(change)
        if each:
            matrix.capture_and_compare("r")
    matrix.execute("TRUNCATE r")
    matrix.execute("INSERT INTO r VALUES (1, 1), (2, 12), (3, 23), (4, 34)")
    # Every partition has other storage now, and whether each was emptied with the root, or later, nobody can tell.
    assert matrix.capture_and_compare("r").copy_anew


#: What becomes of partitions, and whether the table has to be copied anew for it: where the stream does not say it all.
LIVES: dict[str, tuple[list[str], bool]] = {
    "one truncated": (["TRUNCATE r2"], True),
    "one truncated and filled": (["TRUNCATE r2; INSERT INTO r VALUES (500, 15)"], True),
    "a level truncated": (["TRUNCATE r3"], True),
    "one detached": (["ALTER TABLE r DETACH PARTITION r2", "INSERT INTO r2 VALUES (501, 15)"], True),
    "one detached, changed and attached again": (
        [
            "ALTER TABLE r DETACH PARTITION r2",
            "INSERT INTO r2 VALUES (501, 15); DELETE FROM r2 WHERE id = 12",
            "ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (10) TO (20)",
            "INSERT INTO r VALUES (502, 16)",
        ],
        True,
    ),
    "one dropped": (["UPDATE r SET v = 'last' WHERE p = 12", "DROP TABLE r2"], True),
    "a level dropped": (["DROP TABLE r3"], True),
    "one created": ([R4], False),
    "one created and filled": (
        [f"{R4}; INSERT INTO r VALUES (503, 41), (504, 1)"],
        True,  # it may have been truncated in between: that leaves no trace
    ),
    "one created and filled later": (
        [
            R4,
            "INSERT INTO r4 VALUES (503, 41); UPDATE r SET p = 42 WHERE p = 12",
            "UPDATE r SET id = id + 1 WHERE p = 42",
        ],
        False,
    ),
    "one created below another": (
        ["CREATE TABLE r4 PARTITION OF r FOR VALUES FROM (40) TO (50) PARTITION BY RANGE (p);"
         "CREATE TABLE r4a PARTITION OF r4 DEFAULT; INSERT INTO r VALUES (503, 41)"],
        True,
    ),
    "one created below another, and filled later": (
        ["CREATE TABLE r4 PARTITION OF r FOR VALUES FROM (40) TO (50) PARTITION BY RANGE (p);"
         "CREATE TABLE r4a PARTITION OF r4 DEFAULT", "INSERT INTO r VALUES (503, 41)"],
        False,
    ),
    "one attached with its rows": (
        [
            "CREATE TABLE r4 (LIKE r INCLUDING ALL); INSERT INTO r4 VALUES (504, 44, 'was there')",
            "ALTER TABLE r ATTACH PARTITION r4 FOR VALUES FROM (40) TO (50)",
            "INSERT INTO r VALUES (505, 45)",
        ],
        True,
    ),
    "one made, filled, attached and filled in one transaction": (
        [
            "CREATE TABLE r4 (LIKE r INCLUDING ALL); INSERT INTO r4 VALUES (504, 44, 'was there');"
            "ALTER TABLE r ATTACH PARTITION r4 FOR VALUES FROM (40) TO (50); INSERT INTO r VALUES (505, 45)",
            "INSERT INTO r VALUES (506, 46)",
        ],
        True,
    ),
    "one created, filled and truncated": (
        [R4, "INSERT INTO r4 VALUES (507, 47)", "TRUNCATE r4"],
        True,
    ),
    "one created, filled and dropped": (
        [R4, "INSERT INTO r4 VALUES (507, 47)", "DROP TABLE r4"],
        True,
    ),
    "one exchanged for another": (
        [
            "CREATE TABLE new (LIKE r INCLUDING ALL); INSERT INTO new VALUES (508, 15)",
            "ALTER TABLE r DETACH PARTITION r2; ALTER TABLE r ATTACH PARTITION new FOR VALUES FROM (10) TO (20);"
            "DROP TABLE r2; ALTER TABLE new RENAME TO r2",
        ],
        True,
    ),
    "one made unlogged, changed and made logged again": (
        ["ALTER TABLE r2 SET UNLOGGED", "INSERT INTO r VALUES (509, 16)", "ALTER TABLE r2 SET LOGGED"],
        True,
    ),
    "a column with a default that rewrites": (["ALTER TABLE r ADD COLUMN w float DEFAULT random()"], True),
    "a column without": (["ALTER TABLE r ADD COLUMN w int DEFAULT 7", "INSERT INTO r VALUES (510, 5)"], False),
}  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize("life", LIVES)
def test_what_becomes_of_partitions(matrix: Lab, life: str) -> None:
    steps, copied = LIVES[life]
    matrix = replace(matrix, tables="public.r")
    matrix.execute(PARTITIONED)
    matrix.capture_and_compare("r")
    matrix.transactions("INSERT INTO r VALUES (900, 11)", *steps, "INSERT INTO r VALUES (901, 5)")
    result = matrix.capture()
    if result.copy_anew:
        matrix.capture()
    matrix.assert_equal("r")
    assert bool(result.copy_anew) == copied
    matrix.transactions("UPDATE r SET id = id + 5000", "DELETE FROM r WHERE p % 2 = 0")
    assert not matrix.capture_and_compare("r").copy_anew


# -- replica identities of partitions


def test_a_partition_without_full_identity_under_a_root_that_has_it(lab: Lab) -> None:
    """The server says that the old row is whole, and sends NULL for all but the key: a value that is not sent again
    because it did not change is not NULL for that."""
    lab.execute(PARTITIONED)
    lab.execute("ALTER TABLE r REPLICA IDENTITY FULL; ALTER TABLE r1 REPLICA IDENTITY FULL")
    lab = replace(lab, tables="public.r")
    lab.capture_and_compare("r")
    lab.transactions(*CHANGES[:7])
    lab.capture_and_compare("r")
    lab.transactions(
        "CREATE TABLE r4 PARTITION OF r FOR VALUES FROM (40) TO (50)",
        f"INSERT INTO r VALUES (600, 40, 'x', {toast(600)}), (601, 40, 'y', {toast(601)}), (602, 40, 'z', NULL)",
    )
    lab.capture_and_compare("r")
    lab.transactions(
        "UPDATE r SET id = 700 WHERE id = 600; UPDATE r SET v = 'n' WHERE id = 601; DELETE FROM r WHERE id = 602",
        "UPDATE r SET id = id + 1 WHERE id >= 601",
    )
    assert not lab.capture_and_compare("r").copy_anew


def other_identity(lab: Lab) -> None:
    lab.execute(
        "CREATE UNIQUE INDEX r2_other ON r2 (p, v); ALTER TABLE r2 ALTER v SET NOT NULL;"
        "ALTER TABLE r2 REPLICA IDENTITY USING INDEX r2_other"
    )


def key_of_its_own(lab: Lab) -> None:
    lab.execute("CREATE TABLE r9 PARTITION OF r (PRIMARY KEY (id, p)) FOR VALUES FROM (10) TO (20)")
    lab.execute("INSERT INTO r VALUES (12, 12, 'x12'), (15, 15, 'x15')")


@pytest.mark.parametrize(
    ("setup", "change"),
    [
        (PARTITIONED, other_identity),
        ("CREATE TABLE r (id int, p int, v text) PARTITION BY RANGE (p);"
         "CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10); INSERT INTO r VALUES (3, 3, 'x'), (3, 3, 'x')",
         key_of_its_own),
    ],
    ids=["by another index", "a key where the root has none"],
)  # fmt: skip
def test_a_partition_whose_identity_says_nothing_to_the_root(
    lab: Lab, setup: str, change: Callable[[Lab], None]
) -> None:
    lab.execute(setup)
    lab = replace(lab, tables="public.r").configured(source={"replica_identity": policy("leave")})
    if "KEY" not in setup:
        lab.execute("ALTER TABLE r REPLICA IDENTITY FULL; ALTER TABLE r1 REPLICA IDENTITY FULL")
    lab.capture_and_compare("r")
    change(lab)
    lab.execute("DELETE FROM r WHERE id = 12; UPDATE r SET id = 99 WHERE id = 15; UPDATE r SET v = 'q' WHERE id = 3")
    with lab.nothing_changes("public.r"), pytest.raises(ReplicaIdentityInsufficient) as first:
        lab.capture()
    lab.execute(first.value.remedy.split(" (or ")[0])
    with lab.nothing_changes("public.r"), pytest.raises(ReplicaIdentityInsufficient) as second:
        lab.capture()
    assert "its partition public.r" in second.value.what
    statement, command = second.value.remedy.split(" then re-snapshot the table: ")
    lab.execute(statement)
    assert command == "dbmazz snapshot --tables 'public.r'"
    lab.pipeline.snapshot([R])
    lab.capture_and_compare("r")
    lab.execute("UPDATE r SET v = 'w' WHERE p BETWEEN 10 AND 20; DELETE FROM r WHERE id = 99")
    lab.capture_and_compare("r")


def policy(name: str) -> object:
    from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy

    return ReplicaIdentityPolicy(name)


@pytest.mark.parametrize(
    ("names", "key", "value"),
    [("id TO k", "k", "v"), ("id TO x; ALTER TABLE t RENAME v TO id; ALTER TABLE t RENAME x TO v", "v", "id")],
    ids=["renamed", "exchanged"],
)
def test_the_keys_name_changes_between_changes_of_two_partitions(lab: Lab, names: str, key: str, value: str) -> None:
    """What one was described by before the change is no identity that lacks the key."""
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE TABLE t2 PARTITION OF t DEFAULT;"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (1) TO (4); INSERT INTO t SELECT generate_series(1, 6)"
    )
    lab.capture_and_compare("t")
    lab.transactions(
        "UPDATE t SET v = 0 WHERE id = 1",
        f"ALTER TABLE t RENAME {names}",
        f"UPDATE t SET {value} = 1 WHERE {key} = 6",
        f"UPDATE t SET {value} = 2 WHERE {key} < 3",
    )
    lab.capture_and_compare("t")


def test_a_partition_without_any_identity_harms_no_other(lab: Lab) -> None:
    """PostgreSQL refuses its updates and deletes; setup gives it one the next time."""
    lab.execute(
        "CREATE TABLE r (id int, p int) PARTITION BY RANGE (p);"
        "CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (10); INSERT INTO r VALUES (1, 1), (1, 1), (2, 2)"
    )
    lab = replace(lab, tables="public.r")
    lab.capture_and_compare("r")
    lab.transactions(
        "CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (10) TO (20); INSERT INTO r VALUES (1, 11)",
        "UPDATE r1 SET id = 3 WHERE id = 2; DELETE FROM r1 WHERE ctid = '(0,1)'",
    )
    lab.capture_and_compare("r")
    lab.execute("UPDATE r SET id = 9")
    lab.capture_and_compare("r")


def test_a_root_truncated_with_a_table_that_looks_like_its_partition(lab: Lab) -> None:
    """Both are described one behind the other, as root and partition are."""
    lab.execute(PARTITIONED)
    lab.execute("CREATE TABLE staging (id int, p int, v text, big text PRIMARY KEY)")
    lab.execute("CREATE PUBLICATION dbmazz_pub FOR ALL TABLES WITH (publish_via_partition_root = true)")
    lab = replace(lab, tables="public.r")
    lab.capture_and_compare("r")
    lab.transactions("TRUNCATE r, staging", "INSERT INTO r VALUES (1, 1), (2, 12)", "UPDATE r SET id = id + 1")
    lab.capture_and_compare("r")


# -- the leaves


@pytest.mark.matrix
def test_partitions_are_tables_of_their_own_where_they_are_named(matrix: Lab) -> None:
    matrix.execute(PARTITIONED)
    matrix.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE r")
    matrix = replace(matrix, tables=",".join(LEAVES))
    matrix.capture_and_compare(*LEAVES)
    for change in CHANGES:
        matrix.execute(change)
    matrix.execute("TRUNCATE r2, r3b; INSERT INTO r VALUES (700, 12)")
    assert not matrix.capture_and_compare(*LEAVES).copy_anew
    matrix.execute("TRUNCATE r; INSERT INTO r VALUES (1, 1), (2, 12), (3, 23), (4, 34)")
    assert not matrix.capture_and_compare(*LEAVES).copy_anew


@pytest.mark.matrix
def test_a_partition_that_is_detached_for_a_while_is_copied_anew(matrix: Lab) -> None:
    """Published as a part of its root, it is not while it is none."""
    matrix.execute(PARTITIONED)
    matrix.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE r")
    matrix = replace(matrix, tables="r1, r2")
    matrix.capture_and_compare("r1", "r2")
    matrix.transactions(
        "ALTER TABLE r DETACH PARTITION r2",
        "INSERT INTO r2 VALUES (500, 15)",
        "ALTER TABLE r ATTACH PARTITION r2 FOR VALUES FROM (10) TO (20)",
        "INSERT INTO r2 VALUES (501, 16)",
    )
    matrix.capture()
    matrix.capture_and_compare("r1", "r2")


def test_root_and_partitions_do_not_go_together(lab: Lab) -> None:
    lab.execute(PARTITIONED)
    with pytest.raises(TableNotSupported, match=r"public\.r1 is a partition of public\.r"):
        replace(lab, tables="r, r1").capture()
    lab.execute(ROOT)
    with pytest.raises(PublicationLacksTable, match=r"partition public\.r1 as those of public\.r") as info:
        replace(lab, tables="r1").capture()
    assert "put public.r into TABLES" in info.value.remedy
    lab.execute("ALTER PUBLICATION dbmazz_pub SET (publish_via_partition_root = false)")
    with pytest.raises(PublicationLacksTable, match="under their partitions' names") as wrong:
        replace(lab, tables="r").capture()
    assert isinstance(wrong.value, DbmazzError)
    lab.execute(wrong.value.remedy)
    replace(lab, tables="r").capture_and_compare("r")


def test_a_partition_whose_concurrent_detaching_was_interrupted(lab: Lab) -> None:
    """Queries of the root leave its rows out from then on, though the catalog has it as a partition until FINALIZE."""
    lab.execute(PARTITIONED)
    lab = replace(lab, tables="r")
    lab.capture_and_compare("r")
    with closing(lab.database.connect()) as reader, closing(lab.database.connect()) as session:
        reader.execute("BEGIN; SELECT FROM r")
        session.execute("SET lock_timeout = '500ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            session.execute("ALTER TABLE r DETACH PARTITION r2 CONCURRENTLY")
    assert list(lab.capture_and_compare("r").copy_anew) == [R]
    lab.transactions("UPDATE r2 SET v = 'unseen'; DELETE FROM r2 WHERE id = 12", "UPDATE r SET v = 'seen'")
    lab.capture_and_compare("r")
    lab.execute("ALTER TABLE r DETACH PARTITION r2 FINALIZE; UPDATE r SET v = 'seen again'")
    lab.capture_and_compare("r")
