"""The commands. Each imports the engine only when it runs."""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbmazz_core.cli.lazy import LazyGroup
from dbmazz_core.cli.progress import show_progress
from dbmazz_core.cli.report import INTERRUPTED, Report
from dbmazz_core.cli.settings import has_tables, load_settings, setting_options
from dbmazz_core.cli.signals import stop_on_signals
from dbmazz_core.errors import ConfigError, TableNotFound
from dbmazz_core.settings.tables import TablePattern, parse_tables
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.pipeline import Pipeline
    from dbmazz_core.settings.config import Settings

log = logging.getLogger("dbmazz")

#: Of the source's settings the one that only a window uses.
_WINDOW_ONLY = ("CLEANUP_ON_STOP",)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Settings come from flags, the environment, or a file (--config), in this order of precedence.",
)
@click.version_option(package_name="dbmazz", prog_name="dbmazz", message="%(prog)s %(version)s")
@click.pass_context
def dbmazz(context: click.Context) -> None:
    """PostgreSQL changes, exact and fast, into DuckDB."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def _common_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options of all commands."""

    @click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML file with settings.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout, for errors too.")
    @click.option("-v", "--verbose", count=True, help="Log to stderr; twice for more.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @click.pass_obj
    @functools.wraps(command)
    def run(report: Report, /, *, as_json: bool, debug: bool, verbose: int, **options: Any) -> int | None:
        report.json, report.debug = as_json, debug
        report.start_logging(verbose)
        return command(report, **options)

    return run


def _settings(
    report: Report, config: Path | None, flags: dict[str, str | None], *, tables_needed: bool = True
) -> Settings:
    settings = load_settings(flags, config, tables_needed=tables_needed)
    report.url = settings.source.url
    log.info("source %s, slot %s, sink %s", settings.source.url, settings.source.slot, settings.sink.url)
    return settings


def _pipeline(settings: Settings) -> Pipeline:
    # Modules stay until the end: the collector is not to look through them, now or then (0.1 s of a command).
    gc.disable()
    from dbmazz_core.pipeline import Pipeline

    gc.freeze()
    gc.enable()
    return Pipeline(settings)


@dbmazz.command()
@setting_options("source", without=_WINDOW_ONLY)
@_common_options
def check(report: Report, config: Path | None, **flags: str | None) -> int:
    """Look at everything that capturing needs, and change nothing."""
    found = _pipeline(_settings(report, config, flags)).check()
    code = found.errors[0].exit_code if found.errors else 0
    report.result({**found.to_dict(), "exit_code": code}, *_rendered(report, "check", found))
    return code


@dbmazz.command()
@setting_options("source", without=_WINDOW_ONLY)
@_common_options
def setup(report: Report, config: Path | None, **flags: str | None) -> None:
    """Make publication, slot and replica identities; does nothing where all is in place."""
    done = _pipeline(_settings(report, config, flags)).setup()
    for warning in done.check.warnings:
        report.message(f"warning: {warning.what}")
    report.result(done.to_dict(), *_rendered(report, "setup", done))


@dbmazz.command()
@setting_options("source", "sink", "snapshot", without=(*_WINDOW_ONLY, "DO_SNAPSHOT"))
@_common_options
def snapshot(report: Report, config: Path | None, **flags: str | None) -> None:
    """Copy tables anew; readers see the old rows until each is complete.

    Without --tables all configured tables are copied and the slot starts from a new position: this repairs a slot
    that is gone, lost or ahead of the checkpoint. With --tables, and TABLES in the environment or the file, only
    these of the configured tables are copied.
    """
    text = flags["tables"]
    some = parse_tables(text) if text is not None and has_tables(config) else None
    if some is not None:
        flags["tables"] = None
    pipeline = _pipeline(_settings(report, config, flags))
    chosen = _chosen_tables(pipeline, some) if some is not None else None
    with show_progress(report) as progress:
        result = pipeline.snapshot(chosen, progress=progress)
    report.result(result.to_dict(), *_rendered(report, "snapshot", result))


@dbmazz.command()
@setting_options("source", "sink", "snapshot", "flush", "limits", "tables")
@_common_options
def capture(report: Report, config: Path | None, **flags: str | None) -> None:
    """Run one window: bring all changes up to now into the destination, and end.

    The first one sets up and copies the tables by itself. SIGTERM and Ctrl-C end it at the next flush, a
    copy before its next rows.
    """
    from dbmazz_core.prestart import prestart

    stop = stop_on_signals(report)
    settings = _settings(report, config, flags)
    prestart()  # while polars and DuckDB are imported

    pipeline = _pipeline(settings)
    with show_progress(report) as progress:
        result = pipeline.capture(stop=stop, progress=progress)
    report.result(result.to_dict(), *_rendered(report, "window", result))


@dbmazz.command()
@setting_options("source", "sink", without=(*_WINDOW_ONLY, "REPLICA_IDENTITY"))
@_common_options
def status(report: Report, config: Path | None, **flags: str | None) -> None:
    """Show slot, checkpoint, lag and tables."""
    state = _pipeline(_settings(report, config, flags, tables_needed=False)).status()
    report.result(state.to_dict(), *_rendered(report, "status", state))


@dbmazz.command()
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="How many changes.")
@setting_options("source", without=(*_WINDOW_ONLY, "REPLICA_IDENTITY"))
@_common_options
def peek(report: Report, config: Path | None, limit: int, **flags: str | None) -> None:
    """Show the next changes, one a line, and consume nothing."""
    from dbmazz_core.cli.records import record_line, record_to_dict

    pipeline = _pipeline(_settings(report, config, flags))
    records = []
    for record in pipeline.peek(limit):
        records.append(record_to_dict(record))
        if not report.json:
            report.result({}, record_line(record))
    if report.json:
        report.result({"records": records})
    if not records:
        exists = pipeline.source_status().slot_exists
        slot = pipeline.settings.source.slot
        report.message(
            "nothing to capture" if exists else f"there is no replication slot {slot} yet; `dbmazz capture` creates it"
        )


