"""Running a command as a whole process and reading what the operating system counted."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """A finished process.

    Attributes:
        wall_s: From start to exit.
        cpu_s: User and system time of the process and its threads.
        peak_mb: Largest resident set, in MiB.
        stdout: What it printed.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    stdout: str


def run(command: Sequence[str], env: Mapping[str, str]) -> Run:
    """Run a command to its end; raises RuntimeError with its messages if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=out, stderr=errors, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {errors.read().decode()}")
        return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, out.read().decode())
