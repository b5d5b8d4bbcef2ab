"""Progress on stderr: progress bars in a terminal, otherwise one line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dbmazz_core.cli.report import Report

if TYPE_CHECKING:
    from rich.progress import TaskID

    from dbmazz_core.engine.progress import Progress

#: Seconds between two lines without a terminal. Shorter work prints no line.
_LINE_INTERVAL_S = 5.0


@contextmanager
def show_progress(report: Report) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback that the engine calls with its progress.

    Args:
        report: Prints the lines if stderr is not a terminal.
    """
    bars = _Bars() if sys.stderr.isatty() else None
    try:
        yield bars.show if bars else _Lines(report).show
    finally:
        if bars:
            bars.close()


class _Lines:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = time.monotonic()

    def show(self, progress: Progress) -> None:
        if progress.phase == "wait" or time.monotonic() - self._last >= _LINE_INTERVAL_S:
            self._last = time.monotonic()
            self._report.message(str(progress))


class _Bars:
    """One progress bar for each table that is copied, and one for the stream."""

    def __init__(self) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        self._bars = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.TextColumn("{task.fields[amount]}", markup=False),
            rich_progress.TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._first_lsn: int | None = None
        self._bars.start()

    def show(self, progress: Progress) -> None:
        if progress.phase == "snapshot":
            name, _, amount = str(progress).partition(": ")
            self._update(name, progress.rows, progress.total_rows, amount)
        elif progress.phase == "stream" and progress.lsn is not None and progress.upper_lsn is not None:
            # The number of changes to come is unknown, so the bar shows LSNs, from that of the first flush.
            first = self._first_lsn = progress.lsn if self._first_lsn is None else self._first_lsn
            total = max(progress.upper_lsn - first, 1)
            self._update("applying changes", progress.lsn - first, total, f"{progress.rows:,} changes")
        elif progress.message:
            self._bars.console.print(progress.message, markup=False)

    def _update(self, name: str, completed: int, total: int | None, amount: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total or None, amount=amount)
        self._bars.update(self._tasks[name], completed=completed, total=total or None, amount=amount)

    def close(self) -> None:
        self._bars.stop()
