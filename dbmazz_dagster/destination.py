"""Reading the destination for checks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from dbmazz_core.connectors.sinks.duckdb.failures import is_locked, locked, translated
from dbmazz_core.settings.config import SinkConfig

_RETRY_S = 0.2


@contextmanager
def destination(config: SinkConfig) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to the DuckDB file, after waiting for its lock as long as the settings allow.

    Raises:
        DestinationLocked: If another process has it open for writing all the while.
        DestinationError: If it does not exist or cannot be read.
    """
    with translated(config.url), _connect(config) as connection:
        yield connection


def _connect(config: SinkConfig) -> duckdb.DuckDBPyConnection:
    started = time.monotonic()
    while True:
        try:
            return duckdb.connect(config.url, read_only=True)
        except duckdb.IOException as error:
            if not is_locked(error):
                raise
            waited = time.monotonic() - started
            if waited > config.lock_timeout_s:
                raise locked(config.url, error, waited) from None
            time.sleep(_RETRY_S)
