"""What `dbmazz follow` shows: a live view in a terminal, otherwise lines; with `--json` one object a line."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from dbmazz_core.cli.report import Report

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dbmazz_core.engine.follow_status import FollowStatus
    from dbmazz_core.engine.progress import Progress

#: Seconds between two lines about changes, and between two lines of `--json`. News of another kind has a line at once.
_LINE_INTERVAL_S = 10.0
_JSON_INTERVAL_S = 1.0
#: Seconds between two lines of `--json` without any change.
_JSON_IDLE_S = 30.0
#: Seconds over which the rate of changes is taken.
_RATE_S = 5.0
#: Most tables that the live view shows: those that changed most.
_TABLES_SHOWN = 20


class FollowOutput(Protocol):
    """Shows a run of `follow`."""

    def watch(self, status: FollowStatus) -> None:
        """Take a new status."""

    def progress(self, progress: Progress) -> None:
        """Take the progress of a copy, or a sentence about what happened."""


@contextmanager
def show_follow(report: Report) -> Iterator[FollowOutput]:
    """Yield what shows a run.

    Args:
        report: Prints lines and JSON.
    """
    if report.json:
        yield _JsonLines(report)
    elif sys.stderr.isatty():
        with _live_view(report) as view:
            yield view
    else:
        yield _Lines(report)


class _JsonLines:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._shown_at = 0.0
        self._news: object = None
        self._flushes = 0

    def watch(self, status: FollowStatus) -> None:
        news, now = _news(status), time.monotonic()
        interval_s = _JSON_IDLE_S if status.flushes == self._flushes else _JSON_INTERVAL_S
        if news != self._news or now - self._shown_at >= interval_s:
            self._news, self._shown_at, self._flushes = news, now, status.flushes
            self._report.result({"event": "status", **status.to_dict()})

    def progress(self, progress: Progress) -> None:
        if progress.message:
            self._report.result({"event": "message", "message": self._report.redact(progress.message)})


class _Lines:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._shown_at = time.monotonic()
        self._changes = 0
        self._news: object = None
        self._rate = _Rate()

    def watch(self, status: FollowStatus) -> None:
        self._rate.add(status.changes)
        news, now = _news(status), time.monotonic()
        if news != self._news:
            self._news = news
            self._report.message(_sentence(status))
            for ref, state in sorted(status.in_trouble.items()):
                if state.problem is not None:
                    self._report.message(f"{ref} is {state.state.value}: {state.problem.reason}")
        elif status.changes != self._changes and now - self._shown_at >= _LINE_INTERVAL_S:
            self._report.message(f"{_sentence(status)}, {self._rate.text()}")
        else:
            return
        self._shown_at, self._changes = now, status.changes

    def progress(self, progress: Progress) -> None:
        if progress.message or (progress.phase == "snapshot" and time.monotonic() - self._shown_at >= _LINE_INTERVAL_S):
            self._shown_at = time.monotonic()
            self._report.message(str(progress))


class _Rate:
    """Changes a second over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, changes: int) -> None:
        now = time.monotonic()
        self._seen.append((now, changes))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _RATE_S:
            self._seen.popleft()

    def text(self) -> str:
        if not self._seen:
            return "0 changes/s"
        (since, first), (_, last) = self._seen[0], self._seen[-1]
        return f"{(last - first) / max(time.monotonic() - since, _RATE_S):,.0f} changes/s"


@contextmanager
def _live_view(report: Report) -> Iterator[FollowOutput]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    view = _View(report, console)
    with Live(get_renderable=view.render, console=console, refresh_per_second=4):
        yield view


class _View:
    """The live view. `rich` renders it in a thread of its own."""

    def __init__(self, report: Report, console: Console) -> None:
        self._report = report
        self._console = console
        self._status: FollowStatus | None = None
        self._copying = ""
        self._rate = _Rate()

    def watch(self, status: FollowStatus) -> None:
        self._rate.add(status.changes)
        self._status = status

    def progress(self, progress: Progress) -> None:
        if progress.message:
            self._console.print(self._report.redact(progress.message), markup=False)
        self._copying = str(progress) if progress.phase == "snapshot" else ""

    def render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        from dbmazz_core.cli.render import size

        status = self._status
        if status is None:
            return Text("starting")
        grid = Table.grid(padding=(0, 2))
        grid.add_row("slot", Text(f"{status.slot} ({status.phase.value})"))
        grid.add_row("lag", _lag(status))
        grid.add_row("rate", f"{self._rate.text()}, {status.changes:,} since {_clock(status.started_at)}")
        grid.add_row("checkpoint", str(status.checkpoint or "none"))
        if (source := status.source) is not None:
            again = size(source.restart_lag_bytes)
            grid.add_row("server", f"{size(source.lag_bytes)} of WAL not confirmed; a new stream decodes {again} first")
        if status.error is not None:
            grid.add_row("waits for", Text(self._report.redact(status.error.what)))
        if self._copying:
            grid.add_row("copy", Text(self._copying))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("table", "state", "inserts", "updates", "deletes"):
            table.add_column(name, justify="left" if name in ("table", "state") else "right", overflow="fold")
        counts = sorted(status.tables.items(), key=lambda item: (-item[1].changes, item[0]))
        for ref, count in counts[:_TABLES_SHOWN]:
            state = status.states.get(ref)
            shown = (f"{count.inserts:,}", f"{count.updates:,}", f"{count.deletes:,}")
            table.add_row(Text(str(ref)), state.state.value if state else "", *shown)
        hidden = len(counts) - _TABLES_SHOWN
        return Group(grid, "", table, *([f"and {hidden:,} more tables"] if hidden > 0 else []))


def _news(status: FollowStatus) -> object:
    """Return what deserves a line at once."""
    error = None if status.error is None else status.error.what
    return status.phase, error, status.interruptions, {ref: state.problem for ref, state in status.in_trouble.items()}


def _sentence(status: FollowStatus) -> str:
    at = status.checkpoint or "none"
    return f"{status.phase.value}: {status.changes:,} changes, checkpoint LSN {at}, {_lag(status)}"


def _lag(status: FollowStatus) -> str:
    lag_s = status.lag_s()
    return "lag unknown" if lag_s is None else f"{lag_s:.1f} s behind"


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
