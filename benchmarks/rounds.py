"""Measure one workload in rounds of `pg_recvlogical` and `dbmazz capture`, each with its own slot."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.process import Run, run
from benchmarks.workloads import Workload
from benchmarks.workloads.workload import Backlog
from dbmazz_core.demo.compare import compare
from dbmazz_core.demo.postgres import EmbeddedPostgres

#: Names of the transports, and whether the transport is the Unix socket.
TRANSPORTS = {"TCP": False, "Unix socket": True}


@dataclass(frozen=True, slots=True)
class Round:
    """One run of `pg_recvlogical` and one of `dbmazz capture`.

    Attributes:
        limit_s, capture_s: Seconds of `pg_recvlogical` and of `dbmazz capture`, each from the start of the process to
        its
            exit.
        cpu_s: CPU seconds of the capture.
        peak_mb: Peak memory of the capture with its child processes, in MiB.
        phases: Seconds of the capture by phase.
    """

    limit_s: float
    capture_s: float
    cpu_s: float
    peak_mb: float
    phases: dict[str, float]

    @property
    def ratio(self) -> float:
        """Speed of the capture as a fraction of the speed of `pg_recvlogical`."""
        return self.limit_s / self.capture_s


@dataclass(slots=True)
class Measured:
    """The results of one workload.

    Attributes:
        workload: The workload.
        backlog: The changes that were captured.
        bytes: Size of the replication messages.
        rounds: Rounds by transport.
        differences: Differences between the last destination and the source, one sentence each.
    """

    workload: Workload
    backlog: Backlog
    bytes: int = 0
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the results as in docs/benchmarks.json."""
        return {
            "title": self.workload.title,
            "bar": self.workload.minimum_ratio,
            "backlog": asdict(self.backlog) | {"changes": self.backlog.changes, "bytes": self.bytes},
            "rounds": {
                name: [asdict(one) | {"ratio": one.ratio} for one in rounds] for name, rounds in self.rounds.items()
            },
            "differences": self.differences,
        }


class Bench:
    """Measures workloads on one server, one after the other.

    Args:
        server: Server on which the tables are created and dropped.
        directory: Directory for DuckDB files.
        changes: Size of the backlogs in changes, see `Workload.fill`.
        rounds: Number of rounds for each transport.
    """

    def __init__(self, server: EmbeddedPostgres, directory: Path, *, changes: int, rounds: int) -> None:
        self._server = server
        self._directory = directory
        self._changes = changes
        self._rounds = rounds

    def measure(self, workload: Workload, *, extra_slot: str | None = None) -> Measured:
        """Write the backlog, and run all rounds over each of `TRANSPORTS`.

        Args:
            workload: The workload. Its table and publication must not exist.
            extra_slot: Name of a further slot to create before the backlog. The slot, the table and the publication
                then remain for another benchmark.

        Raises:
            RuntimeError: A capture received another number of changes than the backlog has, or texts.
        """
        places = [(name, number) for number in range(self._rounds) for name in TRANSPORTS]
        limits = {place: f"limit_{at}" for at, place in enumerate(places)}
        captures = {place: f"capture_{at}" for at, place in enumerate(places)}
        workload.create(self._server, self._changes)
        with psycopg.connect(self._server.url(socket=True), autocommit=True) as connection:
            for name in [*limits.values(), *([extra_slot] if extra_slot else [])]:
                connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            for name in captures.values():  # creates its slot and copies the table
                self._capture(workload, name, socket=True)
            backlog = workload.fill(self._server, self._changes)
            measured = Measured(workload, backlog, rounds={name: [] for name in TRANSPORTS})
            for at, place in enumerate(places):
                socket = TRANSPORTS[place[0]]
                limit = self._limit(workload, limits[place], backlog.end, socket=socket)
                captured = self._capture(workload, captures[place], socket=socket)
                window = json.loads(captured.stdout)
                if window["changes"] != backlog.changes:
                    raise RuntimeError(f"{workload.name}: captured {window['changes']} changes of {backlog}")
                if not window["stream_format"]["binary"]:
                    raise RuntimeError(f"{workload.name}: the stream came as {window['stream_format']}")
                measured.bytes = window["bytes"]
                measured.rounds[place[0]].append(
                    Round(limit.wall_s, captured.wall_s, captured.cpu_s, captured.peak_mb, window["phases"])
                )
                file = self._file(captures[place])
                if at == len(places) - 1:
                    for table in compare(self._server.url(), file, [workload.table]):
                        measured.differences += table.differences
                file.unlink()
            for name in [*limits.values(), *captures.values()]:
                connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))
            if extra_slot is None:
                workload.drop(connection)
        return measured

    def _limit(self, workload: Workload, slot: str, end: str, *, socket: bool) -> Run:
        server = self._server
        command = [str(server.bin("pg_recvlogical")), "-d", server.url(socket=socket), "-S", slot, "--start"]
        # In binary format, as the capture asks for, which the server makes faster than text.
        options = [f"publication_names={workload.publication}", "proto_version=1", "binary=true"]
        named = [part for option in options for part in ("-o", option)]
        return run([*command, "-f", "/dev/null", f"--endpos={end}", *named], server.environment)

    def _capture(self, workload: Workload, slot: str, *, socket: bool) -> Run:
        return run(
            dbmazz("capture", "--json"),
            os.environ
            | {
                "SOURCE_URL": self._server.url(socket=socket),
                "TABLES": str(workload.table),
                "SOURCE_SLOT_NAME": slot,
                "SOURCE_PUBLICATION_NAME": workload.publication,
                "SINK_URL": str(self._file(slot)),
                "REPLICA_IDENTITY": "leave",
            },
        )

    def _file(self, slot: str) -> Path:
        return self._directory / f"{slot}.duckdb"


def dbmazz(*arguments: str) -> list[str]:
    """Return a command line for the `dbmazz` command of this source tree."""
    return [sys.executable, "-m", "dbmazz_core.cli", *arguments]
