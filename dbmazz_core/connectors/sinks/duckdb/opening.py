"""Opening the DuckDB file."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.failures import is_locked, locked, translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import SinkConfig

#: A file of that size is DuckDB's three headers at most, and was written to a moment ago by whoever makes it.
_HEADERS_BYTES, _MOMENT_S = 3 * 4096, 5


def opened(config: SinkConfig, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file, waiting for another process to let go of it."""
    path = Path(config.url)
    if read_only and not path.exists():
        return duckdb.connect(":memory:")
    if not path.parent.is_dir():
        raise DestinationError(
            f"cannot create the DuckDB file {path}: there is no directory {path.parent}",
            object=str(path),
            remedy=f"mkdir -p '{path.parent}', or correct SINK_URL",
        )
    if fold(path.stem) == "_dbmazz":
        raise DestinationError(
            f"the DuckDB file {path} cannot be called so: DuckDB names the database after it, and _dbmazz is the "
            "schema of dbmazz's own tables",
            object=str(path),
            remedy="choose another name (SINK_URL)",
        )
    deadline = time.monotonic() + config.lock_timeout_s
    while True:
        with translated(config.url):
            try:
                return duckdb.connect(str(path), read_only=read_only)
            except duckdb.IOException as error:
                late = time.monotonic() >= deadline
                if not is_locked(error) and (late or not _is_being_made(path)):
                    raise
                if late:
                    raise locked(config.url, error, config.lock_timeout_s) from None
        time.sleep(0.1)


def _is_being_made(path: Path) -> bool:
    """Whether another process is just creating the file: until it has locked it, DuckDB finds no database in it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_size <= _HEADERS_BYTES and time.time() - status.st_mtime < _MOMENT_S
