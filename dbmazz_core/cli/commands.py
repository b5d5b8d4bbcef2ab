"""The commands of `dbmazz`, except `demo`. A command imports the engine only when it runs."""

from __future__ import annotations

import functools
import gc
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dbmazz_core.cli.lazy import LazyGroup
from dbmazz_core.cli.progress import show_progress
from dbmazz_core.cli.reloading import read_again
from dbmazz_core.cli.report import INTERRUPTED, TABLES_IN_TROUBLE, Report
from dbmazz_core.cli.settings import has_tables, load_settings, setting_options
from dbmazz_core.cli.signals import set_on_hangup, stop_on_signals
from dbmazz_core.errors import ConfigError, TableNotFound
from dbmazz_core.settings.tables import TablePattern, parse_tables
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.engine.follow_status import FollowStatus
    from dbmazz_core.engine.result import SnapshotResult, WindowResult
    from dbmazz_core.pipeline import Pipeline
    from dbmazz_core.settings.config import Settings

log = logging.getLogger("dbmazz")

#: The settings of group `source` that only a window uses.
WINDOW_ONLY = ("CLEANUP_ON_STOP",)


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Settings are read from flags, the environment, and a file (--config). A flag wins over the environment, "
    "the environment over the file.",
)
@click.version_option(package_name="dbmazz", prog_name="dbmazz", message="%(prog)s %(version)s")
@click.pass_context
def dbmazz(context: click.Context) -> None:
    """Replicate PostgreSQL tables into DuckDB, exactly and fast."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


def common_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the options that all commands share."""

    @click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="Read settings from this TOML file."
    )
    @click.option(
        "--json", "as_json", is_flag=True, help="Print the result, or the error, as one JSON object on stdout."
    )
    @click.option("-v", "--verbose", count=True, help="Log to stderr; -vv also logs debug messages.")
    @click.option("--debug", is_flag=True, help="Print the traceback of an error.")
    @click.pass_obj
    @functools.wraps(command)
    def run(report: Report, /, *, as_json: bool, debug: bool, verbose: int, **options: Any) -> int | None:
        report.json, report.debug = as_json, debug
        report.start_logging(verbose)
        return command(report, **options)

    return run


def read_settings(
    report: Report, config: Path | None, flags: dict[str, str | None], *, tables_needed: bool = True
) -> Settings:
    settings = load_settings(flags, config, tables_needed=tables_needed)
    report.url = settings.source.url
    log.info("source %s, slot %s, sink %s", settings.source.url, settings.source.slot, settings.sink.url)
    return settings


def make_pipeline(settings: Settings) -> Pipeline:
    # Objects of modules live until the process ends: a garbage collector that skips them saves a command 0.1 s.
    gc.disable()
    from dbmazz_core.pipeline import Pipeline

    gc.freeze()
    gc.enable()
    return Pipeline(settings)


@dbmazz.command(short_help="Check source and destination; change nothing.")
@setting_options("source", without=WINDOW_ONLY)
@common_options
def check(report: Report, config: Path | None, **flags: str | None) -> int:
    """Check that source and destination are ready for a capture; change nothing."""
    found = make_pipeline(read_settings(report, config, flags)).check()
    code = found.errors[0].exit_code if found.errors else 0
    report.result({**found.to_dict(), "exit_code": code}, *rendered(report, "check", found))
    return code


@dbmazz.command(short_help="Create publication and slot; set replica identities.")
@setting_options("source", without=WINDOW_ONLY)
@common_options
def setup(report: Report, config: Path | None, **flags: str | None) -> None:
    """Create the publication and the slot, and set replica identities, where needed."""
    done = make_pipeline(read_settings(report, config, flags)).setup()
    _warn(report, [warning.what for warning in done.check.warnings])
    report.result(done.to_dict(), *rendered(report, "setup", done))


