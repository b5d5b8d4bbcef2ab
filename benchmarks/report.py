"""The results of the benchmarks as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.rounds import Measured, Round


def tables(
    machine: Mapping[str, str],
    measured: Mapping[str, Measured],
    stages: Mapping[str, Mapping[str, float]] | None,
    snapshots: Sequence[Mapping[str, Any]],
    many_tables: Sequence[Mapping[str, float]],
    partitions: Sequence[Mapping[str, float]],
    dagster_runs: Sequence[Mapping[str, float]],
    storage_versions: Sequence[Mapping[str, float | str]],
    following: Sequence[Mapping[str, float]] = (),
) -> str:
    """Return the text with all tables.

    Args:
        machine: Processor and versions.
        measured: Results by workload.
        stages: Results of single stages, None if they were not measured.
        snapshots: Results of the snapshot by number of connections.
        many_tables: Results of windows by number of tables.
        partitions: Results of windows by number of partitions.
        dagster_runs: Results of runs in Dagster by number of tables.
        storage_versions: Results by storage version of the DuckDB file.
        following: Results of `follow` by number of tables and interval.
    """
    differences = [sentence for one in measured.values() for sentence in one.differences]
    differences += [sentence for one in snapshots for sentence in one["differences"]]
    lines = [
        f"{machine['cpu']}, PostgreSQL {machine['postgresql']}, Python {machine['python']}, "
        f"DuckDB {machine['duckdb']}, polars {machine['polars']}. "
        f"Destinations equal to their sources: {'; '.join(differences) or 'yes'}.",
    ]
    orders = measured.get("orders")
    if orders is not None:
        lines += ["", f"`orders`, {orders.backlog.changes:,} changes:", ""]
        lines += _transports(orders)
        if stages is not None:
            lines += ["", *_stages(stages, orders.backlog.changes)]
    others = [one for name, one in measured.items() if name != "orders"]
    if others:
        lines += ["", "Other tables:", "", *_workloads(others)]
    if snapshots:
        lines += ["", *_snapshots(snapshots)]
    for what, windows in (("tables", many_tables), ("partitions of one table", partitions)):
        if windows:
            lines += ["", *_windows(what, windows)]
    if dagster_runs:
        lines += ["", *_runs(dagster_runs)]
    if storage_versions:
        lines += ["", *_storage_versions(storage_versions)]
    if following:
        lines += ["", *_follow(following)]
    return "\n".join(lines) + "\n"


def _runs(runs: Sequence[Mapping[str, float]]) -> list[str]:
    lines = [
        "Runs in Dagster, from the start of the worker to the success of the run:",
        "",
        "| tables | a job that does nothing, s | window without changes, s | window with one changed table, s "
        "| tick that finds it, s | events | kB |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        lines.append(
            f"| {run['tables']:,.0f} | {run['empty_s']:.2f} | {run['idle_s']:.2f} | {run['changed_s']:.2f} "
            f"| {run['tick_s']:.2f} | {run['events']:.0f} | {run['kb']:.0f} |"
        )
    return lines


def _storage_versions(versions: Sequence[Mapping[str, float | str]]) -> list[str]:
    lines = [
        "`SINK_STORAGE_VERSION`, a copy of orders and documents, and a query of all their columns:",
        "",
        "| version | copy, s | query, s | file, MB |",
        "|---|---|---|---|",
    ]
    for one in versions:
        lines.append(f"| {one['version']} | {one['copy_s']:.1f} | {one['read_s']:.2f} | {one['mb']:.0f} |")
    return lines


def _follow(following: Iterable[Mapping[str, float]]) -> list[str]:
    lines = [
        "| `follow`: tables | `FOLLOW_INTERVAL_MS` | transactions/s | commit to visible, ms: p50 | p99 | flushes/s "
        "| of a core | of a core, idle |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in following:
        lines.append(
            f"| {one['tables']:.0f} | {one['interval_ms']:.0f} | {one['rate']:,.0f} | {one['p50_ms']:.0f} "
            f"| {one['p99_ms']:.0f} | {one['flushes_s']:.1f} | {one['cpu']:.0%} | {one['idle_cpu']:.1%} |"
        )
    return lines


def _transports(measured: Measured) -> list[str]:
    changes = measured.backlog.changes
    lines = [
        "| transport | `pg_recvlogical`/s | `dbmazz capture`/s | ratio (each round) | CPU s | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for transport, rounds in measured.rounds.items():
        lines.append(f"| {transport} | {_speeds(changes, rounds)} |")
    return lines


def _workloads(measured: Iterable[Measured]) -> list[str]:
    lines = [
        "| table | changes (inserts, updates, deletes) | bytes a change | transport | `pg_recvlogical`/s "
        "| `dbmazz capture`/s | ratio (each round) | CPU s | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in measured:
        backlog = one.backlog
        for transport, rounds in one.rounds.items():
            lines.append(
                f"| {one.workload.title} | {backlog.changes:,} ({backlog.inserts:,}, {backlog.updates:,}, "
                f"{backlog.deletes:,}) | {one.bytes / backlog.changes:,.0f} | {transport} "
                f"| {_speeds(backlog.changes, rounds)} |"
            )
    return lines


def _speeds(changes: int, rounds: Sequence[Round]) -> str:
    ratios = ", ".join(f"{one.ratio:.2f}" for one in rounds)
    return (
        f"{changes / statistics.median(one.limit_s for one in rounds):,.0f} "
        f"| {changes / statistics.median(one.capture_s for one in rounds):,.0f} "
        f"| **{statistics.median(one.ratio for one in rounds):.2f}** ({ratios}) "
        f"| {statistics.median(one.cpu_s for one in rounds):.1f} | {max(one.peak_mb for one in rounds):.0f}"
    )


def _stages(stages: Mapping[str, Mapping[str, float]], changes: int) -> list[str]:
    lines = ["| stage, alone | wall s | CPU s | changes/s |", "|---|---|---|---|"]
    for name, stage in stages.items():
        lines.append(f"| {name} | {stage['wall_s']:.2f} | {stage['cpu_s']:.2f} | {changes / stage['wall_s']:,.0f} |")
    return lines


def _snapshots(snapshots: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = snapshots[0]["rows"]
    lines = [
        f"Snapshot of {rows:,.0f} rows of `orders`, medians:",
        "",
        "| connections | `COPY (FORMAT binary)` to /dev/null, rows/s | `dbmazz snapshot`, rows/s | ratio | "
        "CPU, us a row | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['connections']} | {rows / one['limit_s']:,.0f} | {rows / one['snapshot_s']:,.0f} | "
        f"**{one['ratio']:.2f}** | "
        f"{one['cpu_s'] / rows * 1e6:.2f} | {one['peak_mb']:.0f} |"
        for one in snapshots
    ]
    return lines


def _windows(what: str, windows: Iterable[Mapping[str, float]]) -> list[str]:
    lines = [
        f"| {what} | first capture, s | idle window, s | one change in each, s | peak MB |",
        "|---|---|---|---|---|",
    ]
    for window in windows:
        number, *seconds, peak = window.values()
        lines.append(f"| {number:,.0f} | {' | '.join(f'{one:.2f}' for one in seconds)} | {peak:.0f} |")
    return lines
