"""The real `dbmazz demo` in a process of its own, and every process that it makes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

#: Process id and start time, in clock ticks since boot: together they name one process for good.
Process = tuple[int, int]


@dataclass(slots=True)
class Demo:
    """A running demo.

    Attributes:
        process: The command.
        output: What it printed, both streams.
    """

    process: subprocess.Popen[bytes]
    output: Path

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float = 90) -> re.Match[str]:
        """Wait until it has printed something."""
        until(lambda: re.search(pattern, self.text()) or self.process.poll() is not None, seconds, self.text)
        found = re.search(pattern, self.text())
        assert found, f"ended with {self.process.returncode}:\n{self.text()}"
        return found

    def url(self) -> str:
        """Of the UI, once it is up."""
        return self.wait_for(r"Dagster's UI:\s+(http://[\d.:]+)")[1]

    def processes(self) -> set[Process]:
        """The command and all that descend from it."""
        parents = {pid: parent for pid, parent, _, _ in _all_processes()}
        ours = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
            ours |= more
        return {(pid, started) for pid, _, started, _ in _all_processes() if pid in ours}

    def runs(self, program: str) -> bool:
        """Whether one of its processes has this in its command line."""
        return program in _described(self.processes())

    def ends(self, number: signal.Signals, within: float) -> int:
        """Send a signal; everything has to be gone in time. Returns the exit code."""
        processes = self.processes()
        started = time.monotonic()
        os.kill(self.process.pid, number)
        code = self.process.wait(within)
        until(
            lambda: not alive(processes), max(0.1, started + within - time.monotonic()), lambda: _described(processes)
        )
        return code


@contextmanager
def running_demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    """Run `dbmazz demo`; whatever is left of it afterwards is killed."""
    output = directory / "demo.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbmazz_core.cli", "demo", *arguments],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    demo = Demo(process, output)
    try:
        yield demo
    finally:
        left = demo.processes()
        if process.poll() is None:
            process.kill()
            process.wait()
        for pid, _ in alive(left):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # descendants of the process that was started here


def alive(processes: set[Process]) -> set[Process]:
    """Those that still run. A dead one that nobody has waited for does not; that is its parent's to do."""
    return processes & {(pid, started) for pid, _, started, state in _all_processes() if state != "Z"}


def until(happened: Callable[[], object], seconds: float, why_not: Callable[[], str]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"did not happen within {seconds:.0f} s\n{why_not()[-3000:]}"
        time.sleep(0.1)


def _all_processes() -> Iterator[tuple[int, int, int, str]]:
    """Process id, parent, start time and state of every process; proc(5)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            yield int(path.parts[2]), int(fields[1]), int(fields[19]), fields[0]


def _described(processes: set[Process]) -> str:
    lines = []
    for pid, _ in alive(processes):
        with suppress(OSError):
            lines.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode()}")
    return "\n".join(lines)
