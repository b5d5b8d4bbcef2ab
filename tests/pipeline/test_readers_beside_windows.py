"""Readers beside windows that run back to back: nobody is refused, and hardly anybody waits."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbmazz_core.connectors.sinks.duckdb.reader import open_reader
from dbmazz_core.settings.config import SinkConfig
from tests.support.lab import Lab

TABLES = 12

#: Windows back to back, in a process of their own, until it is killed; prints a line for each.
WINDOWS = """
from dbmazz_core import Pipeline, Settings
pipeline = Pipeline(Settings.from_env())
while True:
    result = pipeline.capture()
    print(result.changes, result.file_held_s, flush=True)
"""


@contextmanager
def busy(lab: Lab, copy: Path) -> Iterator[list[tuple[int, float]]]:
    """Traffic on all tables, and windows back to back; yields changes and seconds held of each window so far."""
    env = {
        "SOURCE_URL": lab.database.url,
        "TABLES": lab.tables,
        "SOURCE_SLOT_NAME": lab.slot,
        "SINK_URL": str(lab.path),
        "SINK_READ_COPY": str(copy),
        "PATH": "",
    }
    done = threading.Event()
    windows: list[tuple[int, float]] = []

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
            changes, held = line.split()
            windows.append((int(changes), float(held)))

    threads = [threading.Thread(target=traffic), threading.Thread(target=listen)]
    for thread in threads:
        thread.start()
    try:
        yield windows
    finally:
        done.set()
        process.terminate()
        for thread in threads:
            thread.join()
        process.wait()


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
    held = sorted(seconds for _, seconds in windows)
    late = sum(wait > 0.3 for wait in waits)
    print(  # noqa: T201
        f"{len(windows)} windows, held {held[len(held) // 2]:.3f} s in the middle, {held[-1]:.3f} s at most; opens "
        f"took {waits[500]:.3f} s in the middle, {waits[-1]:.3f} s at most, {late} of 1,000 more than 0.3 s; "
        f"{len(seen)} read copies seen, none refused"
    )
    assert late < 10
    assert len(seen) > 3
    lab.capture_and_compare(*(f"t{number}" for number in range(TABLES)))
