"""Benchmark of `follow`: from a commit until the DuckDB file has it, and CPU time, under a steady load and idle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.follow_status import FollowPhase, FollowStatus
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings

#: Rows of each table before the load.
_ROWS = 10_000
#: Seconds of load that are not measured.
_WARM_UP_S = 3.0
_TICKS = os.sysconf("SC_CLK_TCK")


def measure_follow(
    server: EmbeddedPostgres,
    directory: Path,
    *,
    rate: int = 1000,
    seconds: float = 20.0,
    tables: Sequence[int] = (1, 10),
    intervals_ms: Sequence[int] = (200, 50),
) -> list[dict[str, float]]:
    """Measure `Pipeline.follow` in a process of its own, while one session commits a row at a time.

    Args:
        server: Server on which the tables are created, in a schema of their own.
        directory: Directory for the DuckDB files.
        rate: Transactions a second, each an insert or an update of one row.
        seconds: Seconds of load that are measured, and of idleness.
        tables: Numbers of tables, which change in turn.
        intervals_ms: Values of `FOLLOW_INTERVAL_MS`.

    Returns:
        For each number and interval: `tables`, `interval_ms`, `rate` (transactions a second that the session reached),
        `p50_ms`, `p99_ms` (commit to visible), `flushes_s`, `cpu` and `idle_cpu` (CPU seconds of `follow` and its
        processes a second).
    """
    found = []
    for count in tables:
        schema = f"follow_{count}"
        with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
            for number in range(count):
                connection.execute(
                    f"CREATE TABLE {schema}.t{number} (id int PRIMARY KEY, n int, v text, at timestamptz);"
                    f"INSERT INTO {schema}.t{number} SELECT i, i, md5(i::text), now() "
                    f"FROM generate_series(1, {_ROWS}) i".encode()
                )
        for interval_ms in intervals_ms:
            settings = Settings.from_env(
                {
                    "SOURCE_URL": server.url(socket=True),
                    "TABLES": f"{schema}.*",
                    "SOURCE_SLOT_NAME": schema,
                    "SINK_URL": str(directory / f"{schema}.duckdb"),
                    "FOLLOW_INTERVAL_MS": str(interval_ms),
                }
            )
            figures = _measure(server, settings, schema, count, rate, seconds)
            found.append({"tables": count, "interval_ms": interval_ms, **figures})
    return found


def _measure(
    server: EmbeddedPostgres, settings: Settings, schema: str, tables: int, rate: int, seconds: float
) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_follow, args=(settings, theirs))
    process.start()
    assert process.pid is not None
    try:
        while ours.recv()[0] is not FollowPhase.STREAMING:
            pass
        time.sleep(1)
        before = _cpu_s(process.pid)
        time.sleep(seconds)
        idle_cpu = (_cpu_s(process.pid) - before) / seconds
        begin = time.time()
        begins: list[tuple[float, float]] = []

        def sample() -> None:
            time.sleep(_WARM_UP_S)
            begins.append((time.time(), _cpu_s(process.pid or 0)))

        sampler = threading.Thread(target=sample)
        sampler.start()
        committed = _load(server, schema, tables, rate, _WARM_UP_S + seconds)
        end = time.time()
        cpu_s = _cpu_s(process.pid)
        sampler.join()
        time.sleep(2)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.join(30)
        process.kill()
    flushes: list[tuple[float, float]] = []  # commit time of the last transaction, and when the file had it
    while ours.poll(0.5):
        try:
            _, commit_time, visible_at = ours.recv()
        except EOFError:
            break
        if commit_time is not None and (not flushes or commit_time > flushes[-1][0]):
            flushes.append((commit_time, visible_at))
    measured_from, cpu_before = begins[0]
    commits = [at for at in committed if at >= measured_from]
    ends = [commit_time for commit_time, _ in flushes]
    # The server's commit time is not later than the moment at which the session had its answer.
    latencies = sorted(flushes[min(bisect_left(ends, at), len(flushes) - 1)][1] - at for at in commits)
    in_time = [at for _, at in flushes if measured_from <= at <= end]
    return {
        "rate": round(len(committed) / (end - begin)),
        "p50_ms": round(1000 * statistics.median(latencies), 1),
        "p99_ms": round(1000 * latencies[int(0.99 * len(latencies))], 1),
        "flushes_s": round(len(in_time) / (end - measured_from), 1),
        "cpu": round((cpu_s - cpu_before) / (end - measured_from), 3),
        "idle_cpu": round(idle_cpu, 4),
    }


def _follow(settings: Settings, channel: Connection) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    flushes = -1

    def watch(status: FollowStatus) -> None:
        nonlocal flushes
        if status.flushes != flushes or status.phase is not FollowPhase.STREAMING:
            flushes = status.flushes
            commit_time = None if status.commit_time is None else status.commit_time.timestamp()
            channel.send((status.phase, commit_time, time.time()))
        elif not flushes:
            channel.send((status.phase, None, time.time()))

    Pipeline(replace(settings)).follow(stop=stop, watch=watch)


def _load(server: EmbeddedPostgres, schema: str, tables: int, rate: int, seconds: float) -> list[float]:
    """Commit rows at a rate; return the server's times just before each commit, as seconds since 1970."""
    committed: list[float] = []
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        statements = [
            (
                f"INSERT INTO {schema}.t{n} SELECT max(id) + 1, 0, 'new', clock_timestamp() FROM {schema}.t{n} "
                "RETURNING extract(epoch FROM at)::float8",
                f"UPDATE {schema}.t{n} SET n = n + 1, at = clock_timestamp() WHERE id = %s "
                "RETURNING extract(epoch FROM at)::float8",
            )
            for n in range(tables)
        ]
        started, number = time.monotonic(), 0
        while (elapsed := time.monotonic() - started) < seconds:
            if number > elapsed * rate:
                time.sleep(max(number / rate - elapsed, 0.0))
                continue
            insert, update = statements[number % tables]
            if number % 3:
                row = connection.execute(update.encode(), [number % _ROWS + 1], prepare=True).fetchone()
            else:
                row = connection.execute(insert.encode(), prepare=True).fetchone()
            assert row is not None
            committed.append(row[0])
            number += 1
    return committed


def _cpu_s(pid: int) -> float:
    """Return user and system time of a process and its children that run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS + sum(_cpu_s(int(child)) for child in children)
