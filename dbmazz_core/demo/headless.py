"""The demo without a UI: capture windows in a loop during the workload, then compare source and destination."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from dbmazz_core.demo.compare import TableComparison, compare
from dbmazz_core.demo.running_shop import RunningShop
from dbmazz_core.demo.shop import TABLES, count_rows
from dbmazz_core.demo.traffic import Traffic
from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.errors import DbmazzError
from dbmazz_core.pipeline import Pipeline
from dbmazz_core.settings.config import WindowLimits
from dbmazz_core.table_ref import TableRef

#: Pause between two windows, shorter than the interval of Dagster's sensor.
_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class HeadlessReport:
    """The result of the demo.

    Attributes:
        comparisons: The comparison of each table.
        captured: Changes and snapshot rows of all windows, by table.
        windows: Number of windows.
        transactions: Number of transactions that the workload committed.
        duration_s: Seconds from the start of the workload to the end of the comparison.
    """

    comparisons: tuple[TableComparison, ...]
    captured: Mapping[TableRef, TableCounts]
    windows: int
    transactions: int
    duration_s: float

    @property
    def equal(self) -> bool:
        """Whether all tables are equal."""
        return all(comparison.equal for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `demo --headless --json` prints it."""
        return {
            "equal": self.equal,
            "tables": {
                str(c.table): {**c.to_dict(), **self.captured[c.table].to_dict()}
                for c in sorted(self.comparisons, key=lambda c: c.table)
            },
            "windows": self.windows,
            "transactions": self.transactions,
            "duration_s": round(self.duration_s, 3),
        }


def run_headless(
    shop: RunningShop,
    *,
    seconds: float,
    rate: float,
    stop: threading.Event,
    report: Callable[[str], None],
) -> HeadlessReport | None:
    """Run windows during the workload, then one that catches up, then compare.

    Args:
        shop: The running shop.
        seconds: Duration of the workload.
        rate: Transactions per second of the workload.
        stop: Ends the demo early.
        report: Called with one line about each window.

    Returns:
        The result, or None if `stop` was set.

    Raises:
        DbmazzError: A window or the workload failed.
    """
    pipeline = Pipeline(shop.settings)
    tally = _Tally(report)
    started = time.monotonic()
    # The workload starts first, so that rows change during the snapshot.
    with Traffic(shop.url, rate=rate) as traffic:
        while (left := started + seconds - time.monotonic()) > 0 and not stop.is_set():
            tally.add(pipeline.capture(limits=WindowLimits(max_seconds=left), stop=stop), _source_rows(shop.url))
            stop.wait(min(_PAUSE_S, left))
    if traffic.error is not None:
        raise DbmazzError(
            f"the workload of the demo failed: {traffic.error}",
            object="traffic",
            remedy="run the demo again; if the error repeats, please report it",
        )
    while not stop.is_set():
        result = pipeline.capture(limits=WindowLimits(), stop=stop)
        tally.add(result, _source_rows(shop.url))
        if result.stop_reason is StopReason.CAUGHT_UP:
            comparisons = tuple(compare(shop.url, shop.destination, TABLES))
            duration = time.monotonic() - started
            return HeadlessReport(comparisons, tally.tables, tally.windows, traffic.transactions, duration)
    return None


class _Tally:
    """The sums of the results of all windows."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.tables = {table: TableCounts(snapshot_rows=0) for table in TABLES}
        self.windows = 0
        self._report = report

    def add(self, result: WindowResult, source_rows: int) -> None:
        self.windows += 1
        copied = 0
        for table, counts in result.tables.items():
            total = self.tables[table]
            total.inserts += counts.inserts
            total.updates += counts.updates
            total.deletes += counts.deletes
            total.truncates += counts.truncates
            total.snapshot_rows = (total.snapshot_rows or 0) + (counts.snapshot_rows or 0)
            copied += counts.snapshot_rows or 0
        self._report(
            f"window {self.windows}: "
            + (f"{copied:,} rows copied, " if copied else "")
            + f"{result.changes:,} changes of {result.transactions:,} transactions up to LSN {result.end_lsn} "
            f"in {result.duration_s:.1f} s; lag {result.lag_bytes:,} bytes, {source_rows:,} rows in PostgreSQL"
        )


def _source_rows(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        return sum(count_rows(connection).values())
