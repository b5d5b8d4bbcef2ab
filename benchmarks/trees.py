"""Measure `dbmazz capture` of several source trees in turn: `python -m benchmarks.trees DIRECTORY DIRECTORY ...`.

All trees capture the same backlogs, each run with a copy of one slot and of one destination. The table shows medians,
and the median of the ratios to the first tree in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg

from benchmarks.process import Run, run
from benchmarks.rounds import dbmazz
from benchmarks.workloads import WORKLOADS, Workload
from benchmarks.workloads.orders import ORDERS
from benchmarks.workloads.workload import Backlog
from dbmazz_core.demo.compare import compare
from dbmazz_core.demo.postgres import EmbeddedPostgres

_TRANSPORTS = ("TCP", "Unix socket", "TLS")
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "autovacuum": "off",
}
#: Certificate and key of a server.
_TLS = Path(__file__).parents[1] / "tests" / "support" / "tls"
_SLOT, _SEED = "trees", "trees_seed"


def _renamed(workload: Workload, name: str) -> Workload:
    statements = {key: getattr(workload, key) for key in ("ddl", "insert", "update", "delete")}
    tables = {key: text.replace(str(workload.table), f"public.{name}") for key, text in statements.items()}
    return replace(workload, name=name, **tables)


#: Every change is an update that carries two whole rows.
_FULL_UPDATES = replace(_renamed(ORDERS, "full_updates"), mix=(7, 7, 0), preloaded=True)
#: A window with one change, as a process.
_ONE_CHANGE = replace(_renamed(ORDERS, "one_change"), mix=(1, 0, 0), share=0.0, preloaded=True)
_WORKLOADS = WORKLOADS | {one.name: one for one in (_FULL_UPDATES, _ONE_CHANGE)}


def main() -> None:
    """Measure all workloads over all transports, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trees", description=__doc__)
    parser.add_argument("trees", nargs="+", metavar="DIRECTORY", help="a checkout of dbmazz")
    parser.add_argument("--workloads", default="orders", help=f"comma-separated, of {','.join(_WORKLOADS)}")
    parser.add_argument("--transports", default="TCP,Unix socket", help=f"comma-separated, of {','.join(_TRANSPORTS)}")
    parser.add_argument("--changes", type=int, default=700_000, help="changes of orders; other workloads have fewer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--binaries", type=Path, help="PostgreSQL's programs; TLS needs some that were built with it")
    arguments = parser.parse_args()
    transports = arguments.transports.split(",")
    with tempfile.TemporaryDirectory(prefix="dbmazz-trees-") as name:
        directory = Path(name)
        settings = _SERVER_SETTINGS | (_tls_settings(directory) if "TLS" in transports else {})
        with EmbeddedPostgres(binaries=arguments.binaries, settings=settings) as server:
            for workload in arguments.workloads.split(","):
                trees = _Trees(server, directory, arguments.trees, _WORKLOADS[workload])
                trees.measure(transports, arguments.changes, arguments.rounds)


class _Trees:
    """The captures of one workload by several source trees."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, trees: Sequence[str], workload: Workload) -> None:
        self._server, self._workload, self._trees = server, workload, trees
        self._file, self._seed = directory / "trees.duckdb", directory / "seed.duckdb"

    def measure(self, transports: Sequence[str], changes: int, rounds: int) -> None:
        workload = self._workload
        workload.create(self._server, changes)
        with psycopg.connect(self._server.url(socket=True), autocommit=True) as connection:
            self._capture(self._trees[0], "Unix socket")  # creates the slot and copies the table
            shutil.move(self._file, self._seed)
            connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [_SLOT, _SEED])
            backlog = self._fill(connection, changes)
            for transport in transports:
                runs: dict[str, list[Run]] = {tree: [] for tree in self._trees}
                for number in range(rounds):
                    for tree in self._trees[:: -1 if number % 2 else 1]:
                        connection.execute("SELECT pg_drop_replication_slot(%s)", [_SLOT])
                        connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [_SEED, _SLOT])
                        shutil.copy(self._seed, self._file)
                        runs[tree].append(self._capture(tree, transport, backlog.changes))
                self._verify()
                self._print(transport, backlog, runs)
            for slot in (_SLOT, _SEED):
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
            workload.drop(connection)
        self._file.unlink()
        self._seed.unlink()

    def _fill(self, connection: psycopg.Connection, changes: int) -> Backlog:
        if self._workload is not _ONE_CHANGE:
            return self._workload.fill(self._server, changes)
        connection.execute(self._workload.update.format(first=1, last=1).encode())
        return Backlog(0, 1, 0, end="")

    def _capture(self, tree: str, transport: str, changes: int = 0) -> Run:
        url = self._server.url(socket=transport == "Unix socket")
        mode = "require" if transport == "TLS" else "disable"
        done = run(
            dbmazz("capture", "--json"),
            os.environ
            | {
                "PYTHONPATH": str(Path(tree).resolve()),
                "PYTHONSAFEPATH": "1",
                "SOURCE_URL": f"{url}{'&' if '?' in url else '?'}sslmode={mode}",
                "TABLES": str(self._workload.table),
                "SOURCE_SLOT_NAME": _SLOT,
                "SOURCE_PUBLICATION_NAME": self._workload.publication,
                "SINK_URL": str(self._file),
                "REPLICA_IDENTITY": "leave",
            },
        )
        if (applied := json.loads(done.stdout)["changes"]) != changes:
            raise RuntimeError(f"{tree}: {applied} changes were applied instead of {changes}")
        return done

    def _verify(self) -> None:
        for table in compare(self._server.url(), self._file, [self._workload.table]):
            if table.differences:
                raise RuntimeError("; ".join(table.differences))

    def _print(self, transport: str, backlog: Backlog, runs: Mapping[str, Sequence[Run]]) -> None:
        first = runs[self._trees[0]]
        for tree, own in runs.items():
            wall = statistics.median(one.wall_s for one in own)
            ratios = [one.wall_s / other.wall_s for one, other in zip(first, own, strict=True)]
            cpu = statistics.median(one.cpu_s / other.cpu_s for one, other in zip(own, first, strict=True))
            sys.stdout.write(
                f"| {self._workload.name} | {transport} | {tree} | {wall:.2f} (least {min(o.wall_s for o in own):.2f}) "
                f"| {backlog.changes / wall:,.0f} | {statistics.median(ratios):.2f} "
                f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}) "
                f"| {statistics.median(one.cpu_s for one in own):.2f} | {cpu:.2f} "
                f"| {statistics.median(one.peak_mb for one in own):.0f} |\n"
            )
            sys.stdout.flush()


def _tls_settings(directory: Path) -> dict[str, str]:
    directory.chmod(0o755)
    certificate, key = (shutil.copy(_TLS / name, directory / name) for name in ("server.crt", "server.key"))
    key.chmod(0o600)
    if os.geteuid() == 0:  # PostgreSQL takes a key of root's that its own group may read
        key.chmod(0o640)
        names = {entry.pw_name for entry in pwd.getpwall()}
        shutil.chown(key, 0, pwd.getpwnam("postgres" if "postgres" in names else "nobody").pw_gid)
    return {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}


if __name__ == "__main__":
    main()
