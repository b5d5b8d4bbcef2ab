"""Columns: added, dropped, renamed, retyped, and there again."""

from __future__ import annotations

from tests.pipeline.stories.story import FOUR, Story, T

COLUMNS = {
    "a migration applied, rolled back and applied again": Story(
        T,
        (
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 103 WHERE id = 2",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int",
        ),
    ),
    "the same, with rows after it": Story(
        T,
        (
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 103 WHERE id = 2",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int",
            "UPDATE t SET a = 5 WHERE id = 1",
        ),
    ),
    "the same, in one transaction": Story(
        T,
        (
            "ALTER TABLE t ADD a int; UPDATE t SET a = 103 WHERE id = 2; ALTER TABLE t DROP a; ALTER TABLE t ADD a int;"
            "UPDATE t SET c = 5 WHERE id = 1",
        ),
    ),
    "names that move on to other columns": Story(
        FOUR,
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
        T,
        (
            "ALTER TABLE t RENAME c TO p",
            "INSERT INTO t VALUES (3, 30)",
            "ALTER TABLE t DROP p",
            "ALTER TABLE t ADD p int",
        ),
    ),
    "a dropped column's name for another one, and rows before": Story(
        FOUR,
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
        FOUR,
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
        FOUR,
        (
            "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b;"
            "ALTER TABLE t RENAME x TO c",
            "UPDATE t SET a = 70, b = 80, c = 90 WHERE id = 1",
        ),
    ),
    "a column added and dropped, its rows in between": Story(
        T,
        ("ALTER TABLE t ADD a int DEFAULT 4", "UPDATE t SET a = 103 WHERE id = 2", "ALTER TABLE t DROP a"),
    ),
    "a column with a default replaced by one with another": Story(
        T,
        (
            "ALTER TABLE t ADD a int DEFAULT 4",
            "INSERT INTO t VALUES (3, 3)",
            "ALTER TABLE t DROP a",
            "ALTER TABLE t ADD a int DEFAULT 6",
            "INSERT INTO t VALUES (4, 4)",
        ),
    ),
    "a new column is renamed, its rows before and after": Story(
        T,
        (
            "ALTER TABLE t ADD a int DEFAULT 4",
            "INSERT INTO t VALUES (3, 3)",
            "ALTER TABLE t RENAME a TO e",
            "INSERT INTO t VALUES (4, 4, 5)",
        ),
    ),
    "a new column takes the name of a dropped one, of another type": Story(
        T,
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
        T,
        (
            "ALTER TABLE t ADD k int; UPDATE t SET k = id + 100; ALTER TABLE t DROP id;"
            "ALTER TABLE t RENAME k TO id; ALTER TABLE t ADD PRIMARY KEY (id)",
            "INSERT INTO t VALUES (30, 5)",
        ),
    ),
    "a type with another text, between two looks at a new column": Story(
        T,
        (
            "ALTER TABLE t ADD a cidr DEFAULT '10.0.0.0/8'",
            "INSERT INTO t VALUES (3, 3, '10.1.0.0/16'), (4, 4, '10.1.2.3/32')",
            "ALTER TABLE t ALTER a TYPE inet",
            "INSERT INTO t VALUES (5, 5, '10.1.0.0/16')",
        ),
    ),
}
