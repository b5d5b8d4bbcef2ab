"""SIGTERM and Ctrl-C: the first asks to stop at the next flush, a second Ctrl-C stops at once."""

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
    """An event that SIGTERM and Ctrl-C set from now on.

    For good: a signal that comes while the process is about to end must not turn its success into a failure.
    """
    stop = Event()

    def requested(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            _end_at_once(report)
        stop.set()
        # Not by `print`: the signal may have come in the middle of one.
        hint = ", press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        os.write(2, f"stopping at the next flush{hint}\n".encode())

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, requested)
    return stop


def _end_at_once(report: Report) -> None:
    # No clean-up to wait for: a transaction that was not committed does not count, on either side.
    if report.json:
        error = Interrupted("interrupted", object="dbmazz", remedy="run it again: it resumes at the checkpoint")
        os.write(1, json.dumps(error.to_dict()).encode() + b"\n")
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(INTERRUPTED)
