"""Readers beside windows that run back to back: nobody is refused, and hardly anybody waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbmazz_core.connectors.sinks.duckdb.reader import open_reader
from dbmazz_core.settings.config import SinkConfig
from tests.support.lab import Lab

TABLES = 12

#: Seconds for which the notebook keeps the read copy open.
NOTEBOOK_S = float(os.environ.get("NOTEBOOK_SECONDS", "600"))

#: Windows back to back, in a process of their own, until it is killed or a window fails; prints a line for each.
WINDOWS = """
import json, time
from dbmazz_core import Pipeline, Settings
pipeline = Pipeline(Settings.from_env())
while True:
    started = time.monotonic()
    result = pipeline.capture()
    assert result.read_copy.error is None, result.read_copy.error
    seconds = time.monotonic() - started
    print(json.dumps({"changes": result.changes, "held_s": result.file_held_s, "seconds": seconds}), flush=True)
"""

#: Opens the read copy as a notebook does, and queries it again and again; prints the sums that it saw.
NOTEBOOK = """
import json, sys, time
from dbmazz_core import open_reader
path, copy, seconds, tables = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
every = " UNION ALL ".join(f"SELECT id FROM public.t{number}" for number in range(tables))
deadline, sums, slowest = time.monotonic() + seconds, [], 0.0
with open_reader(path, read_copy=copy, timeout_s=0) as reader:
    print("open", flush=True)
    while time.monotonic() < deadline:
        started = time.monotonic()
        sums += reader.connection.execute(f"SELECT count(*), sum(id)::BIGINT FROM ({every})").fetchall()
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.5)
    print(json.dumps({"lsn": int(reader.lsn), "sums": sums, "slowest_s": slowest}), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A window: its changes, the seconds for which it held the file, and the seconds that it took."""

    changes: int
    held_s: float
    seconds: float


@contextmanager
def busy(lab: Lab, copy: Path, **env: str) -> Iterator[list[Ran]]:
    """Traffic on all tables, and windows back to back; yields the windows so far. At the end, none has failed."""
    env = {
        "SOURCE_URL": lab.database.url,
        "TABLES": lab.tables,
        "SOURCE_SLOT_NAME": lab.slot,
        "SOURCE_PUBLICATION_NAME": lab.config.publication_name,
        "SINK_URL": str(lab.path),
        "SINK_READ_COPY": str(copy),
        "PATH": "",
        **env,
    }
    done = threading.Event()
    windows: list[Ran] = []

    def traffic() -> None:
        with lab.database.connect() as connection:
            for n in range(1, 1_000_000):
                if done.is_set():
                    return
                connection.execute(f"INSERT INTO t{n % TABLES} VALUES ({n}, 'x')".encode())
                time.sleep(0.01)

    process = subprocess.Popen([sys.executable, "-c", WINDOWS], env=env, stdout=subprocess.PIPE, text=True)

    def listen() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            windows.append(Ran(**json.loads(line)))

    threads = [threading.Thread(target=traffic), threading.Thread(target=listen)]
    for thread in threads:
        thread.start()
    try:
        yield windows
        assert process.poll() is None, "a window has failed"
    finally:
        done.set()
        process.terminate()
        for thread in threads:
            thread.join()
        process.wait()


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_opens(lab: Lab, tmp_path: Path) -> None:
    copy = tmp_path / "copy.read.duckdb"
    lab = lab.configured(sink=SinkConfig(url=str(lab.path), read_copy=str(copy)))
    for number in range(TABLES):
        lab.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, v text)")
    lab.capture()
    waits: list[float] = []
    seen: set[int] = set()
    with busy(lab, copy) as windows:
        for _ in range(1000):
            started = time.monotonic()
            with open_reader(lab.path, timeout_s=10) as reader:
                waits.append(time.monotonic() - started)
                reader.connection.execute("SELECT count(*) FROM public.t0").fetchall()
            time.sleep(0.01)
        for _ in range(1000):
            with open_reader(lab.path, read_copy=copy, timeout_s=0) as reader:
                assert reader.lsn is not None
                seen.add(int(reader.lsn))
        with open_reader(lab.path, read_copy=copy, timeout_s=0) as notebook:  # left open
            before = len(windows)
            deadline = time.monotonic() + 60
            while len(windows) < before + 10 and time.monotonic() < deadline:
                time.sleep(0.1)
            assert len(windows) >= before + 10
            assert notebook.frame("t0").height > 0
    waits.sort()
    held = [window.held_s for window in windows]
    late = sum(wait > 0.3 for wait in waits)
    print(  # noqa: T201
        f"{len(windows)} windows, held {middle(held):.3f} s in the middle, {max(held):.3f} s at most; opens "
        f"took {waits[500]:.3f} s in the middle, {waits[-1]:.3f} s at most, {late} of 1,000 more than 0.3 s; "
        f"{len(seen)} read copies seen, none refused"
    )
    assert late < 10
    assert len(seen) > 3
    lab.capture_and_compare(*(f"t{number}" for number in range(TABLES)))


@pytest.mark.slow
@pytest.mark.timeout(NOTEBOOK_S + 300)
def test_a_notebook_that_keeps_the_read_copy_open(lab: Lab, tmp_path: Path) -> None:
    """No window fails, and none waits: a window that finds the file in use fails at once here."""
    copy = tmp_path / "copy.read.duckdb"
    lab = lab.configured(sink=SinkConfig(url=str(lab.path), read_copy=str(copy)))
    for number in range(TABLES):
        lab.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, v text)")
    lab.capture()
    with busy(lab, copy, SINK_LOCK_TIMEOUT_S="0") as windows:
        arguments = [str(lab.path), str(copy), str(NOTEBOOK_S), str(TABLES)]
        with subprocess.Popen(
            [sys.executable, "-c", NOTEBOOK, *arguments], stdout=subprocess.PIPE, text=True
        ) as notebook:
            assert notebook.stdout is not None
            assert notebook.stdout.readline() == "open\n"
            before = len(windows)
            said = notebook.stdout.readline()
        beside = windows[before:]
        assert notebook.returncode == 0
        with open_reader(lab.path, read_copy=copy, timeout_s=0) as reader:
            newest = reader.lsn
    seen = json.loads(said)
    held, seconds = ([getattr(window, name) for window in beside] for name in ("held_s", "seconds"))
    print(  # noqa: T201
        f"a notebook kept the read copy open for {NOTEBOOK_S:.0f} s, and ran {len(seen['sums'])} queries, "
        f"{seen['slowest_s']:.3f} s at most; beside it {len(beside)} windows applied "
        f"{sum(window.changes for window in beside)} changes, took {middle(seconds):.2f} s in the middle and "
        f"{max(seconds):.2f} s at most, and held the file for {middle(held):.3f} s and {max(held):.3f} s; none failed"
    )
    assert len(beside) > NOTEBOOK_S / 10
    assert sum(window.changes for window in beside) > NOTEBOOK_S
    assert len({tuple(sums) for sums in seen["sums"]}) == 1  # the notebook keeps the copy that it opened
    assert newest is not None
    assert newest > seen["lsn"]
    lab.capture_and_compare(*(f"t{number}" for number in range(TABLES)))