@dbmazz.command(short_help="Re-snapshot tables.")
@click.option(
    "--new-server",
    is_flag=True,
    help="The tables have moved to the server or the database of SOURCE_URL: re-snapshot all of them from there into "
    "the same destination, which keeps deleted rows and changelogs.",
)
@click.option(
    "--upgraded-server",
    is_flag=True,
    help="pg_upgrade has upgraded the server and kept the slot, which this destination has consumed: continue at the "
    "slot's position, and copy only tables that are not the same.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="The slot has served another destination, which is given up: re-snapshot all tables into this one.",
)
@setting_options("source", "sink", "snapshot", without=(*WINDOW_ONLY, "DO_SNAPSHOT"))
@common_options
def snapshot(
    report: Report,
    config: Path | None,
    new_server: bool,
    upgraded_server: bool,
    take_over: bool,
    **flags: str | None,
) -> int:
    """Re-snapshot tables; readers see the old rows of a table until its copy is complete.

    Without --tables, all configured tables are copied and the slot starts at a new position. This repairs a slot
    that does not exist, is lost, or is ahead of the checkpoint. With --tables, and TABLES in the environment or the
    file, only the tables that --tables names are copied.
    """
    text = flags["tables"]
    some = parse_tables(text) if text is not None and has_tables(config) else None
    if some is not None:
        flags["tables"] = None
    pipeline = make_pipeline(read_settings(report, config, flags))
    chosen = _chosen_tables(pipeline, some) if some is not None else None
    ways = {
        "--tables": chosen is not None,
        "--upgraded-server": upgraded_server,
        "--new-server, --take-over": new_server or take_over,
    }
    if len(given := [way for way, is_given in ways.items() if is_given]) > 1:
        raise ConfigError(
            f"{' and '.join(given)} exclude each other",
            object=given[0],
            remedy="give one of them",
        )
    with show_progress(report) as progress:
        result = pipeline.snapshot(
            chosen, new_server=new_server, upgraded_server=upgraded_server, take_over=take_over, progress=progress
        )
    _warn(report, result.warnings)
    report.result(result.to_dict(), *rendered(report, "snapshot", result))
    return _code(report, result)


@dbmazz.command(short_help="Run one window: apply all changes up to now.")
@setting_options("source", "sink", "snapshot", "flush", "limits", "tables")
@common_options
def capture(report: Report, config: Path | None, **flags: str | None) -> int:
    """Run one window: apply all changes up to now to the destination, then exit.

    The first window also runs the setup and copies the tables. SIGTERM and Ctrl-C end a window at its next flush;
    they end a copy before its next rows.
    """
    stop = stop_on_signals(report)
    settings = read_settings(report, config, flags)
    pipeline = make_pipeline(settings)
    with show_progress(report) as progress:
        result = pipeline.capture(stop=stop, progress=progress)
    _warn(report, result.warnings)
    report.result(result.to_dict(), *rendered(report, "window", result))
    return _code(report, result)


@dbmazz.command(short_help="Apply changes as they come, until it is stopped.")
@setting_options("source", "sink", "snapshot", "flush", "tables", "follow", without=("FLUSH_INTERVAL_MS",))
@common_options
def follow(report: Report, config: Path | None, **flags: str | None) -> int:
    """Apply changes to the destination as they come, until SIGTERM or Ctrl-C ends it at its next flush.

    One stream stays open; the DuckDB file is held for each flush only. The first run also runs the setup and copies
    the tables. A connection that breaks is made again, and a file that others use is waited for. SIGHUP reads the
    settings again. With --json, each line is a JSON object.
    """
    from dbmazz_core.cli.follow_output import show_follow
    from dbmazz_core.cli.metrics import serve_metrics

    stop = stop_on_signals(report)
    hung_up = set_on_hangup(stop)
    settings = read_settings(report, config, flags)
    pipeline = make_pipeline(settings)

    def reload() -> Settings | None:
        if not hung_up.is_set():
            return None
        hung_up.clear()
        return read_again(report, settings, lambda: load_settings(flags, config))

    status: FollowStatus | None = None

    def watch(now: FollowStatus) -> None:
        nonlocal status
        status = now
        output.watch(now)

    with serve_metrics(settings.follow.metrics, lambda: status) as port:
        if port is not None and settings.follow.metrics is not None:
            report.message(f"metrics at http://{settings.follow.metrics[0]}:{port}/metrics")
        with show_follow(report) as output:
            status = pipeline.follow(stop=stop, reload=reload, watch=watch, progress=output.progress)
    return TABLES_IN_TROUBLE if status.in_trouble else 0


@dbmazz.command()
@setting_options("source", "sink", without=(*WINDOW_ONLY, "REPLICA_IDENTITY"))
@common_options
def status(report: Report, config: Path | None, **flags: str | None) -> None:
    """Show the slot, the checkpoint, the lag and the tables."""
    state = make_pipeline(read_settings(report, config, flags, tables_needed=False)).status()
    report.result(state.to_dict(), *rendered(report, "status", state))


