"""Signals while a query of polars runs: its own handler must not end a capture before its next flush."""

from __future__ import annotations

import subprocess
import sys

_QUERY = """
import os, signal, sys, threading
from dbmazz_core.cli.report import Report
from dbmazz_core.cli.signals import stop_on_signals, take_signals_back

stop = stop_on_signals(Report(json=False, debug=False))
import polars as pl  # after the handlers, as in `dbmazz capture`
if sys.argv[1] == "taken back":
    take_signals_back()

rows = pl.LazyFrame({"n": range(1000)}).join(pl.LazyFrame({"m": range(1000)}), how="cross")
query = rows.with_columns(text=(pl.col("n") * pl.col("m") % 7919).cast(pl.String)).sort("text")
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
while not stop.is_set():
    query.collect()
query.collect()
"""


def _end_of_query(handlers: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _QUERY, handlers]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_in_a_query_of_polars_lets_it_end() -> None:
    end = _end_of_query("taken back")
    assert (end.returncode, end.stderr) == (0, "stopping at the next flush, press Ctrl-C again to stop at once\n")


def test_polars_would_raise_in_the_middle_of_its_query() -> None:
    """Without this, the former test could not fail."""
    assert "KeyboardInterrupt" in _end_of_query("of polars").stderr
