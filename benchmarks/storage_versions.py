"""Benchmark of the storage versions of a DuckDB file: what do newer ones gain over the oldest that is supported?"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import duckdb
import psycopg

from benchmarks.process import run
from benchmarks.rounds import dbmazz
from benchmarks.workloads.documents import DOCUMENTS
from benchmarks.workloads.orders import COLUMNS, ROWS
from dbmazz_core.demo.postgres import EmbeddedPostgres

_VERSIONS = ("v1.5.0", "latest")
_ROUNDS = 3
#: Reads all columns of both tables.
_READS = (
    "SELECT max(COLUMNS(*)) FROM storage.orders",
    "SELECT count(*), sum(strlen(document::VARCHAR)) FROM storage.documents",
)


def measure_storage_versions(server: EmbeddedPostgres, directory: Path, rows: int) -> list[dict[str, float | str]]:
    """Measure a copy of two tables into a new file of each version, and a query of all columns.

    Args:
        server: Server on which the tables are created.
        directory: Directory for the DuckDB files.
        rows: Rows of `orders`; of documents with 8 kB there is one for 40 of them.

    Returns:
        For each version, medians of some rounds: `version`; `copy_s` and `read_s` in seconds; `mb`, the file's size.
    """
    with psycopg.connect(server.url(socket=True)) as connection:
        connection.execute(f"CREATE SCHEMA storage; CREATE TABLE storage.orders ({COLUMNS})".encode())
        connection.execute(f"INSERT INTO storage.orders {ROWS.format(first=1, last=rows)}".encode())
        connection.execute(f"{DOCUMENTS.ddl.replace('public.documents', 'storage.documents')}".encode())
        insert = DOCUMENTS.insert.replace("public.documents", "storage.documents")
        connection.execute(insert.format(first=1, last=max(rows // 40, 1)).encode())
    rounds = [[_measure(server, directory, version, number) for version in _VERSIONS] for number in range(_ROUNDS)]
    return [
        {
            "version": version,
            **{name: statistics.median(one[place][name] for one in rounds) for name in ("copy_s", "read_s", "mb")},
        }
        for place, version in enumerate(_VERSIONS)
    ]


def _measure(server: EmbeddedPostgres, directory: Path, version: str, number: int) -> dict[str, float]:
    name = f"storage_{version.translate({ord('.'): None})}_{number}"
    path = directory / f"{name}.duckdb"
    variables = {
        "SOURCE_URL": server.url(socket=True),
        "TABLES": "storage.orders, storage.documents",
        "SOURCE_SLOT_NAME": name,
        "SINK_URL": str(path),
        "SINK_STORAGE_VERSION": version,
    }
    copied = run(dbmazz("capture", "--json"), os.environ | variables)
    started = time.perf_counter()
    with duckdb.connect(str(path), read_only=True) as connection:
        for query in _READS:
            connection.execute(query).fetchall()
    read_s = time.perf_counter() - started
    run(dbmazz("teardown", "--yes"), os.environ | variables)
    return {"copy_s": copied.wall_s, "read_s": read_s, "mb": path.stat().st_size / 1e6}
