"""Open the DuckDB file."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.failures import is_locked, locked, translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import SinkConfig

#: Size of DuckDB's three headers: a file that another process is creating is not larger.
_HEADERS_BYTES = 3 * 4096
#: Maximum age of the last write to a file that another process is creating.
_CREATION_S = 5


def open_file(config: SinkConfig, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file; wait up to `config.lock_timeout_s` while another process has locked it.

    A missing file that is opened for reading gives an empty database in memory.

    Raises:
        DestinationLocked: If another process holds the lock after the timeout.
        DestinationError: If the file cannot be opened, or dbmazz cannot use its name.
    """
    path = Path(config.url)
    if read_only and not path.exists():
        return duckdb.connect(":memory:")
    if not path.parent.is_dir():
        raise DestinationError(
            f"cannot create the DuckDB file {path}: the directory {path.parent} does not exist",
            object=str(path),
            remedy=f"mkdir -p '{path.parent}', or correct SINK_URL",
        )
    if fold(path.stem) == "_dbmazz":
        raise DestinationError(
            f"dbmazz cannot use the file name of {path}: DuckDB names the database after the file, and _dbmazz is the "
            "schema of dbmazz's bookkeeping",
            object=str(path),
            remedy="choose another file name (SINK_URL)",
        )
    deadline = time.monotonic() + config.lock_timeout_s
    while True:
        with translated(config.url):
            try:
                return duckdb.connect(str(path), read_only=read_only)
            except duckdb.IOException as error:
                timed_out = time.monotonic() >= deadline
                if not is_locked(error) and (timed_out or not _is_being_created(path)):
                    raise
                if timed_out:
                    raise locked(config.url, error, config.lock_timeout_s) from None
        time.sleep(0.1)


def _is_being_created(path: Path) -> bool:
    """Return whether another process is creating the file: before it locks the file, DuckDB finds no database in it."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    return status.st_size <= _HEADERS_BYTES and time.time() - status.st_mtime < _CREATION_S
