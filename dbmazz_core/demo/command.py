"""The command `dbmazz demo`."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import click
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

from dbmazz_core.demo.compare import TableComparison
from dbmazz_core.demo.headless import HeadlessReport, run_headless
from dbmazz_core.demo.running_shop import running_shop
from dbmazz_core.demo.signals import stop_on_signals
from dbmazz_core.demo.with_ui import run_with_ui
from dbmazz_core.errors import DbmazzError

_HEADLESS_SECONDS = 30.0
_DIFFERENT = 1
#: Exit code of a command that Ctrl-C ended, as a shell reports it: 128 + SIGINT.
_INTERRUPTED = 130


@click.command()
@click.option(
    "--headless",
    is_flag=True,
    help="No UI: capture in a loop, then compare source and destination; exit code 1 if they differ.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    help="End after this many seconds (by default never; after 30 with --headless).",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of Dagster's UI; by default 3000, or a free port if 3000 is taken.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0.1, max=1000),
    default=25.0,
    show_default=True,
    help="Transactions per second of the workload.",
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep the DuckDB file, Dagster's home and the logs in this new directory.",
)
@click.option("--json", "as_json", is_flag=True, help="With --headless: print the result as JSON on stdout.")
@click.pass_context
def demo(
    context: click.Context,
    headless: bool,
    seconds: float | None,
    port: int | None,
    rate: float,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Run PostgreSQL, traffic, DuckDB and Dagster's UI on this machine.

    Starts a private PostgreSQL server with the tables of a small shop and a workload that changes them, and Dagster,
    which captures every change into a DuckDB file. Ctrl-C stops everything and removes all files.
    """
    if as_json and not headless:
        raise click.UsageError("--json requires --headless")
    if headless and port is not None:
        raise click.UsageError("--port is the port of Dagster's UI, which --headless does not start")
    with stop_on_signals() as stop:
        try:
            if headless:
                code = _headless(seconds or _HEADLESS_SECONDS, rate, keep, stop, as_json=as_json)
            else:
                run_with_ui(seconds=seconds, port=port, rate=rate, keep=keep, stop=stop, console=Console())
                code = 0
        except (DbmazzError, psycopg.Error):
            # Ctrl-C in a terminal reaches initdb, too, which then fails.
            if not stop.is_set():
                raise
            code = _INTERRUPTED
    context.exit(code)


def _headless(seconds: float, rate: float, keep: Path | None, stop: threading.Event, *, as_json: bool) -> int:
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    with running_shop(keep) as shop:
        messages.print(
            f"PostgreSQL {shop.postgres_version} is running; {rate:g} transactions per second for {seconds:g} s"
        )
        report = run_headless(shop, seconds=seconds, rate=rate, stop=stop, report=messages.print)
    if report is None:
        messages.print("interrupted: source and destination were not compared")
        return _INTERRUPTED
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        _print_report(report, Console(highlight=False))
    return 0 if report.equal else _DIFFERENT


def _print_report(report: HeadlessReport, console: Console) -> None:
    table = Table("", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("copied", "inserts", "updates", "deletes", "PostgreSQL", "DuckDB"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for comparison in report.comparisons:
        counts = report.captured[comparison.table]
        changes = (counts.snapshot_rows or 0, counts.inserts, counts.updates, counts.deletes)
        rows = (comparison.source_rows, comparison.destination_rows)
        table.add_row(comparison.table.name, *(f"{n:,}" for n in changes + rows), _verdict(comparison))
    console.print(table)
    for comparison in report.comparisons:
        for difference in comparison.differences:
            console.print(f"{comparison.table}: {difference}", markup=False, soft_wrap=True)
    verdict = "equal" if report.equal else "different"
    console.print(
        f"{report.windows} windows, {report.transactions:,} transactions, {report.duration_s:.1f} s: "
        f"source and destination are {verdict}"
    )


def _verdict(comparison: TableComparison) -> str:
    if comparison.equal:
        return "[green]equal[/]"
    kinds = (("missing", comparison.missing), ("extra", comparison.extra), ("changed", comparison.changed))
    return "[red]" + (", ".join(f"{n:,} {kind}" for kind, n in kinds if n) or "different") + "[/]"
