"""Run a command line and return its exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from dbmazz_core.cli import table_commands  # noqa: F401 - adds its commands
from dbmazz_core.cli.commands import dbmazz
from dbmazz_core.cli.report import BROKEN_PIPE, Interrupted, Report
from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.process_limits import limit_reached, small_address_space

_COMPLETION_VARIABLE = "_DBMAZZ_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dbmazz` and return its exit code (docs/cli.md lists them). Never raises."""
    for stream in (sys.stdout, sys.stderr):
        # Names of tables can have characters that the encoding of the terminal, or PYTHONIOENCODING, does not have.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if arguments is None and _COMPLETION_VARIABLE in os.environ:
        dbmazz.main(prog_name="dbmazz")  # click answers a shell that asks for completions
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    # Not left to click: an error in the command line itself is printed in the same format.
    report = Report(json="--json" in arguments, debug="--debug" in arguments)
    try:
        return _reported(arguments, report)
    except BrokenPipeError:
        # The reader of stdout ended, as in `dbmazz peek | head -1`. The last flush of stdout must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _reported(arguments: list[str], report: Report) -> int:
    try:
        return _invoke(arguments, report)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "dbmazz"
        return report.error(
            ConfigError(error.format_message(), object="command line", remedy=f"see `{path} --help`").with_traceback(
                error.__traceback__
            )
        )
    except (KeyboardInterrupt, click.Abort):
        return report.error(
            Interrupted(
                "interrupted", object="dbmazz", remedy="run the command again: capture resumes at the checkpoint"
            )
        )
    except DbmazzError as error:
        return report.error(error)
    except BrokenPipeError:
        raise
    except BaseException as error:  # users get a sentence, not a traceback; a panic of polars is no Exception
        limit = limit_reached(error)
        if limit is not None:
            return report.error(limit)
        if not isinstance(error, Exception):
            raise
        return report.unexpected(error)


def _invoke(arguments: list[str], report: Report) -> int:
    # Not click's `main`, which has other exit codes.
    with dbmazz.make_context("dbmazz", arguments, obj=report) as context:
        if (warning := small_address_space()) is not None:
            report.message(warning)
        code = dbmazz.invoke(context)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
