"""Tables and partitions: renamed, dropped, attached, elsewhere for a while."""

from __future__ import annotations

from tests.pipeline.stories.story import ROOTS, Story, T

TABLES = {
    "another table had its name for a while": Story(
        T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9)",
            "DROP TABLE t; ALTER TABLE u RENAME TO t",
        ),
    ),
    "the same, with rows of both": Story(
        T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9); UPDATE u SET c = 5 WHERE id = 1",
            "DROP TABLE t; ALTER TABLE u RENAME TO t",
            "UPDATE t SET c = 6 WHERE id = 2",
        ),
    ),
    "another table has its name, and it has another": Story(
        T,
        (
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, c int)",
            "ALTER PUBLICATION dbmazz_pub ADD TABLE t",
            "INSERT INTO t VALUES (9, 9); UPDATE u SET c = 5 WHERE id = 1",
        ),
        tables=("t", "u"),
    ),
    "two tables exchange their names and exchange them back": Story(
        T + "; CREATE TABLE u (id int PRIMARY KEY, c int); INSERT INTO u VALUES (1, 100)",
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
        ROOTS,
        (
            "ALTER TABLE ev DETACH PARTITION p; ALTER TABLE arch ATTACH PARTITION p FOR VALUES IN (1)",
            "INSERT INTO arch VALUES (9, 1)",
            "ALTER TABLE arch DETACH PARTITION p",
        ),
        tables=("ev", "arch"),
        after="INSERT INTO ev SELECT 1, 1 WHERE false",
    ),
    "the same, and back": Story(
        ROOTS,
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
        ROOTS + "; CREATE TABLE q PARTITION OF arch FOR VALUES IN (1); INSERT INTO arch VALUES (5, 1)",
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
        ROOTS,
        (
            "CREATE TABLE q PARTITION OF ev FOR VALUES IN (2); INSERT INTO ev VALUES (5, 2), (6, 2); TRUNCATE q;"
            "INSERT INTO ev VALUES (7, 2)",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 2)",
    ),
    "the same in a savepoint": Story(
        ROOTS,
        (
            "INSERT INTO ev VALUES (4, 1); SAVEPOINT a; CREATE TABLE q PARTITION OF ev FOR VALUES IN (2);"
            "INSERT INTO ev VALUES (5, 2), (6, 2); TRUNCATE q; RELEASE SAVEPOINT a",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 2)",
    ),
    "a key's name exchanged under full identity, that of a partition by the key": Story(
        ROOTS + "; ALTER TABLE ev ADD a int; ALTER TABLE ev REPLICA IDENTITY FULL",
        (
            "ALTER TABLE ev RENAME a TO x; ALTER TABLE ev RENAME id TO a; ALTER TABLE ev RENAME x TO id",
            "INSERT INTO ev (a, d) VALUES (2, 1); UPDATE ev SET id = 5 WHERE a = 1",
        ),
        tables=("ev",),
        after="UPDATE ev SET id = 6 WHERE a = 2",
    ),
    "a partition's name passes on": Story(
        ROOTS,
        (
            "INSERT INTO ev VALUES (2, 1)",
            "DROP TABLE p; CREATE TABLE p PARTITION OF ev FOR VALUES IN (1)",
            "INSERT INTO ev VALUES (3, 1)",
        ),
        tables=("ev",),
        after="INSERT INTO ev VALUES (8, 1)",
    ),
}
