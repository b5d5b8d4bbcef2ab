"""The `dbmazz` command.

`main` is the console script. polars, DuckDB and Dagster are imported only when a command needs them, so that
`dbmazz --help` answers at once and a window starts soon.
"""

from __future__ import annotations

try:
    from dbmazz_core.cli.run import main
except KeyboardInterrupt:  # Ctrl-C before there is a command to end
    import os

    os.write(2, b"error: interrupted\n")
    os._exit(130)

__all__ = ["main"]
