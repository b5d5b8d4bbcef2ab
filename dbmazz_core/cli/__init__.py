"""The `dbmazz` command.

`main` is the console script. Nothing heavy (polars, DuckDB, Dagster) is imported before a command needs it, so that
`dbmazz --help` is instant and a window starts soon.
"""

from __future__ import annotations

from dbmazz_core.cli.run import main

__all__ = ["main"]
