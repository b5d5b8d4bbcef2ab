"""Results for people: short, aligned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dbmazz_core.engine.result import PipelineStatus, SnapshotResult, WindowResult
    from dbmazz_core.model.findings import CheckReport, SetupReport

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}
_REASONS = {
    "caught_up": "caught up",
    "max_changes": "stopped at the limit of changes",
    "max_bytes": "stopped at the limit of bytes",
    "max_seconds": "stopped at the limit of seconds",
    "stop_requested": "stopped as requested",
}


def size(count: int | None) -> str:
    """Bytes for people.

    >>> size(0), size(2048), size(5 << 30), size(None)
    ('0 B', '2.0 KB', '5.0 GB', 'unknown')
    """
    if count is None:
        return "unknown"
    amount, units = float(count), ["B", "KB", "MB", "GB", "TB"]
    while amount >= 1024 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{count} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"


def check(report: CheckReport) -> Iterator[RenderableType]:
    """Every finding; under what is wrong, what to do."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for finding in report.findings:
        grid.add_row(Text(finding.level, style=_LEVEL_STYLES[finding.level]), Text(finding.what))
        if finding.error is not None:
            grid.add_row("", Text(f"what to do: {finding.error.remedy}"))
    yield grid
    errors, warnings = len(report.errors), len(report.warnings)
    yield f"ready to capture, {warnings} warnings" if report.ok else f"{errors} errors, {warnings} warnings"


def setup(report: SetupReport) -> Iterator[RenderableType]:
    """What was done."""
    yield from report.done or ("everything is in place already",)


def window(result: WindowResult) -> Iterator[RenderableType]:
    """A window: where it ended and why, then the tables."""
    yield (
        f"{_REASONS[result.stop_reason.value]} at {result.end_lsn}: {_count(result.changes, 'change')} in "
        f"{_count(result.transactions, 'transaction')}, {result.duration_s:.1f} s, lag {size(result.lag_bytes)}"
    )
    copied = any(counts.snapshot_rows is not None for counts in result.tables.values())
    bad = any(counts.quarantined for counts in result.tables.values())
    headings = [*(["rows copied"] if copied else []), *(["quarantined"] if bad else [])]
    table = _table("table", "inserts", "updates", "deletes", "truncates", *headings)
    for ref, counts in sorted(result.tables.items()):
        numbers = [counts.inserts, counts.updates, counts.deletes, counts.truncates]
        shown = [f"{number:,}" for number in numbers]
        if copied:
            shown.append("" if counts.snapshot_rows is None else f"{counts.snapshot_rows:,}")
        if bad:
            shown.append(f"{counts.quarantined:,}")
        table.add_row(str(ref), *shown)
    yield table
    yield from result.schema_changes
    yield from (f"{ref} {reason}: copied anew" for ref, reason in sorted(result.copy_anew.items()))


def snapshot(result: SnapshotResult) -> Iterator[RenderableType]:
    """Rows copied by table."""
    yield f"{_count(sum(result.rows.values()), 'row')} copied in {result.duration_s:.1f} s, checkpoint {result.lsn}"
    bad = any(result.quarantined.values())
    table = _table("table", "rows copied", *(["quarantined"] if bad else []))
    for ref, rows in sorted(result.rows.items()):
        table.add_row(str(ref), f"{rows:,}", *([f"{result.quarantined.get(ref, 0):,}"] if bad else []))
    yield table


def status(state: PipelineStatus) -> Iterator[RenderableType]:
    """Slot, positions, and the tables."""
    if not state.source.slot_exists:
        slot = "does not exist"
    else:
        use = f"in use by process {state.source.active_pid}" if state.source.slot_active else "not in use"
        slot = use if state.source.wal_status in (None, "reserved") else f"{use}, WAL {state.source.wal_status}"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("slot", Text(f"{state.source.slot} ({slot})"))
    grid.add_row("confirmed", str(state.source.confirmed_lsn or "none"))
    if state.destination_error is None:
        checkpoint = state.checkpoint
        grid.add_row("checkpoint", str(checkpoint.lsn) if checkpoint else "none")
        if checkpoint and checkpoint.commit_time:
            grid.add_row("last commit", f"{checkpoint.commit_time:%Y-%m-%d %H:%M:%S.%f} UTC")
    else:
        grid.add_row("checkpoint", Text(f"unknown: {state.destination_error}"))
    grid.add_row("server", str(state.source.server_lsn))
    grid.add_row("lag", size(state.lag_bytes))
    yield grid
    if state.tables:
        bad = any(entry.quarantined for entry in state.tables)
        table = _table("table", "rows", "mode", "state", "snapshot", *(["quarantined"] if bad else []))
        for entry in state.tables:
            rows = "" if entry.rows is None else f"{entry.rows:,}"
            more = [f"{entry.quarantined:,}"] if bad else []
            table.add_row(str(entry.table), rows, entry.mode.value, entry.state, str(entry.snapshot_lsn or ""), *more)
        yield ""
        yield table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
