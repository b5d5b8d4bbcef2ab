"""Benchmark of the snapshot: `COPY ... (FORMAT binary)` to /dev/null against `dbmazz snapshot`."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg

from benchmarks.process import Run, run
from benchmarks.rounds import dbmazz
from benchmarks.workloads.orders import COLUMNS, ROWS
from dbmazz_core.demo.compare import compare
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.table_ref import TableRef

_TABLE = TableRef("public", "history")


def measure_snapshots(
    server: EmbeddedPostgres, directory: Path, rows: int, connections: Sequence[int], *, rounds: int
) -> list[dict[str, float | list[str]]]:
    """Measure both with some numbers of connections, in turn.

    Args:
        server: Server on which the table is created.
        directory: Directory for the DuckDB files.
        rows: Number of rows.
        connections: Numbers of connections.
        rounds: Rounds of each.

    Returns:
        By number of connections: medians of the seconds of both, of their ratio, of the CPU seconds and the peak memory
        in MiB of `dbmazz snapshot`, and the differences of the last destination from the source, one sentence each.
    """
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE {_TABLE.sql} ({COLUMNS})".encode())
        connection.execute(f"INSERT INTO {_TABLE.sql} {ROWS.format(first=1, last=rows)}".encode())
        connection.execute(f"VACUUM ANALYZE {_TABLE.sql}".encode())
    measured: dict[int, list[tuple[float, Run]]] = {count: [] for count in connections}
    differences: dict[int, list[str]] = {}
    for number in range(rounds if rows else 0):
        for count in connections:
            limit_s = _copy_to_nowhere(server, count)
            slot = f"copy_{count}_{number}"
            file = directory / f"{slot}.duckdb"
            measured[count].append((limit_s, _snapshot(server, slot, file, count)))
            if number == rounds - 1:
                differences[count] = [d for table in compare(server.url(), file, [_TABLE]) for d in table.differences]
            file.unlink()
            with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    return [
        {
            "rows": rows,
            "connections": count,
            "limit_s": statistics.median(limit_s for limit_s, _ in runs),
            "snapshot_s": statistics.median(copied.wall_s for _, copied in runs),
            "ratio": statistics.median(limit_s / copied.wall_s for limit_s, copied in runs),
            "cpu_s": statistics.median(copied.cpu_s for _, copied in runs),
            "peak_mb": statistics.median(copied.peak_mb for _, copied in runs),
            "differences": differences[count],
        }
        for count, runs in measured.items()
        if runs
    ]


def _copy_to_nowhere(server: EmbeddedPostgres, connections: int) -> float:
    """Copy the table with psql, a part of its pages over each connection at the same time; return seconds."""
    with psycopg.connect(server.url(socket=True)) as connection:
        row = connection.execute("SELECT pg_relation_size(%s) / 8192 + 1", [_TABLE.sql]).fetchone()
    pages = int(row[0]) if row else 1
    edges = [pages * part // connections for part in range(connections + 1)]
    parts = itertools.pairwise(edges)
    psql = [str(server.bin("psql")), server.url(socket=True), "-qc"]
    copies = [
        rf"\copy (SELECT * FROM {_TABLE.sql} WHERE ctid >= '({first},0)' AND ctid < '({last},0)') "
        r"to '/dev/null' (format binary)"
        for first, last in parts
    ]
    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(partial(run, env=server.environment), [[*psql, copy] for copy in copies]))
    return time.perf_counter() - started


def _snapshot(server: EmbeddedPostgres, slot: str, file: Path, connections: int) -> Run:
    return run(
        dbmazz("snapshot", "--json"),
        os.environ
        | {
            "SOURCE_URL": server.url(socket=True),
            "TABLES": str(_TABLE),
            "SOURCE_SLOT_NAME": slot,
            "SOURCE_PUBLICATION_NAME": "bench_copy",
            "SINK_URL": str(file),
            "SNAPSHOT_PARALLEL_WORKERS": str(connections),
        },
    )
