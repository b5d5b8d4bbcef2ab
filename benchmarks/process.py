"""Run a command as a process, and read its time and memory from the operating system."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two samples of the memory.
_SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Run:
    """The measurements of a finished process.

    Attributes:
        wall_s: Seconds from start to exit.
        cpu_s: User and system time of the process and its threads, in seconds.
        peak_mb: Maximum of the sampled memory of the process and its children together, in MiB.
        stdout: Standard output of the process.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str


def _resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children in MiB, 0 if the process has ended."""
    private, shared = _memory(pid)
    return private + shared


def _memory(pid: int) -> tuple[float, float]:
    """Return the memory of a process and its children in MiB, as (private, shared).

    The private memory is the sum over all processes. The shared memory (mapped files and shared memory segments) is the
    maximum over all processes, since they map the same pages.
    """
    try:
        # Not smaps_rollup, which separates both exactly: it walks all pages, and the process waits meanwhile.
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
    """Run a command to its end and return its measurements.

    Args:
        command: Program and arguments.
        env: All environment variables.

    Raises:
        RuntimeError: The exit code is not 0. The message has the command's standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        peak = 0.0
        while True:
            # Not ru_maxrss of rusage: it is that of the largest process only, and includes memory inherited by a fork.
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
