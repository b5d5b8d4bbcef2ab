"""Benchmark of many small tables, and of many partitions of one: the cost of windows where little has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psycopg

from benchmarks.process import Run, run
from benchmarks.rounds import dbmazz
from dbmazz_core.demo.postgres import EmbeddedPostgres

#: Rows of each table, and of each partition.
_ROWS = 10
#: DDL statements of one transaction: each holds a lock, and the server has room for some thousands.
_STATEMENTS = 500


def measure_many_tables(server: EmbeddedPostgres, directory: Path, counts: Sequence[int]) -> list[dict[str, float]]:
    """Measure `dbmazz capture` as a process: the first one, an idle one, and one after a change in each table.

    Args:
        server: Server on which the tables are created, in a schema of their own.
        directory: Directory for the DuckDB files.
        counts: Numbers of tables.

    Returns:
        For each number: `tables`, `first_s`, `idle_s`, `changed_s` (seconds), and the largest `peak_mb` (MiB).
    """
    found = []
    for count in counts:
        schema = f"many_{count}"
        names = [f"{schema}.t{number:05}" for number in range(count)]
        _run(server, [f"CREATE SCHEMA {schema}"])
        _run(
            server,
            (
                f"CREATE TABLE {name} (id int PRIMARY KEY, n int, v text); "
                f"INSERT INTO {name} SELECT i, i, 'v' FROM generate_series(1, {_ROWS}) i"
                for name in names
            ),
        )
        first = _capture(server, directory, schema, f"{schema}.*")
        idle = _capture(server, directory, schema, f"{schema}.*")
        _run(server, (f"UPDATE {name} SET n = n + 1 WHERE id = 1" for name in names))
        changed = _capture(server, directory, schema, f"{schema}.*", changes=count)
        found.append({"tables": count, **_figures(first, idle, changed)})
    return found


def measure_partitions(server: EmbeddedPostgres, directory: Path, counts: Sequence[int]) -> list[dict[str, float]]:
    """Measure the same for a partitioned table in which each partition has changed.

    Args:
        server: Server on which the tables are created, in a schema of their own.
        directory: Directory for the DuckDB files.
        counts: Numbers of partitions.

    Returns:
        For each number: `partitions`, and figures as for `measure_many_tables`.
    """
    found = []
    for count in counts:
        schema = f"partitions_{count}"
        table = f"{schema}.events"
        _run(
            server,
            [
                f"CREATE SCHEMA {schema}",
                f"CREATE TABLE {table} (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part)",
                *(f"CREATE TABLE {table}_{n} PARTITION OF {table} FOR VALUES IN ({n})" for n in range(count)),
                f"INSERT INTO {table} SELECT i, i % {count}, 'v' FROM generate_series(1, {count * _ROWS}) i",
            ],
        )
        first = _capture(server, directory, schema, table)
        idle = _capture(server, directory, schema, table)
        _run(server, [f"UPDATE {table} SET v = 'w' WHERE id <= {count}"])
        changed = _capture(server, directory, schema, table, changes=count)
        found.append({"partitions": count, **_figures(first, idle, changed)})
    return found


def _figures(first: Run, idle: Run, changed: Run) -> dict[str, float]:
    return {
        "first_s": first.wall_s,
        "idle_s": idle.wall_s,
        "changed_s": changed.wall_s,
        "peak_mb": max(one.peak_mb for one in (first, idle, changed)),
    }


def _run(server: EmbeddedPostgres, statements: Iterator[str] | Sequence[str]) -> None:
    with psycopg.connect(server.url(socket=True)) as connection:
        for number, statement in enumerate(statements, start=1):
            connection.execute(statement.encode())
            if number % _STATEMENTS == 0:
                connection.commit()


def _capture(server: EmbeddedPostgres, directory: Path, name: str, tables: str, *, changes: int = 0) -> Run:
    """Run a window, and verify that it applied as many changes."""
    variables: Mapping[str, str] = {
        "SOURCE_URL": server.url(socket=True),
        "TABLES": tables,
        "SOURCE_SLOT_NAME": name,
        "SOURCE_PUBLICATION_NAME": name,
        "SINK_URL": str(directory / f"{name}.duckdb"),
    }
    done = run(dbmazz("capture", "--json"), os.environ | variables)
    if (applied := json.loads(done.stdout)["changes"]) != changes:
        raise RuntimeError(f"{tables}: {applied} changes were applied instead of {changes}")
    return done
