"""Running a command as a whole process and reading what the operating system counted."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Between two looks at the memory.
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process.

    Attributes:
        wall_s: From start to exit.
        cpu_s: User and system time of the process and its threads.
        peak_mb: Largest memory of it and its children together, sampled, in MiB.
        stdout: What it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and its children. 0 for one that has just ended."""
    private, shared = _memory(pid)
    return private + shared


def _memory(pid: int) -> tuple[float, float]:
    """A process and its children: what is private to each, added up, and the most that one of them maps of files and
    shared memory, which they share."""
    try:
        # Not smaps_rollup, which tells them apart exactly: it walks all pages, and the process waits meanwhile.
        status = Path(f"/proc/{pid}/status").read_text()
        children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except OSError:
        return 0.0, 0.0
    size = {name: int(kb) / 1024 for name, kb in re.findall(r"^Rss(\w+):\s+(\d+) kB", status, re.MULTILINE)}
    private, shared = size.get("Anon", 0.0), size.get("File", 0.0) + size.get("Shmem", 0.0)
    for child in children:
        more, mapped = _memory(int(child))
        private, shared = private + more, max(shared, mapped)
    return private, shared


def run(command: Sequence[str], env: Mapping[str, str]) -> Run:
    """Run a command to its end; raises RuntimeError with its messages if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        peak = 0.0
        while True:
            # Not rusage's ru_maxrss: that knows the largest process only, and counts what a fork inherits.
            peak = max(peak, _resident_mb(process.pid))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(_SAMPLE_S)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {errors.read().decode()}")
        return Run(wall, usage.ru_utime + usage.ru_stime, peak, out.read().decode())
