"""The real `dbmazz` command: in the process of the test, or in a process of its own.

A process of its own costs the start of an interpreter and the import of polars and DuckDB (0.7 s of CPU). Only tests
that prove something about the process need it: signals, terminals, pipes, exit codes, locks of the destination file.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from dbmazz_core.cli import main
from dbmazz_core.settings.variables import SETTINGS
from tests.support.postgres_fixtures import SourceDatabase

#: Generous: the machine may be busy with other tests.
TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """Everything that it said."""
        return self.stdout + self.stderr

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


@dataclass(slots=True)
class Dbmazz:
    """Runs `dbmazz` with settings in the environment.

    Attributes:
        variables: Settings, by variable; a test changes them.
        directory: Where it runs.
    """

    variables: dict[str, str]
    directory: Path

    @classmethod
    def of(cls, database: SourceDatabase, path: Path, tables: str) -> Dbmazz:
        """For tables of a test's database; slots are the cluster's, so each database needs its own."""
        return cls(
            {
                "SOURCE_URL": database.url,
                "TABLES": tables,
                "SINK_URL": str(path),
                "SOURCE_SLOT_NAME": database.name,
                "SINK_LOCK_TIMEOUT_S": "1",
            },
            path.parent,
        )

    @property
    def environment(self) -> dict[str, str]:
        """The process environment, without settings and libpq variables of the outside."""
        ours = {s.variable for s in SETTINGS}
        outside = {k: v for k, v in os.environ.items() if k not in ours and not k.startswith("PG")}
        return {**outside, **self.variables}

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "dbmazz_core.cli", *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it; both outputs are pipes."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int | None = 0, **variables: str) -> Outcome:
        """Run it to its end in this process. There must never be a traceback, nor the password.

        Args:
            arguments: Command and flags.
            code: The exit code that is expected; None: any.
            variables: Settings besides.
        """
        with self._with(variables):
            outcome = _in_this_process(arguments, self.environment, self.directory)
            return self._judged(outcome, code)

    def run_in_process(self, *arguments: str, code: int | None = 0, **variables: str) -> Outcome:
        """Run it to its end in a process of its own; everything else is as for `run`."""
        with self._with(variables):
            process = self.start(*arguments)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
            return self._judged(Outcome(process.returncode, stdout, stderr), code)

    @contextmanager
    def _with(self, variables: Mapping[str, str]) -> Iterator[None]:
        before = self.variables
        self.variables = before | variables
        try:
            yield
        finally:
            self.variables = before

    def _judged(self, outcome: Outcome, code: int | None) -> Outcome:
        assert "Traceback" not in outcome.output
        for secret in _passwords(self.variables):
            assert secret not in outcome.output, "the password is in the output"
        assert code is None or outcome.code == code, f"exit code {outcome.code}\n{outcome.output}"
        return outcome

    def json(self, *arguments: str, code: int | None = 0, **variables: str) -> dict[str, Any]:
        """Run it with `--json`; what it printed, which must be one object."""
        return self.run(*arguments, "--json", code=code, **variables).json


def _in_this_process(arguments: tuple[str, ...], environment: Mapping[str, str], directory: Path) -> Outcome:
    """Call the console script's function, and undo what a command leaves in its process for good."""
    before = Path.cwd()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root = logging.getLogger()
    logging_before = root.level, root.handlers[:]
    root.handlers.clear()  # pytest's own: with them `logging.basicConfig` does nothing
    try:
        os.chdir(directory)
        with patch.dict(os.environ, environment, clear=True), _captured() as (stdout, stderr):
            code = main(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            return Outcome(code, _written(stdout), _written(stderr))
    finally:
        os.chdir(before)
        root.level, root.handlers[:] = logging_before
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.unfreeze()


@contextmanager
def _captured() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Files in place of the descriptors 1 and 2, so that what libraries in C write is seen too."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        streams = sys.stdout, sys.stderr
        saved = [os.dup(descriptor) for descriptor in (1, 2)]
        for descriptor, file in ((1, stdout), (2, stderr)):
            os.dup2(file.fileno(), descriptor)
        sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) for descriptor in (1, 2))
        try:
            yield stdout, stderr
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = streams
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _passwords(variables: Mapping[str, str]) -> set[str]:
    try:
        raw = urlsplit(variables.get("SOURCE_URL", "")).password
    except ValueError:  # a URL that is malformed on purpose
        return set()
    return {raw, unquote(raw)} if raw else set()


def wait_until(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def end(process: subprocess.Popen[str], number: signal.Signals | None = None) -> Outcome:
    """Send a signal, if any, and wait for the end."""
    if number is not None:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return Outcome(process.returncode, stdout, stderr)


def confirmed_lsn(database: SourceDatabase, slot: str) -> str | None:
    """PostgreSQL's `confirmed_flush_lsn`, None where there is no slot."""
    rows = database.fetch("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", slot)
    return str(rows[0][0]) if rows else None
