"""Benchmark of the snapshot: `COPY ... (FORMAT binary)` to /dev/null against `dbmazz snapshot`."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from benchmarks.process import run
from benchmarks.rounds import dbmazz
from benchmarks.workloads.orders import COLUMNS, ROWS
from dbmazz_core.demo.postgres import EmbeddedPostgres


def measure_snapshot(server: EmbeddedPostgres, directory: Path, rows: int) -> dict[str, float]:
    """Measure both once, and return seconds, their ratio, and the peak memory of `dbmazz snapshot` in MiB.

    Args:
        server: Server on which the table is created.
        directory: Directory for the DuckDB file.
        rows: Number of rows.
    """
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        connection.execute(f"CREATE TABLE public.history ({COLUMNS})".encode())
        connection.execute(f"INSERT INTO public.history {ROWS.format(first=1, last=rows)}".encode())
        connection.execute("ANALYZE public.history")
    psql = [str(server.bin("psql")), server.url(socket=True), "-qc"]
    limit = run([*psql, r"\copy public.history to '/dev/null' (format binary)"], server.environment)
    copied = run(
        dbmazz("snapshot", "--json"),
        os.environ
        | {
            "SOURCE_URL": server.url(socket=True),
            "TABLES": "public.history",
            "SOURCE_SLOT_NAME": "copy",
            "SOURCE_PUBLICATION_NAME": "bench_copy",
            "SINK_URL": str(directory / "copy.duckdb"),
        },
    )
    return {
        "rows": rows,
        "limit_s": limit.wall_s,
        "snapshot_s": copied.wall_s,
        "ratio": limit.wall_s / copied.wall_s,
        "peak_mb": copied.peak_mb,
    }
