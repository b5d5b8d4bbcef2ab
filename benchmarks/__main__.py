"""`make bench`: pg_recvlogical and `dbmazz capture` over one backlog, each from its own slot, over TCP and a socket.

Each round runs both, one after the other, for both transports; the table shows medians, and the ratio of each round.
Writes docs/benchmarks.json, and the tables into docs/benchmarks.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import tempfile
from pathlib import Path

import duckdb
import polars
import psycopg

from benchmarks import stages
from benchmarks.process import Run, run
from benchmarks.workload import SERVER_SETTINGS, TABLE, Backlog, copy_source, fill
from dbmazz_core.demo.compare import compare
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.tables import TableRef

_TRANSPORTS = {"TCP": False, "Unix socket": True}
_DOCS = Path(__file__).parent.parent / "docs"
_PUBLICATION = "bench"


def main() -> int:
    """Run everything; exit code 1 if a destination differs from the source."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--changes", type=int, default=1_400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--snapshot-rows", type=int, default=2_000_000)
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.json and docs/benchmarks.md")
    arguments = parser.parse_args()
    backlog = Backlog.of(arguments.changes)
    with (
        tempfile.TemporaryDirectory(prefix="dbmazz-bench-") as directory,
        EmbeddedPostgres(settings=SERVER_SETTINGS) as server,
    ):
        report = _measure(server, Path(directory), backlog, arguments.rounds, arguments.snapshot_rows)
    text = _tables(report)
    sys.stdout.write(text)
    if arguments.write:
        (_DOCS / "benchmarks.json").write_text(json.dumps(report, indent=2) + "\n")
        page = _DOCS / "benchmarks.md"
        page.write_text(
            re.sub(r"(?s)(<!-- figures -->\n).*?(<!-- end -->)", lambda m: m[1] + text + m[2], page.read_text())
        )
    return 1 if report["differences"] else 0


def _measure(
    server: EmbeddedPostgres, directory: Path, backlog: Backlog, rounds: int, snapshot_rows: int
) -> dict[str, object]:
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        connection.execute(TABLE.encode())
        connection.execute(f"CREATE PUBLICATION {_PUBLICATION} FOR TABLE public.orders".encode())
        names = [
            f"{kind}_{t}_{r}" for r in range(rounds) for t in range(len(_TRANSPORTS)) for kind in ("limit", "capture")
        ]
        for name in [n for n in names if n.startswith("limit")] + ["stages"]:
            connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    for name in names:
        if name.startswith("capture"):  # makes its slot and copies the empty table
            _capture(server, directory, name, socket=True)
    end = fill(server, backlog)

    results: dict[str, list[dict[str, float]]] = {transport: [] for transport in _TRANSPORTS}
    for number in range(rounds):
        for place, (transport, socket) in enumerate(_TRANSPORTS.items()):
            limit = _limit(server, f"limit_{place}_{number}", end, socket=socket)
            captured = _capture(server, directory, f"capture_{place}_{number}", socket=socket)
            changes = json.loads(captured.stdout)["changes"]
            assert changes == backlog.changes, (changes, backlog)
            results[transport].append(
                {
                    "limit_s": limit.wall_s,
                    "capture_s": captured.wall_s,
                    "ratio": limit.wall_s / captured.wall_s,
                    "cpu_s": captured.cpu_s,
                    "peak_mb": captured.peak_mb,
                }
            )
    alone = run(
        [sys.executable, "-m", stages.__name__, server.url(socket=True), "stages", _PUBLICATION, end], os.environ
    )
    snapshot = _snapshot(server, directory, snapshot_rows)
    comparison = compare(server.url(), directory / "capture_1_0.duckdb", [TableRef("public", "orders")])
    return {
        "machine": _machine(server),
        "backlog": {"inserts": backlog.inserts, "updates": backlog.updates, "deletes": backlog.deletes},
        "changes": backlog.changes,
        "capture": results,
        "differences": [sentence for table in comparison for sentence in table.differences],
        "stages": json.loads(alone.stdout)["stages"],
        "snapshot": snapshot,
    }


