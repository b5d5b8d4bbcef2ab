"""Signals of a capture: SIGTERM and Ctrl-C stop it at its next flush, a second Ctrl-C at once; SIGHUP: new settings."""

from __future__ import annotations

import json
import os
import signal
import sys
from threading import Event
from types import FrameType

from dbmazz_core.cli.report import INTERRUPTED, Interrupted, Report

_SHOW_CURSOR = b"\x1b[?25h"


def stop_on_signals(report: Report) -> Event:
    """Return an event that SIGTERM and Ctrl-C set from now on.

    The handlers stay for the rest of the process: a signal shortly before its exit must not turn success into failure.
    """
    stop = Event()

    def requested(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            _end_at_once(report)
        stop.set()
        # Not `print`: the signal may interrupt a `print`, which is not reentrant.
        hint = ", press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        os.write(2, f"stopping at the next flush{hint}\n".encode())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, requested)
    return stop


def set_on_hangup(stop: Event) -> Event:
    """Return an event that SIGHUP sets from now on. In a terminal, whose end sends SIGHUP, it sets `stop` instead."""
    hung_up = Event()
    target = stop if sys.stderr.isatty() else hung_up
    signal.signal(signal.SIGHUP, lambda _number, _frame: target.set())
    return hung_up


def _end_at_once(report: Report) -> None:
    # No clean-up is needed: PostgreSQL and DuckDB discard a transaction that was not committed.
    if report.json:
        error = Interrupted(
            "interrupted", object="dbmazz", remedy="run the command again: capture resumes at the checkpoint"
        )
        os.write(1, json.dumps(error.to_dict()).encode() + b"\n")
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(INTERRUPTED)
