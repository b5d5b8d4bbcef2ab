"""`make bench`: measure pg_recvlogical and `dbmazz capture` on the same backlogs, each with its own slot.

A round runs both, one after the other. The tables show medians, and the ratio of each round. `--write` writes
docs/benchmarks.json, and the tables between the markers of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import polars

from benchmarks import report, stages
from benchmarks.dagster_runs import measure_dagster_runs
from benchmarks.follow import measure_follow
from benchmarks.many_tables import measure_many_tables, measure_partitions
from benchmarks.process import run
from benchmarks.rounds import Bench, Measured
from benchmarks.snapshot import measure_snapshots
from benchmarks.storage_versions import measure_storage_versions
from benchmarks.workloads import WORKLOADS, Workload
from dbmazz_core.demo.postgres import EmbeddedPostgres

_DOCS = Path(__file__).parent.parent / "docs"
#: Without durability, which would cost time in the server only: no benchmark needs crash recovery.
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "max_locks_per_transaction": "1024",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "autovacuum": "off",
}


def main() -> int:
    """Run all benchmarks; return 1 as exit code if a destination differs from its source, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--changes", type=int, default=1_400_000, help="changes of orders; other workloads have fewer")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each workload and transport")
    parser.add_argument(
        "--workloads",
        type=_chosen,
        default=list(WORKLOADS.values()),
        help=f"comma-separated, of {','.join(WORKLOADS)}; '': none",
    )
    parser.add_argument(
        "--snapshot-rows", type=int, default=4_000_000, help="rows of the snapshot; 0: no snapshot is measured"
    )
    parser.add_argument(
        "--tables", type=_numbers, default=[1, 200, 1000], help="numbers of tables of the measured windows; '': none"
    )
    parser.add_argument(
        "--partitions", type=_numbers, default=[100, 1500], help="numbers of partitions of the measured windows"
    )
    parser.add_argument(
        "--dagster-tables",
        type=_numbers,
        default=[12, 200],
        help="numbers of tables of the measured runs in Dagster; '': none",
    )
    parser.add_argument(
        "--storage-rows", type=int, default=1_000_000, help="rows for the storage versions; 0: they are not measured"
    )
    parser.add_argument(
        "--follow-seconds", type=float, default=20, help="seconds of load and of idleness under `follow`; 0: none"
    )
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.json and docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.write and len(arguments.workloads) < len(WORKLOADS):
        parser.error("--write requires all workloads")
    measured: dict[str, Measured] = {}
    alone = None
    with (
        tempfile.TemporaryDirectory(prefix="dbmazz-bench-") as name,
        EmbeddedPostgres(settings=_SERVER_SETTINGS) as server,
    ):
        directory = Path(name)
        bench = Bench(server, directory, changes=arguments.changes, rounds=arguments.rounds)
        for workload in arguments.workloads:
            extra_slot = "stages" if workload.name == "orders" else None
            measured[workload.name] = bench.measure(workload, extra_slot=extra_slot)
            if extra_slot:
                alone = _stages(server, workload, measured[workload.name].backlog.end)
        snapshots = []
        if arguments.snapshot_rows:
            snapshots = measure_snapshots(server, directory, arguments.snapshot_rows, [1, 2], rounds=arguments.rounds)
        many = measure_many_tables(server, directory, arguments.tables)
        runs = measure_dagster_runs(server, directory, arguments.dagster_tables)
        partitions = measure_partitions(server, directory, arguments.partitions)
        storage = []
        if arguments.storage_rows:
            storage = measure_storage_versions(server, directory, arguments.storage_rows)
        following = []
        if arguments.follow_seconds:
            following = measure_follow(server, directory, seconds=arguments.follow_seconds)
        machine = _machine(server)
    text = report.tables(machine, measured, alone, snapshots, many, partitions, runs, storage, following)
    sys.stdout.write(text)
    if arguments.write:
        _write(
            text,
            {
                "machine": machine,
                "workloads": {name: one.to_dict() for name, one in measured.items()},
                "stages": alone,
                "snapshots": snapshots,
                "many_tables": many,
                "partitions": partitions,
                "dagster_runs": runs,
                "storage_versions": storage,
                "follow": following,
            },
        )
    return 1 if any(one.differences for one in measured.values()) else 0


def _chosen(text: str) -> Sequence[Workload]:
    try:
        return [WORKLOADS[name.strip()] for name in text.split(",") if name]
    except KeyError as error:
        raise argparse.ArgumentTypeError(
            f"workload {error} does not exist; choose from {', '.join(WORKLOADS)}"
        ) from None


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _stages(server: EmbeddedPostgres, workload: Workload, end: str) -> Mapping[str, Mapping[str, float]]:
    command = [sys.executable, "-m", stages.__name__, server.url(socket=True), "stages", workload.publication, end]
    found: Mapping[str, Mapping[str, float]] = json.loads(run(command, os.environ).stdout)["stages"]
    return found


def _machine(server: EmbeddedPostgres) -> dict[str, str]:
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.processor()}",
        "postgresql": server.version,
        "python": platform.python_version(),
        "duckdb": duckdb.__version__,
        "polars": polars.__version__,
    }


def _write(text: str, figures: Mapping[str, object]) -> None:
    (_DOCS / "benchmarks.json").write_text(json.dumps(figures, indent=2) + "\n")
    page = _DOCS / "benchmarks.md"
    page.write_text(
        re.sub(r"(?s)(<!-- figures -->\n).*?(<!-- end -->)", lambda m: m[1] + text + m[2], page.read_text())
    )


if __name__ == "__main__":
    sys.exit(main())
