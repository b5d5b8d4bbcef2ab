"""The `dbmazz` command.

`main` is the console script. polars, DuckDB and Dagster are imported only when a command needs them, so that
`dbmazz --help` answers at once and a window starts soon.
"""

from __future__ import annotations

from dbmazz_core.cli.run import main

__all__ = ["main"]