def _limit(server: EmbeddedPostgres, slot: str, end: str, *, socket: bool) -> Run:
    command = [
        str(server.bin("pg_recvlogical")),
        "-d",
        server.url(socket=socket),
        "-S",
        slot,
        "--start",
        "-f",
        "/dev/null",
    ]
    options = ["-o", "proto_version=1", "-o", f"publication_names={_PUBLICATION}", f"--endpos={end}"]
    return run(command + options, server.environment)


def _capture(server: EmbeddedPostgres, directory: Path, slot: str, *, socket: bool) -> Run:
    return run([*_dbmazz(), "capture", "--json"], _settings(server, directory, slot, "public.orders", socket=socket))


def _snapshot(server: EmbeddedPostgres, directory: Path, rows: int) -> dict[str, float]:
    """Copying a table: `COPY ... (FORMAT binary)` to /dev/null against `dbmazz snapshot`."""
    copy_source(server, rows)
    psql = [
        str(server.bin("psql")),
        server.url(socket=True),
        "-qc",
        r"\copy public.history to '/dev/null' (format binary)",
    ]
    limit = run(psql, server.environment)
    copied = run(
        [*_dbmazz(), "snapshot", "--json"], _settings(server, directory, "copy", "public.history", socket=True)
    )
    return {
        "rows": rows,
        "limit_s": limit.wall_s,
        "snapshot_s": copied.wall_s,
        "ratio": limit.wall_s / copied.wall_s,
        "peak_mb": copied.peak_mb,
    }


def _settings(server: EmbeddedPostgres, directory: Path, slot: str, tables: str, *, socket: bool) -> dict[str, str]:
    return os.environ | {
        "SOURCE_URL": server.url(socket=socket),
        "TABLES": tables,
        "SOURCE_SLOT_NAME": slot,
        "SOURCE_PUBLICATION_NAME": _PUBLICATION if tables == "public.orders" else "bench_copy",
        "SINK_URL": str(directory / f"{slot}.duckdb"),
    }


def _dbmazz() -> list[str]:
    return [str(Path(sys.executable).with_name("dbmazz"))]


def _machine(server: EmbeddedPostgres) -> dict[str, str]:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.processor()}",
        "postgresql": server.version,
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "polars": polars.__version__,
    }


def _tables(report: dict[str, object]) -> str:
    machine, capture, alone, snapshot = (report[k] for k in ("machine", "capture", "stages", "snapshot"))
    assert isinstance(machine, dict)
    assert isinstance(capture, dict)
    assert isinstance(alone, dict)
    assert isinstance(snapshot, dict)
    changes = int(str(report["changes"]))

    def median(rows: list[dict[str, float]], key: str) -> float:
        return statistics.median(row[key] for row in rows)

    lines = [
        f"{changes:,} changes; {machine['cpu']}, PostgreSQL {machine['postgresql']}, Python {machine['python']}, "
        f"DuckDB {machine['duckdb']}, polars {machine['polars']}. Destination equal to the source: "
        f"{report['differences'] or 'yes'}.",
        "",
        "| transport | `pg_recvlogical`/s | `dbmazz capture`/s | ratio (each round) | CPU s | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for transport, rows in capture.items():
        ratios = ", ".join(f"{row['ratio']:.2f}" for row in rows)
        lines.append(
            f"| {transport} | {changes / median(rows, 'limit_s'):,.0f} | {changes / median(rows, 'capture_s'):,.0f} "
            f"| **{median(rows, 'ratio'):.2f}** ({ratios}) | {median(rows, 'cpu_s'):.1f} "
            f"| {max(row['peak_mb'] for row in rows):.0f} |"
        )
    lines += ["", "| stage, alone | wall s | CPU s | changes/s |", "|---|---|---|---|"]
    for name, stage in alone.items():
        lines.append(f"| {name} | {stage['wall_s']:.2f} | {stage['cpu_s']:.2f} | {changes / stage['wall_s']:,.0f} |")
    lines += [
        "",
        f"Snapshot of {int(snapshot['rows']):,} rows: `COPY (FORMAT binary)` to /dev/null "
        f"{snapshot['rows'] / snapshot['limit_s']:,.0f} rows/s, `dbmazz snapshot` "
        f"{snapshot['rows'] / snapshot['snapshot_s']:,.0f} rows/s (ratio {snapshot['ratio']:.2f}), "
        f"peak {snapshot['peak_mb']:.0f} MB.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
