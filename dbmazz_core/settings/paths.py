"""Local paths in settings. No shell expands `~` in a `.env` file, a TOML file, Compose or Dagster."""

from __future__ import annotations

import os

from dbmazz_core.errors import ConfigError


def expanded(variable: str, path: str) -> str:
    """Return a path with the home directory in place of `~` or `~user`.

    >>> expanded("SINK_URL", "./~") == "./~", expanded("SINK_URL", "~/x.duckdb").endswith("/x.duckdb")
    (True, True)

    Args:
        variable: The setting that holds the path, for errors.
        path: The path.

    Raises:
        ConfigError: If there is no such user, or no home directory.
    """
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found.startswith("~"):
        home = path.split("/", 1)[0]
        raise ConfigError(
            f"{variable} begins with {home}, and the system knows no such home directory",
            object=variable,
            remedy=f"write the directory out, or ./{home} for a file or directory of that name",
        )
    return found
