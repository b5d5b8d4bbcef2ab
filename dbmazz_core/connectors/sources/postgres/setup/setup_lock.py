"""The lock against concurrent setups of one publication."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from dbmazz_core.connectors.sources.postgres.connection import LOCK_TIMEOUT_S, Connection
from dbmazz_core.settings.config import SourceConfig


@contextlib.contextmanager
def setup_lock(conn: Connection, config: SourceConfig) -> Iterator[None]:
    """Hold an advisory lock against other setups of this publication."""
    key = ("hashtextextended(%s, 0)", (f"dbmazz setup {config.publication_name}",))
    conn.execute(f"SELECT pg_advisory_lock({key[0]})".encode(), key[1])
    try:
        yield
    finally:
        # The connection may have failed.
        with contextlib.suppress(psycopg.OperationalError):
            conn.execute(f"SET lock_timeout = '{LOCK_TIMEOUT_S}s'".encode())
            conn.execute(f"SELECT pg_advisory_unlock({key[0]})".encode(), key[1])