@dbmazz.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@setting_options("source", without=(*_WINDOW_ONLY, "REPLICA_IDENTITY"))
@_common_options
def teardown(report: Report, config: Path | None, yes: bool, **flags: str | None) -> int:
    """Drop slot and publication. The destination stays as it is."""
    settings = _settings(report, config, flags, tables_needed=False)
    source = settings.source
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(
                f"teardown drops replication slot {source.slot} and publication {source.publication}, and there is no "
                "terminal to ask whether it should",
                object="--yes",
                remedy="add --yes",
            )
        report.message(f"source: {source.url}")
        question = (
            f"Drop replication slot {source.slot} and publication {source.publication}? Changes that were not captured "
            "are then out of reach"
        )
        if not click.confirm(question, err=True):
            report.message("nothing was dropped")
            report.result({"done": []})
            return INTERRUPTED
    done = _pipeline(settings).teardown()
    report.result({"done": done}, *(done or ["there was nothing to drop"]))
    return 0


def _chosen_tables(pipeline: Pipeline, patterns: tuple[TablePattern, ...]) -> list[TableRef] | None:
    """Which of the configured tables are meant; None: all."""
    configured = [description.table for description in pipeline.tables()]
    for pattern in patterns:
        if not any(pattern.matches(ref) for ref in configured):
            raise TableNotFound(
                f"{pattern} is not one of the configured tables",
                object=str(pattern),
                remedy=f"add it to TABLES, or choose of: {', '.join(map(str, configured))}",
            )
    chosen = [ref for ref in configured if any(pattern.matches(ref) for pattern in patterns)]
    return None if len(chosen) == len(configured) else chosen


def _rendered(report: Report, kind: str, result: Any) -> list[Any]:
    """For people; rich is not even imported where nobody reads it."""
    if report.json:
        return []
    from dbmazz_core.cli import render

    return list(getattr(render, kind)(result))
