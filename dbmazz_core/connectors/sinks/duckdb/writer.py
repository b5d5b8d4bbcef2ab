"""Write tables of one's own beside the captured ones, in turns with the windows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb.opening import closing, open_file
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import SinkConfig


@contextmanager
def open_writer(
    path: str | Path, *, timeout_s: float = 60.0, memory_limit: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a DuckDB file with captured tables for writing, as soon as no window and no reader holds it.

    Until the block ends, no window can commit and nobody can read the file, so compute first and write then. Write to
    schemas of your own: a captured table that somebody else changes leaves the capture.

        with open_writer("shop.duckdb") as connection:
            connection.execute("CREATE OR REPLACE TABLE marts.daily AS SELECT ...")

    Args:
        path: The DuckDB file.
        timeout_s: Seconds to wait for its turn.
        memory_limit: DuckDB's `memory_limit` in bytes; None: DuckDB's default.

    Raises:
        DestinationLocked: Others hold the file for longer.
        DestinationError: The file does not exist, or cannot be opened.
    """
    if not Path(path).exists():
        raise DestinationError(
            f"the DuckDB file {path} does not exist",
            object=str(path),
            remedy="correct the path; the first capture creates the file",
        )
    connection = open_file(SinkConfig(url=str(path), lock_timeout_s=timeout_s), read_only=False)
    try:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        if memory_limit is not None:
            connection.execute(f"SET memory_limit = '{memory_limit}B'")
        yield connection
    finally:
        with closing(Path(path)), translated(str(path)):
            connection.close()