@dbmazz.command(short_help="Write the DuckDB file anew, in another storage version.")
@setting_options("source", "sink", without=(*WINDOW_ONLY, "REPLICA_IDENTITY"))
@common_options
def rewrite(report: Report, config: Path | None, **flags: str | None) -> None:
    """Write the DuckDB file anew, with all that is in it, in the storage version of SINK_STORAGE_VERSION.

    Nobody else can use the file meanwhile. The new file takes the old one's place as a whole.
    """
    done = make_pipeline(read_settings(report, config, flags, tables_needed=False)).rewrite()
    report.result({"done": done}, done)


@dbmazz.command(short_help="Show the next changes without consuming them.")
@click.option("--limit", type=click.IntRange(1), default=10, show_default=True, help="Number of records.")
@setting_options("source", without=(*WINDOW_ONLY, "REPLICA_IDENTITY"))
@common_options
def peek(report: Report, config: Path | None, limit: int, **flags: str | None) -> None:
    """Show the next changes in the slot, one per line, without consuming them."""
    from dbmazz_core.cli.records import record_line, record_to_dict

    pipeline = make_pipeline(read_settings(report, config, flags))
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
            "nothing to capture"
            if exists
            else f"replication slot {slot} does not exist yet; `dbmazz capture` creates it"
        )


@dbmazz.command(short_help="Drop the slot and the publication.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option(
    "--drop-publication",
    is_flag=True,
    help="Drop the publication also if dbmazz did not create it, or another slot may use it.",
)
@setting_options("source", without=(*WINDOW_ONLY, "REPLICA_IDENTITY"))
@common_options
def teardown(report: Report, config: Path | None, yes: bool, drop_publication: bool, **flags: str | None) -> int:
    """Drop the slot and the publication; the destination is not changed.

    A publication that dbmazz did not create, or that another slot of the database may use, stays.
    """
    settings = read_settings(report, config, flags, tables_needed=False)
    source = settings.source
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ConfigError(
                f"teardown drops replication slot {source.slot} and its publication, and cannot ask for confirmation "
                "without a terminal",
                object="--yes",
                remedy="add --yes",
            )
        report.message(f"source: {source.url}")
        publication = source.publication or make_pipeline(settings).source_status().publication
        question = (
            f"Drop replication slot {source.slot} and publication {publication}? Changes that were not captured yet "
            "will be lost"
        )
        if not click.confirm(question, err=True):
            report.message("nothing was dropped")
            report.result({"done": []})
            return INTERRUPTED
    done = make_pipeline(settings).teardown(drop_publication=drop_publication)
    report.result({"done": done}, *(done or ["nothing to drop: neither slot nor publication exists"]))
    return 0


def _chosen_tables(pipeline: Pipeline, patterns: tuple[TablePattern, ...]) -> list[TableRef] | None:
    """Return the configured tables that the patterns match, None for all of them.

    Raises:
        TableNotFound: A pattern matches no configured table.
    """
    configured = [description.table for description in pipeline.tables()]
    for pattern in patterns:
        if not any(pattern.matches(ref) for ref in configured):
            raise TableNotFound(
                f"{pattern} is not one of the configured tables",
                object=str(pattern),
                remedy=f"add it to TABLES, or name some of these: {', '.join(map(str, configured))}",
            )
    chosen = [ref for ref in configured if any(pattern.matches(ref) for pattern in patterns)]
    return None if len(chosen) == len(configured) else chosen


def _code(report: Report, result: WindowResult | SnapshotResult) -> int:
    """Name the tables in trouble, and a read copy that is not published, on stderr; return the exit code."""
    for table, state in sorted(result.in_trouble.items()):
        assert state.problem is not None
        rows = f", with its rows as of {state.lsn}" if state.lsn is not None else ""
        report.message(f"{table} is {state.state.value}{rows}: {state.problem.reason}")
        report.message(f"  what to do: {state.problem.remedy}")
    if result.read_copy is not None and (error := result.read_copy.error) is not None:
        report.message(f"{error.what}\n  what to do: {error.remedy}")
        return error.exit_code
    return TABLES_IN_TROUBLE if result.in_trouble else 0


def _warn(report: Report, warnings: Iterable[str]) -> None:
    for warning in warnings:
        report.message(f"warning: {warning}")


def rendered(report: Report, kind: str, result: Any) -> list[Any]:
    """Return a result as text and tables, nothing with `--json`, for which rich is not imported."""
    if report.json:
        return []
    from dbmazz_core.cli import render

    return list(getattr(render, kind)(result))
