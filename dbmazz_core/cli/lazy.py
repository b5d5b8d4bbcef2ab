"""The command `dbmazz demo`, imported only when it runs, since it needs packages of the extra `demo`."""

from __future__ import annotations

import importlib

import click

from dbmazz_core.errors import ConfigError

_MODULE = "dbmazz_core.demo.command"


class LazyGroup(click.Group):
    """A command group that lists `demo` without importing it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which a user needs them; click's own order is by name."""
        return [*self.commands, "demo"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; for `demo` a placeholder with only the line for `--help`."""
        return _STAND_IN if cmd_name == "demo" else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to run, with its arguments; `demo` is imported here."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load_demo() if command is _STAND_IN else command, rest


_STAND_IN = click.Command(
    "demo", short_help="Run PostgreSQL, traffic, DuckDB and Dagster's UI on this machine.", add_help_option=False
)


def _load_demo() -> click.Command:
    try:
        command = importlib.import_module(_MODULE).demo
    except ImportError as error:
        if (error.name or "").startswith("dbmazz"):
            raise
        raise ConfigError(
            f"the demo needs a package that is not installed: {error.name or error}",
            object="demo",
            remedy="pip install 'dbmazz[demo]'",
        ) from error
    assert isinstance(command, click.Command)
    return command
