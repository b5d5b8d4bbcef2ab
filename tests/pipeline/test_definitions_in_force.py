"""Definitions that were in force between two looks at the catalog: changed and changed back, or names that moved on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from dbmazz_core.engine.follow_schema import is_older
from tests.support.lab import Lab


@dataclass(frozen=True, slots=True)
class Story:
    """What happens to a captured table within one window.

    Attributes:
        setup: Before it is copied; several tables where `tables` says so.
        then: Transactions of the window.
        tables: What is compared.
        after: A transaction of the next window, which has to be right as well.
    """

    setup: str
    then: tuple[str, ...]
    tables: tuple[str, ...] = ("t",)
    after: str = "UPDATE t SET id = id"


_T = "CREATE TABLE t (id int PRIMARY KEY, c int); INSERT INTO t VALUES (1, 10), (2, 20)"
_FOUR = "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); INSERT INTO t VALUES (1, 10, 20, 30), (2, 1, 2, 3)"
_MOODS = (
    "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'a')"
)
_PAIRS = (
    "CREATE TYPE pair AS (x int, y int); CREATE TABLE t (id int PRIMARY KEY, p pair);"
    "INSERT INTO t VALUES (1, ROW(1, 2)), (2, ROW(3, 4))"
)
_ROOTS = (
    "CREATE TABLE ev (id int, d int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);"
    "CREATE TABLE p PARTITION OF ev FOR VALUES IN (1); INSERT INTO ev VALUES (1, 1);"
    "CREATE TABLE arch (id int, d int, PRIMARY KEY (id, d)) PARTITION BY LIST (d)"
)

COLUMNS = {
    "a migration applied, rolled back and applied again": Story(
        _T,
        (
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 103 WHERE id = 2",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int",
        ),
    ),
    "the same, with rows after it": Story(
        _T,
        (
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 103 WHERE id = 2",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 5 WHERE id = 1",
        ),
    ),
    "the same, in one transaction": Story(
        _T,
        (
            "ALTER TABLE t ADD a int; UPDATE t SET a = 103 WHERE id = 2; ALTER TABLE t DROP a; ALTER TABLE t ADD a int;"
            "UPDATE t SET c = 5 WHERE id = 1",
        ),
    ),
    "names that move on to other columns": Story(
        _FOUR,
        (
            "ALTER TABLE t RENAME a TO p",
            "ALTER TABLE t RENAME b TO q",
            "ALTER TABLE t RENAME c TO s",
            "INSERT INTO t VALUES (3, 11, 21, 31)",
            "ALTER TABLE t DROP p",
            "ALTER TABLE t RENAME q TO p",
            "ALTER TABLE t RENAME s TO q",
            "ALTER TABLE t ADD s int",
        ),
    ),
    "a renamed column's new name, then of a new column": Story(
        _T,
        (
            "ALTER TABLE t RENAME c TO p",
            "INSERT INTO t VALUES (3, 30)",
            "ALTER TABLE t DROP p",
            "ALTER TABLE t ADD p int",
        ),
    ),
    "a dropped column's name for another one, and rows before": Story(
        _FOUR,
        (
            "UPDATE t SET a = 7 WHERE id = 1",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t RENAME b TO a",
            "UPDATE t SET a = 8 WHERE id = 2",
            "ALTER TABLE t ADD b int",
            "UPDATE t SET b = 9 WHERE id = 2",
        ),
    ),
    "names exchanged, rows, and exchanged back": Story(
        _FOUR,
        (
            "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b",
            "UPDATE t SET a = 70, b = 80 WHERE id = 1",
            "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b",
            "UPDATE t SET c = 5 WHERE id = 2",
        ),
    ),
    "the key's name exchanged and exchanged back, under full identity": Story(
        "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t VALUES (1, 5), (2, 5), (3, 5)",
        (
            "ALTER TABLE t RENAME id TO x; ALTER TABLE t RENAME n TO id; ALTER TABLE t RENAME x TO n",
            "UPDATE t SET n = n + 10; DELETE FROM t WHERE n = 12",
            "ALTER TABLE t RENAME id TO x; ALTER TABLE t RENAME n TO id; ALTER TABLE t RENAME x TO n",
        ),
    ),
    "the key passes on to another column, under full identity": Story(
        "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t VALUES (1, 5), (2, 6), (3, 7)",
        (
            "ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET id = 1",
            "UPDATE t SET n = n + 10 WHERE n = 6",
            "UPDATE t SET id = n; ALTER TABLE t ADD PRIMARY KEY (id)",
        ),
    ),
    "names that go round among three columns": Story(
        _FOUR,
        (
            "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b;"
            "ALTER TABLE t RENAME x TO c",
            "UPDATE t SET a = 70, b = 80, c = 90 WHERE id = 1",
        ),
    ),
    "a column added and dropped, its rows in between": Story(
        _T,
        ("ALTER TABLE t ADD a int DEFAULT 4", "UPDATE t SET a = 103 WHERE id = 2", "ALTER TABLE t DROP a"),
    ),
    "a column with a default replaced by one with another": Story(
        _T,
        (
            "ALTER TABLE t ADD a int DEFAULT 4",
            "INSERT INTO t VALUES (3, 3)",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int DEFAULT 6",
            "INSERT INTO t VALUES (4, 4)",
        ),
    ),
    "a new column is renamed, its rows before and after": Story(
        _T,
        (
            "ALTER TABLE t ADD a int DEFAULT 4",
            "INSERT INTO t VALUES (3, 3)",
            "ALTER TABLE t RENAME a TO e",
            "INSERT INTO t VALUES (4, 4, 5)",
        ),
    ),
    "a new column takes the name of a dropped one, of another type": Story(
        _T,
        (
            "UPDATE t SET c = 11 WHERE id = 1",
            "ALTER TABLE t DROP c",
            "ALTER TABLE t ADD e text",
            "INSERT INTO t VALUES (3, 'e')",
            "ALTER TABLE t RENAME e TO c",
            "INSERT INTO t VALUES (4, 'c')",
        ),
    ),
    "a key column is replaced under its name": Story(
        _T,
        (
            "ALTER TABLE t ADD k int; UPDATE t SET k = id + 100; ALTER TABLE t DROP id;"
            "ALTER TABLE t RENAME k TO id; ALTER TABLE t ADD PRIMARY KEY (id)",
            "INSERT INTO t VALUES (30, 5)",
        ),
    ),
    "a type with another text, between two looks at a new column": Story(
        _T,
        (
            "ALTER TABLE t ADD a cidr DEFAULT '10.0.0.0/8'",
            "INSERT INTO t VALUES (3, 3, '10.1.0.0/16'), (4, 4, '10.1.2.3/32')",
            "ALTER TABLE t ALTER a TYPE inet",
            "INSERT INTO t VALUES (5, 5, '10.1.0.0/16')",
        ),
    ),
}
TYPES = {
    "a label renamed and renamed back": Story(
        _MOODS,
        (
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'",
            "INSERT INTO t VALUES (2, 'x')",
            "ALTER TYPE mood RENAME VALUE 'x' TO 'a'",
        ),
    ),
    "the same in a key": Story(
        "CREATE TYPE st AS ENUM ('a', 'b'); CREATE TABLE t (id st PRIMARY KEY, v text)",
        (
            "ALTER TYPE st RENAME VALUE 'a' TO 'x'",
            "INSERT INTO t VALUES ('x', '1')",
            "ALTER TYPE st RENAME VALUE 'x' TO 'a'",
        ),
        after="UPDATE t SET v = '2'",
    ),
    "labels exchanged and exchanged back": Story(
        _MOODS,
        (
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
            "INSERT INTO t VALUES (2, 'a'), (3, 'b')",
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
        ),
    ),
    "a new label, used, renamed": Story(
        _MOODS,
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "INSERT INTO t VALUES (2, 'c')",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'd'",
        ),
    ),
    "two new labels, used, exchanged": Story(
        _MOODS,
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "ALTER TYPE mood ADD VALUE 'd'",
            "INSERT INTO t VALUES (2, 'c'), (3, 'd')",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'x'; ALTER TYPE mood RENAME VALUE 'd' TO 'c';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'd'",
        ),
    ),
    "a new label in an array, used, renamed": Story(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, m mood[])",
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "INSERT INTO t VALUES (2, '{a,c}')",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'd'",
        ),
    ),
    "a new label within a domain, used, renamed": Story(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE DOMAIN feeling AS mood;"
        "CREATE TABLE t (id int PRIMARY KEY, m feeling)",
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "INSERT INTO t VALUES (2, 'c')",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'd'",
        ),
    ),
    "a new label within a composite, used, renamed": Story(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TYPE pair AS (x int, m mood);"
        "CREATE TABLE t (id int PRIMARY KEY, p pair)",
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "INSERT INTO t VALUES (2, ROW(1, 'c'))",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'd'",
        ),
    ),
    "labels exchanged under a new column": Story(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        (
            "ALTER TABLE t ADD m mood[]",
            "UPDATE t SET m = '{a}'",
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
        ),
    ),
    "an attribute dropped under a new column": Story(
        "CREATE TYPE pair AS (x int, y int); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        ("ALTER TABLE t ADD p pair", "UPDATE t SET p = ROW(1, 2)::pair", "ALTER TYPE pair DROP ATTRIBUTE x"),
    ),
    "an attribute added and dropped again": Story(
        _PAIRS,
        (
            "ALTER TYPE pair ADD ATTRIBUTE z int",
            "INSERT INTO t VALUES (3, ROW(1, 2, 3))",
            "ALTER TYPE pair DROP ATTRIBUTE z",
        ),
    ),
    "an attribute dropped and another one added": Story(
        _PAIRS,
        (
            "ALTER TYPE pair DROP ATTRIBUTE y",
            "INSERT INTO t VALUES (3, ROW(1))",
            "ALTER TYPE pair ADD ATTRIBUTE y int",
        ),
    ),
}
TABLES = {
    "another table had its name for a while": Story(
        _T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9)",
            "DROP TABLE t; ALTER TABLE u RENAME TO t",
        ),
    ),
    "the same, with rows of both": Story(
        _T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9); UPDATE u SET c = 5 WHERE id = 1",
            "DROP TABLE t; ALTER TABLE u RENAME TO t",
            "UPDATE t SET c = 6 WHERE id = 2",
        ),
    ),
    "another table has its name, and it has another": Story(
        _T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9); UPDATE u SET c = 5 WHERE id = 1",
        ),
        tables=("t", "u"),
    ),
    "two tables exchange their names and exchange them back": Story(
        _T + "; CREATE TABLE u (id int PRIMARY KEY, c int); INSERT INTO u VALUES (1, 100)",
        (
            "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u",
            "UPDATE t SET c = 1; UPDATE u SET c = 2",
            "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u",
        ),
        tables=("t", "u"),
    ),
}
PARTITIONS = {
    "a partition that passes through another root": Story(
        _ROOTS,
        (
            "ALTER TABLE ev DETACH PARTITION p; ALTER TABLE arch ATTACH PARTITION p FOR VALUES IN (1)",
            "INSERT INTO arch VALUES (9, 1)",
            "ALTER TABLE arch DETACH PARTITION p",
        ),
        tables=("ev", "arch"),
        after="INSERT INTO ev SELECT 1, 1 WHERE false",
    ),
    "the same, and back": Story(
        _ROOTS,
        (
            "INSERT INTO ev VALUES (2, 1)",
            "ALTER TABLE ev DETACH PARTITION p; ALTER TABLE arch ATTACH PARTITION p FOR VALUES IN (1)",
            "INSERT INTO arch VALUES (9, 1)",
            "ALTER TABLE arch DETACH PARTITION p; DELETE FROM p WHERE id = 9;"
            "ALTER TABLE ev ATTACH PARTITION p FOR VALUES IN (1)",
            "INSERT INTO ev VALUES (3, 1)",
        ),
        tables=("ev", "arch"),
        after="INSERT INTO ev VALUES (4, 1)",
    ),
    "a partition exchanged between two roots": Story(
        _ROOTS + "; CREATE TABLE q PARTITION OF arch FOR VALUES IN (1); INSERT INTO arch VALUES (5, 1)",
        (
            "ALTER TABLE ev DETACH PARTITION p; ALTER TABLE arch DETACH PARTITION q;"
            "ALTER TABLE arch ATTACH PARTITION p FOR VALUES IN (1);"
            "ALTER TABLE ev ATTACH PARTITION q FOR VALUES IN (1)",
            "INSERT INTO arch VALUES (9, 1); INSERT INTO ev VALUES (8, 1)",
        ),
        tables=("ev", "arch"),
        after="INSERT INTO ev VALUES (4, 1)",
    ),
    "a partition made, filled and truncated in one transaction": Story(
        _ROOTS,
        (
            "CREATE TABLE q PARTITION OF ev FOR VALUES IN (2); INSERT INTO ev VALUES (5, 2), (6, 2); TRUNCATE q;"
            "INSERT INTO ev VALUES (7, 2)",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 2)",
    ),
    "the same in a savepoint": Story(
        _ROOTS,
        (
            "INSERT INTO ev VALUES (4, 1); SAVEPOINT a; CREATE TABLE q PARTITION OF ev FOR VALUES IN (2);"
            "INSERT INTO ev VALUES (5, 2), (6, 2); TRUNCATE q; RELEASE SAVEPOINT a",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 2)",
    ),
    "a key's name exchanged under full identity, that of a partition by the key": Story(
        _ROOTS + "; ALTER TABLE ev ADD a int; ALTER TABLE ev REPLICA IDENTITY FULL",
        (
            "ALTER TABLE ev RENAME a TO x; ALTER TABLE ev RENAME id TO a; ALTER TABLE ev RENAME x TO id",
            "INSERT INTO ev (a, d) VALUES (2, 1); UPDATE ev SET id = 5 WHERE a = 1",
        ),
        tables=("ev",),
        after="UPDATE ev SET id = 6 WHERE a = 2",
    ),
    "a partition's name passes on": Story(
        _ROOTS,
        (
            "INSERT INTO ev VALUES (2, 1)",
            "DROP TABLE p; CREATE TABLE p PARTITION OF ev FOR VALUES IN (1)",
            "INSERT INTO ev VALUES (3, 1)",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 1)",
    ),
}
#: New types, with which nothing happened since.
IN_PLACE = {
    "a column of an enum": Story(
        "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        ("ALTER TABLE t ADD m mood DEFAULT 'b', ADD n mood[]", "UPDATE t SET m = 'a', n = '{a,b}'"),
    ),
    "a column of a composite": Story(
        "CREATE TYPE pair AS (x int, y int); CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)",
        ("ALTER TABLE t ADD p pair DEFAULT '(1,2)'", "INSERT INTO t VALUES (2, '(3,4)')"),
    ),
    "a type made with its column": Story(
        _T, ("CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TABLE t ADD m mood DEFAULT 'b'", "UPDATE t SET m = 'a'")
    ),
    "a label and its values": Story(
        _MOODS, ("ALTER TYPE mood ADD VALUE 'c' BEFORE 'b'", "INSERT INTO t VALUES (2, 'c'), (3, 'b')")
    ),
}
STORIES = IN_PLACE | COLUMNS | TYPES | TABLES | PARTITIONS


@pytest.mark.parametrize("story", STORIES)
def test_a_window_knows_every_definition_that_was_in_force(lab: Lab, story: str) -> None:
    told = STORIES[story]
    lab.execute(told.setup)
    lab.capture_and_compare(*[table for table in told.tables if f"CREATE TABLE {table} " in told.setup])
    lab.transactions(
        *(f"BEGIN; {statement}; COMMIT" if "SAVEPOINT" in statement else statement for statement in told.then)
    )
    copied = lab.capture_and_compare(*told.tables).copy_anew
    assert not (copied and story in IN_PLACE)
    lab.transactions(told.after)
    lab.capture_and_compare(*told.tables)


def test_a_frozen_catalog_is_no_change(lab: Lab) -> None:
    """Rows of the catalog are compared by their transactions, and vacuuming makes these old."""
    lab.execute(_MOODS + "; CREATE TABLE r (id int PRIMARY KEY) PARTITION BY LIST (id)")
    lab.execute("CREATE TABLE p PARTITION OF r DEFAULT")
    lab.capture_and_compare("t", "r")
    for catalog in ("pg_attribute", "pg_enum", "pg_inherits", "pg_class", "pg_type", "pg_publication"):
        lab.execute(f"VACUUM (FREEZE, FULL) pg_catalog.{catalog}")
    lab.execute("INSERT INTO t VALUES (2, 'b'); INSERT INTO r VALUES (1)")
    assert not lab.capture_and_compare("t", "r").copy_anew
    lab.transactions(
        "ALTER TYPE mood RENAME VALUE 'a' TO 'x'",
        "INSERT INTO t VALUES (3, 'x')",
        "ALTER TYPE mood RENAME VALUE 'x' TO 'a'",
    )
    assert lab.capture_and_compare("t", "r").copy_anew


@pytest.mark.parametrize(
    ("xid", "than", "older"),
    [
        (100, 200, True),
        (200, 100, False),
        (100, 100, False),
        (4_294_967_290, 5, True),  # they begin anew
        (5, 4_294_967_290, False),
        (2, 100, True),  # frozen
        (3, 2_147_483_650, True),
        (3, 2_147_483_652, False),
    ],
)
def test_transaction_ids_go_round(xid: int, than: int, older: bool) -> None:
    assert is_older(xid, than) is older
