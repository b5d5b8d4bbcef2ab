"""The commands `dbmazz tables`, `dbmazz tables pause` and `dbmazz tables resume`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dbmazz_core.cli.commands import WINDOW_ONLY, common_options, dbmazz, make_pipeline, read_settings, rendered
from dbmazz_core.cli.report import Report
from dbmazz_core.cli.settings import setting_options
from dbmazz_core.errors import ConfigError
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.model.table_state import TableState


@dbmazz.group(invoke_without_command=True, short_help="List the tables with their states; pause and resume them.")
@setting_options("source", "sink", without=WINDOW_ONLY)
@common_options
@click.pass_context
def tables(context: click.Context, /, report: Report, config: Path | None, **flags: str | None) -> None:
    """List the tables of the destination: state, rows, last change, and what to do about those in trouble."""
    if context.invoked_subcommand is not None:
        return
    states = make_pipeline(read_settings(report, config, flags, tables_needed=False)).table_states()
    report.result(_to_dict({state.table: state for state in states}), *rendered(report, "tables", states))


@tables.command()
@click.argument("names", metavar="TABLE...", nargs=-1, required=True)
@setting_options("source", "sink", without=WINDOW_ONLY)
@common_options
def pause(report: Report, config: Path | None, names: tuple[str, ...], **flags: str | None) -> None:
    """Pause tables: windows leave them out, and their rows stay as they are."""
    chosen = _named(names)
    states = make_pipeline(read_settings(report, config, flags, tables_needed=False)).pause(chosen)
    report.result(_to_dict(states), *(f"{table} is paused" for table in states))


@tables.command()
@click.argument("names", metavar="TABLE...", nargs=-1, required=True)
@setting_options("source", "sink", without=WINDOW_ONLY)
@common_options
def resume(report: Report, config: Path | None, names: tuple[str, ...], **flags: str | None) -> None:
    """Resume paused tables: the next window copies them again."""
    chosen = _named(names)
    states = make_pipeline(read_settings(report, config, flags, tables_needed=False)).resume(chosen)
    report.result(_to_dict(states), *(f"{table} is {state.state.value}" for table, state in states.items()))


def _named(names: Iterable[str]) -> list[TableRef]:
    """Return the tables that arguments name, in the grammar of `TABLES`."""
    chosen: list[TableRef] = []
    for pattern in (pattern for name in names for pattern in parse_tables(name)):
        if pattern.name is None:
            raise ConfigError(f"{pattern} is not a table", object="TABLE", remedy="name each table: schema.table")
        chosen.append(TableRef(pattern.schema, pattern.name))
    return chosen


def _to_dict(states: Mapping[TableRef, TableState]) -> dict[str, object]:
    return {"tables": {str(table): state.to_dict() for table, state in states.items()}}
