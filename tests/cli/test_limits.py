"""Limits that the system sets for the process: the error names the limit, and the remedy lifts it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dbmazz_core.errors import DestinationError, LimitReached, ReplicationInterrupted, SourceError
from dbmazz_core.process_limits import limit_reached
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase

COMMAND = Path(sys.executable).with_name("dbmazz")


def run(database: SourceDatabase, directory: Path, shell: str) -> subprocess.CompletedProcess[str]:
    """A capture after some commands of the shell."""
    settings = {"SOURCE_URL": database.url, "TABLES": "t", "SOURCE_SLOT_NAME": database.name, "SINK_URL": "d.duckdb"}
    return subprocess.run(
        ["sh", "-c", f"{shell}; exec {COMMAND} capture --json"],
        cwd=directory,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no limit of the address space")
@pytest.mark.parametrize(
    ("limit", "named", "remedy"),
    [
        *((f"ulimit -S -n {n}", f"than {n} (ulimit -n)", "ulimit -n 1024") for n in (5, 6, 7, 9)),
        ("ulimit -S -v 600000", f"{600_000 * 1024} bytes of address space (ulimit -v)", "ulimit -v unlimited"),
    ],
)
def test_a_limit_is_named_and_lifted(
    database: SourceDatabase, tmp_path: Path, limit: str, named: str, remedy: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    ended = run(database, tmp_path, limit)
    assert ended.returncode == 1
    error = json.loads(ended.stdout)
    assert error["error"] == "LimitReached"
    assert named in error["what"]
    assert f"`{remedy}`" in error["remedy"]
    assert "Traceback" not in ended.stderr
    assert ("warning: the address space" in ended.stderr) == ("-v" in limit)
    assert run(database, tmp_path, f"{limit}; {remedy}").returncode == 0


def test_a_program_gets_the_same_error(lab: Lab) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline = lab.pipeline
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (5, hard))
    try:
        with pytest.raises(LimitReached, match="than 5"):
            pipeline.check()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not pipeline.check().errors


class PanicException(BaseException):
    """As polars raises it."""


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (RuntimeError("can't start new thread"), "threads"),
        (MemoryError(), "memory"),
        (ImportError("libx.so: failed to map segment from shared object"), "memory"),
        (PanicException('Os { code: 24, message: "Too many open files" }'), "open files"),
        (PanicException("could not spawn threads: ThreadPoolBuildError"), "threads"),
        (ReplicationInterrupted("failed: [Errno 24] Too many open files", object="", remedy=""), "open files"),
        (DestinationError("out of memory: Failed to allocate (bad allocation)", object="", remedy=""), "memory"),
        # A limit of the server, a limit that the user gave to DuckDB, and other errors
        (SourceError("PostgreSQL reports: could not open file: Too many open files", object="", remedy=""), None),
        (DestinationError("Out of Memory Error: memory_limit of 1 GB", object="", remedy=""), None),
        (PanicException("index out of bounds"), None),
        (KeyboardInterrupt(), None),
        (ValueError("no"), None),
    ],
)
def test_what_is_a_limit(error: BaseException, limit: str | None) -> None:
    found = limit_reached(error)
    assert (found is None) if limit is None else (found is not None and found.object.startswith(limit))


INTERRUPTED = """
import sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "click":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder())
import dbmazz_core.cli
"""


def test_ctrl_c_during_the_imports() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "error: interrupted\n")
