"""Captures in a process of its own, for a test to kill: `python -m tests.support.worker`, with settings from variables.

`DBMAZZ_TEST_DIE_AT` names the progress report (counted from 1, of the phase before the colon) at which it kills itself
with SIGKILL: `stream:2` is right after the second flush was committed, before or while it is confirmed; `mark:1` is
right after the state of a table was written for the first time, before its commit; `range:3` is right after the third
commit of a range of a large table.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from dbmazz_core.connectors.sinks.duckdb_sql.staged_copy import DuckDBStagedCopy
from dbmazz_core.connectors.sinks.duckdb_sql.transaction import DuckDBTransaction
from dbmazz_core.engine.progress import Progress
from dbmazz_core.errors import DbmazzError
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import Settings


def _after_marks(report: Callable[[], None]) -> None:
    mark = DuckDBTransaction.mark

    def marked(*arguments: Any, **options: Any) -> None:
        mark(*arguments, **options)
        report()

    DuckDBTransaction.mark = marked  # type: ignore[method-assign]


def _after_ranges(report: Callable[[], None]) -> None:
    commit = DuckDBStagedCopy.commit

    def committed(*arguments: Any) -> None:
        commit(*arguments)
        report()

    DuckDBStagedCopy.commit = committed  # type: ignore[method-assign]


def main() -> int:
    phase, _, number = os.environ.get("DBMAZZ_TEST_DIE_AT", ":0").partition(":")
    reports = 0

    def progress(report: Progress) -> None:
        nonlocal reports
        reports += report.phase == phase
        if phase and reports == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    if phase == "mark":
        _after_marks(lambda: progress(Progress("mark")))
    if phase == "range":
        _after_ranges(lambda: progress(Progress("range")))
    try:
        result = Pipeline(Settings.from_env()).capture(progress=progress)
    except DbmazzError as error:
        print(type(error).__name__, error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(result.changes)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
