"""Two captures of one database, started together: how they are set up, run, and judged."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb

from dbmazz_core.lsn import Lsn
from tests.support.lab import Lab

ROOT = Path(__file__).parents[2]
#: Exit codes of an error that is ours: connection, slot, destination. Anything else is a bug.
REFUSED = (3, 5, 6)
#: Longest that the second one starts behind the first.
_STAGGER_S = 0.4


@dataclass(frozen=True, slots=True)
class Batch:
    """One source transaction: `first` to `last` inserted into each table, the counter in row 0 raised by one.

    Attributes:
        before, after: Positions between which its commit record is.
    """

    before: Lsn
    after: Lsn
    first: int
    last: int


@dataclass(slots=True)
class Writer:
    """Writes batches, as a context manager in a thread until it ends."""

    lab: Lab
    tables: tuple[str, ...]
    batches: list[Batch] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def write(self, rows: int) -> Lsn:
        """Write one batch; where the server is afterwards."""
        first = self.batches[-1].last + 1 if self.batches else 1
        last = first + rows - 1
        with self.lab.database.connect() as connection:

            def position() -> Lsn:
                ((lsn,),) = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
                return Lsn.parse(lsn)

            before = position()
            statements = [
                f"INSERT INTO {table} SELECT i, 0 FROM generate_series({first}, {last}) i; "
                f"UPDATE {table} SET n = n + 1 WHERE id = 0"
                for table in self.tables
            ]
            connection.execute("; ".join(statements).encode())
            self.batches.append(Batch(before, position(), first, last))
        return self.batches[-1].after

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._write_on)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _write_on(self) -> None:
        while not self._stop.wait(0.03):
            self.write(10)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two captures.

    Attributes:
        lab: Where from and where to.
        table: What it captures.
        home: A DAGSTER_HOME, where it is a Dagster run.
    """

    lab: Lab
    table: str = "t"
    home: Path | None = None

    def start(self) -> subprocess.Popen[str]:
        """Start a process that captures one window."""
        module = ["tests.soak.dagster_run"] if self.home else ["dbmazz_core.cli", "capture", "--json"]
        settings = {
            "SOURCE_URL": self.lab.database.url,
            "TABLES": f"public.{self.table}",
            "SOURCE_SLOT_NAME": self.lab.slot,
            "SINK_URL": str(self.lab.path),
            "DAGSTER_HOME": str(self.home or ""),
        }
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            env={**os.environ, **settings},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a capture ended.

    Attributes:
        code: Exit code.
        said: What it said about it.
        result: What `capture --json` printed.
    """

    code: int
    said: str
    result: dict[str, Any]

    @property
    def error(self) -> str:
        """Name of its error."""
        return str(self.result.get("error", ""))


def scenario(kind: str, lab: Lab, directory: Path) -> tuple[Side, Side, Writer]:
    """Set up one of `KINDS`; all but new files have captured before, and rows have come since."""
    two_slots = kind == "two slots, one file"
    lab = lab.configured(source={"publication": None})
    tables = ("t", "u") if two_slots else ("t",)
    for table in tables:
        lab.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, n int); INSERT INTO {table} VALUES (0, 0)")
    other = replace(lab, path=directory / "other.duckdb")
    first, second = Side(lab), Side(lab)
    match kind:
        case "a file and its copy" | "two new files":
            second = Side(other)
        case "two slots, one file":
            second = Side(lab.configured(slot=f"{lab.slot}_2"), "u")
        case "two Dagster deployments":
            homes = [directory / name for name in ("home_1", "home_2")]
            for home in homes:
                home.mkdir()
            first, second = Side(lab, home=homes[0]), Side(lab, home=homes[1])
    writer = Writer(lab, tables)
    writer.write(100)
    if kind != "two new files":
        replace(lab, tables="public.t").capture()
        if two_slots:
            replace(second.lab, tables="public.u").capture()
        if kind == "a file and its copy":
            shutil.copy(lab.path, other.path)
    writer.write(1000)
    return first, second, writer


KINDS = (
    "one file",
    "a file and its copy",
    "two new files",
    "two slots, one file",
    "two Dagster deployments",
)


def run_together(sides: tuple[Side, Side], writer: Writer, moments: random.Random) -> list[Outcome]:
    """Start both, one a little behind the other, with rows coming meanwhile."""
    with writer:
        processes = [sides[0].start()]
        time.sleep(moments.choice([0, moments.uniform(0, _STAGGER_S)]))
        processes.append(sides[1].start())
        outcomes = []
        for process in processes:
            out, err = process.communicate(timeout=240)
            result = json.loads(out.strip().splitlines()[-1]) if out.strip() else {}
            outcomes.append(Outcome(process.returncode, out + err, result))
    return outcomes


def judge(side: Side, outcome: Outcome, writer: Writer, began: Lsn) -> None:
    """Whatever became of it, the file is exact at its checkpoint; where it caught up, that is past what there was.

    Args:
        side: The capture.
        outcome: How it ended.
        writer: What was written.
        began: Where the server was when it was started.
    """
    assert outcome.code in (0, *REFUSED), outcome.said
    assert "Traceback" not in outcome.said, outcome.said
    checkpoint = verify_file(side, writer.batches)
    if outcome.code == 0:
        assert checkpoint is not None
        # The checkpoint itself may stay behind, where nothing but other WAL follows it.
        reached = Lsn.parse(outcome.result["upper_lsn"]) if "upper_lsn" in outcome.result else began
        assert reached >= began
        assert outcome.result.get("stop_reason", "caught_up") == "caught_up"
        missing = [batch for batch in writer.batches if checkpoint < batch.before and batch.after <= reached]
        assert not missing, f"caught up at {checkpoint} without what was there at {reached}: {missing}"


def verify_file(side: Side, batches: list[Batch]) -> Lsn | None:
    """The checkpoint of a file, which holds exactly the batches up to there; None if nothing is in it yet."""
    if not side.lab.path.exists():
        return None
    with duckdb.connect(str(side.lab.path), read_only=True) as connection:
        found = connection.execute(
            "SELECT c.lsn FROM _dbmazz.checkpoints c JOIN _dbmazz.tables t USING (slot) "
            "WHERE slot = ? AND table_name = ? AND state = 'streaming'",
            [side.lab.slot, side.table],
        ).fetchone()
        if found is None:
            return None
        rows = connection.execute(f"SELECT id, n FROM public.{side.table}").fetchall()
    checkpoint, ids = Lsn(found[0]), Counter(id for id, _ in rows)
    applied = 0
    for batch in batches:
        counts = {ids.pop(id, 0) for id in range(batch.first, batch.last + 1)}
        assert counts in ({0}, {1}), f"{batch} is there in part, or twice, at {checkpoint}: {counts}"
        assert counts == {1} or batch.after > checkpoint, f"{batch} is missing at {checkpoint}"
        assert counts == {0} or batch.before < checkpoint, f"{batch} is not yet to be there at {checkpoint}"
        applied += counts == {1}
    assert dict(ids) == {0: 1}
    assert dict(rows)[0] == applied, f"{applied} batches are there, and {dict(rows)[0]} were counted at {checkpoint}"
    return checkpoint
