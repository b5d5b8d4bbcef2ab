"""The status line of the demo: row counts of source and destination, lag, windows and transactions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dbmazz_core.demo.dagster_client import DagsterState
from dbmazz_core.demo.shop import TABLES
from dbmazz_core.table_ref import TableRef

#: Seconds between two lines if the output is not a terminal.
_PLAIN_INTERVAL_S = 5.0


@dataclass(frozen=True, slots=True)
class State:
    """The values in the status line.

    Attributes:
        source: Rows by table in PostgreSQL now.
        observed: The state of the capture in Dagster.
        lag_bytes: Bytes of WAL between the slot's confirmed LSN and the server's LSN; None while the slot does not
            exist.
        transactions: Number of transactions of the workload so far.
        paused: Whether the workload is paused.
    """

    source: Mapping[TableRef, int]
    observed: DagsterState
    lag_bytes: int | None
    transactions: int
    paused: bool


class Display:
    """The output of the status line: rewritten in place in a terminal, otherwise printed every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._printed = float("-inf")

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, state: State) -> None:
        """Show a state."""
        now = time.monotonic()
        if self._live is not None:
            self._live.update(line(state), refresh=True)
        elif now - self._printed >= _PLAIN_INTERVAL_S:
            self._printed = now
            self._console.print(line(state), soft_wrap=True)


def line(state: State) -> Text:
    """Return the state as one line, with rows as `PostgreSQL > DuckDB`, or `=` if the counts are equal."""
    text = Text()
    for table in TABLES:
        source, destination = state.source.get(table), state.observed.rows.get(table)
        style = "green" if source == destination else "yellow"
        sign = "=" if source == destination else ">"
        text.append(f"{table.name} ").append(f"{_count(source)} {sign} {_count(destination)}", style).append(" | ")
    text.append(f"lag {_bytes(state.lag_bytes)}")
    text.append(f" | {state.observed.captures} windows")
    if state.observed.failures:
        text.append(f", {state.observed.failures} failed", "red")
    text.append(f" | revenue {_age(state.observed.revenue_at)}")
    text.append(f" | {state.transactions:,} transactions")
    text.append(" (paused)" if state.paused else "")
    return text


def _count(rows: int | None) -> str:
    return "-" if rows is None else f"{rows:,}"


def _age(moment: float | None) -> str:
    return "-" if moment is None else f"{max(0.0, time.time() - moment):.0f} s old"


def _bytes(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1024:,.0f} KB" if size < 10 << 20 else f"{size / (1 << 20):,.0f} MB"
