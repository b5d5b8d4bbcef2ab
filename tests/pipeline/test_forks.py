"""Programs that fork: a fork that cannot capture says so at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.errors import ConfigError
from dbmazz_core.forks import verify_can_run
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase


def capture(settings: Settings, results: Connection) -> None:
    """In the child: what became of it."""
    try:
        results.send(Pipeline(settings).capture().changes)
    except ConfigError as error:
        results.send(error)


def read(settings: Settings, results: Connection) -> None:
    """In the child: a program without a destination."""
    try:
        results.send(PostgresSource(settings.source).config.slot)
    except ConfigError as error:
        results.send(error)


def result(method: str, target: object, settings: Settings) -> object:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context(method).Process(target=target, args=(settings, theirs))  # type: ignore[attr-defined]
    process.start()
    try:
        assert ours.poll(60), "the child hangs"
        return ours.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.skipif(sys.platform != "linux", reason="forks after polars are known on Linux only")
@pytest.mark.parametrize("target", [capture, read])
def test_a_fork_after_a_capture_is_refused_and_its_remedy_works(lab: Lab, target: object) -> None:
    lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.capture()
    lab.execute("INSERT INTO t SELECT generate_series(10, 10000); UPDATE t SET id = -id WHERE id % 3 = 0")
    lab.capture()
    lab.execute("INSERT INTO t VALUES (2)")
    settings = lab.pipeline.settings
    error = result("fork", target, settings)
    assert isinstance(error, ConfigError)
    assert "fork" in error.what
    assert '"spawn"' in error.remedy
    assert result("spawn", target, settings) == (1 if target is capture else settings.source.slot)
    if target is capture:
        lab.assert_equal("t")


FIRST_FORK = """
import os, sys
import dbmazz_core
import polars
from dbmazz_core.forks import verify_can_run
if not os.fork():
    verify_can_run()
    print(polars.DataFrame({"a": [1, 2]}).lazy().select(polars.col("a").sum()).collect().item(), flush=True)
    if not os.fork():
        try:
            verify_can_run()
        except dbmazz_core.ConfigError:
            print("refused", flush=True)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
verify_can_run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks after polars are known on Linux only")
def test_a_fork_before_the_first_use_of_polars_may_capture() -> None:
    ended = subprocess.run([sys.executable, "-c", FIRST_FORK], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "3\nrefused\n"
    verify_can_run()


COPYING = """
import os, pickle, sys, time
from dbmazz_core.connectors.sources.postgres.source import PostgresSource
from dbmazz_core.table_ref import TableRef
source = PostgresSource(pickle.load(sys.stdin.buffer))
source.setup()
source.look()
ref = TableRef("public", "t")
with source.snapshot([ref], new_feed=False) as snapshot:
    rows = snapshot.rows(ref, keep_unreadable=False)
    copied = len(next(rows).frame)
    child = os.fork()
    if not child:
        sys.stdin.close()
        time.sleep({lives})
        os._exit(0)
    if {lives} == 0:
        os.waitpid(child, 0)
        copied += sum(len(some.frame) for some in rows)
    print(child, copied, flush=True)
    time.sleep(60 if {lives} else 0)
"""


@pytest.mark.parametrize("lives", [0, 60], ids=["the fork ends", "the program is killed"])
def test_a_program_that_forks_while_it_copies(database: SourceDatabase, tmp_path: Path, lives: int) -> None:
    """The end of a fork does not end the copy, and a fork does not keep the sessions of a program that was killed."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    database.execute("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 100000) i")
    settings = Lab(database, tmp_path / "d.duckdb").config
    sessions = "SELECT application_name FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'dbmazz%%'"
    process = subprocess.Popen(
        [sys.executable, "-c", COPYING.format(lives=lives)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(pickle.dumps(settings))
        process.stdin.close()
        child, copied = map(int, process.stdout.readline().split())
        if not lives:
            assert process.wait(30) == 0
            assert copied == 100_000
            return
        assert database.fetch("SELECT FROM pg_replication_slots WHERE temporary")
        process.kill()
        process.wait()
        deadline = time.monotonic() + 10
        try:
            while database.fetch(sessions, database.name):
                assert time.monotonic() < deadline, database.fetch(sessions, database.name)
                time.sleep(0.05)
            os.kill(child, 0)  # it is still there
        finally:
            os.kill(child, signal.SIGKILL)
