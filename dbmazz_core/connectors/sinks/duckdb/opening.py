"""Open the DuckDB file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb.creation import create_file, has_no_data
from dbmazz_core.connectors.sinks.duckdb_sql.failures import is_locked, is_otherwise_open, locked, translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.errors import DestinationError
from dbmazz_core.settings.config import SinkConfig

#: Seconds between two attempts to open a locked file: windows hold a file for a tenth of a second.
_RETRY_S = 0.02
#: Held while a thread of this process opens a file, which may have to be created.
_OPENING = threading.Lock()


@dataclass(slots=True)
class _Use:
    """How this process uses a file: threads share DuckDB's one instance of it.

    Attributes:
        writers: The number of sinks that have it open for writing.
        created: Whether one of them has created it.
    """

    writers: int = 0
    created: bool = False


_uses: dict[Path, _Use] = {}


@contextmanager
def closing(path: Path) -> Iterator[bool]:
    """Close a file that `open_file` has opened for writing, while no other thread opens it.

    Yields:
        Whether this process has created the file, and no other sink of it has the file open.
    """
    with _OPENING:
        use = _uses[path]
        use.writers -= 1
        if not use.writers:
            del _uses[path]
        yield use.created and not use.writers


def open_file(
    config: SinkConfig,
    read_only: bool,
    interrupted: threading.Event | None = None,
    connect: Callable[[Path, bool], duckdb.DuckDBPyConnection] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Open the file; wait up to `config.lock_timeout_s` while another process, or a thread, has locked it.

    A missing file, or one whose creation did not end, that is opened for reading gives an empty database in memory.

    Args:
        config: Path and timeout.
        read_only: Whether to open it for reading.
        interrupted: Set from another thread to end the wait.
        connect: Opens the file, by path and whether to read only; None: an instance of DuckDB for this file alone.

    Raises:
        DestinationLocked: If another process holds the lock after the timeout.
        DestinationError: If the file cannot be opened, or dbmazz cannot use its name.
    """
    path = Path(config.url)
    if read_only and not path.exists():
        return duckdb.connect(":memory:")
    verify_path(config)
    interrupted = interrupted or threading.Event()
    deadline = time.monotonic() + config.lock_timeout_s
    while True:
        with translated(config.url):
            try:
                with _OPENING:
                    return _connect(path, read_only, config.storage_version, connect or _new_instance)
            except duckdb.Error as error:
                if not is_locked(error) and not is_otherwise_open(error):
                    raise
                if interrupted.is_set() or time.monotonic() >= deadline:
                    raise locked(config.url, error, config.lock_timeout_s) from None
        interrupted.wait(_RETRY_S)


def verify_path(config: SinkConfig) -> None:
    """Raise DestinationError if the file cannot be in its directory, or dbmazz cannot use its name."""
    path = Path(config.url)
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


def _new_instance(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(path), read_only=read_only)


def _connect(
    path: Path,
    read_only: bool,
    storage_version: str,
    connect: Callable[[Path, bool], duckdb.DuckDBPyConnection],
) -> duckdb.DuckDBPyConnection:
    """Open the file; create it if it is missing, or if its creation did not end."""
    created = not read_only and not path.exists() and create_file(path, storage_version)
    try:
        connection = connect(path, read_only)
    except duckdb.IOException as error:
        # The process does not have the file open: DuckDB would have returned the open database.
        if is_locked(error) or not has_no_data(path):
            raise
        if read_only:
            return duckdb.connect(":memory:")
        create_file(path, storage_version)
        connection = connect(path, False)
    if not read_only:
        use = _uses.setdefault(path, _Use())
        use.writers += 1
        use.created |= created
    return connection
