"""Starts `worker.py`, ends it, kills it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.lab import Lab


class Worker:
    """A capture in a process of its own."""

    def __init__(self, lab: Lab, *, url: str | None = None, **environment: str) -> None:
        settings = {
            "SOURCE_URL": url or lab.database.url,
            "TABLES": "public.*",
            "SOURCE_SLOT_NAME": lab.slot,
            "SOURCE_PUBLICATION_NAME": lab.config.publication_name,
            "SINK_URL": str(lab.path),
            "FLUSH_SIZE": "500",
            "SNAPSHOT_CHUNK_SIZE": "200",
            "PATH": os.environ["PATH"],
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.worker"],
            env=settings | environment,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, timeout: float = 60) -> tuple[int, str]:
        """Exit code and what it said."""
        out, err = self.process.communicate(timeout=timeout)
        return self.process.returncode, out + err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()
