"""Types of the user's own: labels, attributes, names."""

from __future__ import annotations

from tests.pipeline.stories.story import MOODS, PAIRS, Story, T

TYPES = {
    "a label renamed and renamed back": Story(
        MOODS,
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
        MOODS,
        (
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
            "INSERT INTO t VALUES (2, 'a'), (3, 'b')",
            "ALTER TYPE mood RENAME VALUE 'a' TO 'x'; ALTER TYPE mood RENAME VALUE 'b' TO 'a';"
            "ALTER TYPE mood RENAME VALUE 'x' TO 'b'",
        ),
    ),
    "a new label, used, renamed": Story(
        MOODS,
        (
            "ALTER TYPE mood ADD VALUE 'c'",
            "INSERT INTO t VALUES (2, 'c')",
            "ALTER TYPE mood RENAME VALUE 'c' TO 'd'",
        ),
    ),
    "two new labels, used, exchanged": Story(
        MOODS,
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
        PAIRS,
        (
            "ALTER TYPE pair ADD ATTRIBUTE z int",
            "INSERT INTO t VALUES (3, ROW(1, 2, 3))",
            "ALTER TYPE pair DROP ATTRIBUTE z",
        ),
    ),
    "an attribute dropped and another one added": Story(
        PAIRS,
        (
            "ALTER TYPE pair DROP ATTRIBUTE y",
            "INSERT INTO t VALUES (3, ROW(1))",
            "ALTER TYPE pair ADD ATTRIBUTE y int",
        ),
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
        T, ("CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TABLE t ADD m mood DEFAULT 'b'", "UPDATE t SET m = 'a'")
    ),
    "a label and its values": Story(
        MOODS, ("ALTER TYPE mood ADD VALUE 'c' BEFORE 'b'", "INSERT INTO t VALUES (2, 'c'), (3, 'b')")
    ),
}
