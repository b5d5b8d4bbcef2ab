"""Signals while a query of polars runs: its own handler must not end a capture before its next flush."""

from __future__ import annotations

import subprocess
import sys

import pytest

_QUERY = """
import os, signal, sys, threading
from dbmazz_core.cli.report import Report
from dbmazz_core.cli.signals import stop_on_signals
from dbmazz_core.loading import load_polars

stop = stop_on_signals(Report(json=False, debug=False))
if sys.argv[1] == "in a thread":
    thread = threading.Thread(target=load_polars)
    thread.start()
    thread.join()
elif sys.argv[1] == "in the main thread":
    load_polars()
import polars as pl

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


@pytest.mark.parametrize("where", ["in the main thread", "in a thread"])
def test_ctrl_c_in_a_query_of_polars_lets_it_end(where: str) -> None:
    end = _end_of_query(where)
    assert (end.returncode, end.stderr) == (0, "stopping at the next flush, press Ctrl-C again to stop at once\n")


def test_polars_would_raise_in_the_middle_of_its_query() -> None:
    """Without this, the former test could not fail."""
    assert "KeyboardInterrupt" in _end_of_query("of polars").stderr
