"""SIGTERM and Ctrl-C: the first asks to stop at the next flush, a second Ctrl-C stops at once."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType

from dbmazz_core.cli.report import INTERRUPTED, Interrupted, Report

_SHOW_CURSOR = b"\x1b[?25h"


@contextmanager
def stop_on_signals(report: Report) -> Iterator[Event]:
    """An event that SIGTERM and Ctrl-C set while the block runs."""
    stop = Event()

    def requested(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            _end_at_once(report)
        stop.set()
        # Not by `print`: the signal may have come in the middle of one.
        hint = ", press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
        os.write(2, f"stopping at the next flush{hint}\n".encode())

    before = {number: signal.signal(number, requested) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(report: Report) -> None:
    # No clean-up to wait for: a transaction that was not committed does not count, on either side.
    if report.json:
        error = Interrupted("interrupted", object="dbmazz", remedy="run it again: it resumes at the checkpoint")
        os.write(1, json.dumps(error.to_dict()).encode() + b"\n")
    if sys.stderr.isatty():
        os.write(2, _SHOW_CURSOR)
    os._exit(INTERRUPTED)
