"""One story, and the tables that several begin with."""

from __future__ import annotations

from dataclasses import dataclass


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


T = "CREATE TABLE t (id int PRIMARY KEY, c int); INSERT INTO t VALUES (1, 10), (2, 20)"
FOUR = "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); INSERT INTO t VALUES (1, 10, 20, 30), (2, 1, 2, 3)"
MOODS = (
    "CREATE TYPE mood AS ENUM ('a', 'b'); CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'a')"
)
PAIRS = (
    "CREATE TYPE pair AS (x int, y int); CREATE TABLE t (id int PRIMARY KEY, p pair);"
    "INSERT INTO t VALUES (1, ROW(1, 2)), (2, ROW(3, 4))"
)
ROOTS = (
    "CREATE TABLE ev (id int, d int, PRIMARY KEY (id, d)) PARTITION BY LIST (d);"
    "CREATE TABLE p PARTITION OF ev FOR VALUES IN (1); INSERT INTO ev VALUES (1, 1);"
    "CREATE TABLE arch (id int, d int, PRIMARY KEY (id, d)) PARTITION BY LIST (d)"
)
