"""Results of commands as text and aligned tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dbmazz_core.engine.result import PipelineStatus, SnapshotResult, WindowResult
    from dbmazz_core.model.findings import CheckReport, SetupReport
    from dbmazz_core.model.read_copy import ReadCopy
    from dbmazz_core.model.table_state import TableState

_LEVEL_STYLES = {"ok": "green", "warning": "yellow", "error": "red"}
_REASONS = {
    "caught_up": "caught up",
    "max_changes": "stopped at --max-changes",
    "max_bytes": "stopped at --max-bytes",
    "max_seconds": "stopped at --max-seconds",
    "postponed": "postponed",
    "stop_requested": "stopped by a signal",
}


def size(count: int | None) -> str:
    """Return a number of bytes with a unit. Units are powers of 1024.

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
    """Yield the findings of a check as a table, with a remedy below each problem, and a summary line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(overflow="fold")
    for finding in report.findings:
        grid.add_row(Text(finding.level, style=_LEVEL_STYLES[finding.level]), Text(finding.what))
        if finding.error is not None:
            grid.add_row("", Text(f"what to do: {finding.error.remedy}"))
    yield grid
    errors, warnings = len(report.errors), len(report.warnings)
    summary = "ready to capture" if report.ok else _count(errors, "error")
    yield f"{summary}, {_count(warnings, 'warning')}"


def setup(report: SetupReport) -> Iterator[RenderableType]:
    """Yield the steps of a setup, one per line."""
    yield from report.done or ("nothing to do: publication, slot and replica identities are in place",)


def window(result: WindowResult) -> Iterator[RenderableType]:
    """Yield a summary of a window, a table of its changes by captured table, and its schema changes."""
    yield (
        f"{_REASONS[result.stop_reason.value]} at LSN {result.end_lsn}: {_count(result.changes, 'change')} in "
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
    if result.postponed is not None:
        yield Text(result.postponed)
    yield from _read_copy(result.read_copy)
    yield from result.schema_changes
    yield from (f"{ref} {reason}: re-snapshotted" for ref, reason in sorted(result.copy_anew.items()))


def snapshot(result: SnapshotResult) -> Iterator[RenderableType]:
    """Yield a summary of a snapshot, and a table of the rows copied."""
    yield f"{_count(sum(result.rows.values()), 'row')} copied in {result.duration_s:.1f} s, checkpoint LSN {result.lsn}"
    bad = any(result.quarantined.values())
    table = _table("table", "rows copied", *(["quarantined"] if bad else []))
    for ref, rows in sorted(result.rows.items()):
        table.add_row(str(ref), f"{rows:,}", *([f"{result.quarantined.get(ref, 0):,}"] if bad else []))
    yield table
    yield from _read_copy(result.read_copy)


def _read_copy(copy: ReadCopy | None) -> Iterator[RenderableType]:
    if copy is not None and copy.duration_s is not None:
        yield Text(f"read copy {copy.path} published at LSN {copy.lsn} in {copy.duration_s:.1f} s")


def tables(states: Sequence[TableState]) -> Iterator[RenderableType]:
    """Yield a table of the destination's tables, and the reasons of those that do not stream."""
    grid = _table("table", "state", "rows", "last change", "rows as of", "since", "mode")
    for entry in states:
        grid.add_row(
            str(entry.table),
            entry.state.value,
            "" if entry.rows is None else f"{entry.rows:,}",
            str(entry.last_change_lsn or ""),
            str(entry.lsn or ""),
            "" if entry.since is None else f"{entry.since:%Y-%m-%d %H:%M:%S}",
            entry.mode.value,
        )
    yield grid
    yield from _reasons(states)


def _reasons(states: Iterable[TableState]) -> Iterator[str]:
    """Yield why tables do not stream, and what to do."""
    for entry in states:
        if entry.problem is not None:
            yield f"{entry.table} is {entry.state.value}: {entry.problem.reason}"
            if entry.problem.remedy:
                yield f"  what to do: {entry.problem.remedy}"


def status(state: PipelineStatus) -> Iterator[RenderableType]:
    """Yield slot, positions and lag, and a table of the captured tables."""
    if not state.source.slot_exists:
        slot = "does not exist"
    else:
        use = f"in use by process {state.source.active_pid}" if state.source.slot_active else "not in use"
        slot = use if state.source.wal_status in (None, "reserved") else f"{use}, WAL {state.source.wal_status}"
    grid = Table.grid(padding=(0, 2))
    grid.add_row("slot", Text(f"{state.source.slot} ({slot})"))
    grid.add_row("publication", Text(state.source.publication))
    grid.add_row("confirmed LSN", str(state.source.confirmed_lsn or "none"))
    if state.destination_error is None:
        checkpoint = state.checkpoint
        grid.add_row("checkpoint", str(checkpoint.lsn) if checkpoint else "none")
        if checkpoint and checkpoint.commit_time:
            grid.add_row("last commit", f"{checkpoint.commit_time:%Y-%m-%d %H:%M:%S.%f} UTC")
    else:
        grid.add_row("checkpoint", Text(f"unknown: {state.destination_error}"))
    grid.add_row("server LSN", str(state.source.server_lsn))
    grid.add_row("lag", size(state.lag_bytes))
    if (restart := state.source.restart_lag_bytes) is not None:
        grid.add_row("restart lag", f"{size(restart)} that a new stream decodes first, from {state.source.restart_lsn}")
    if state.format is not None:
        grid.add_row("file format", state.format)
    if state.stream_format is not None:
        grid.add_row("stream format", str(state.stream_format))
    if state.file_held_s is not None:
        grid.add_row("last flush", f"held the file for {state.file_held_s:.2f} s")
    yield grid
    if state.tables:
        bad = any(entry.quarantined for entry in state.tables)
        behind = any(entry.lsn is not None for entry in state.tables)
        headings = [*(["rows as of"] if behind else []), *(["quarantined"] if bad else [])]
        table = _table("table", "rows", "mode", "state", "snapshot LSN", *headings)
        for entry in state.tables:
            rows = "" if entry.rows is None else f"{entry.rows:,}"
            more = [*([str(entry.lsn or "")] if behind else []), *([f"{entry.quarantined:,}"] if bad else [])]
            table.add_row(
                str(entry.table), rows, entry.mode.value, entry.state.value, str(entry.snapshot_lsn or ""), *more
            )
        yield ""
        yield table
        yield from _reasons(state.tables)
        for entry in state.tables:
            if entry.unpublished:
                yield f"{entry.table} lacks columns that PostgreSQL does not send: {', '.join(entry.unpublished)}"


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
