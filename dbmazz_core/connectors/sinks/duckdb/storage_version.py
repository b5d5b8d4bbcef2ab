"""The storage version of a DuckDB file: which versions of DuckDB can read it.

A file keeps the version with which it was created. DuckDB 2 creates files that DuckDB 1 refuses, and with it drivers,
shells and BI tools of last month; so dbmazz asks for the oldest one that a supported DuckDB reads.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb.file import DuckDBFile
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified_schema
from dbmazz_core.settings.config import SinkConfig


def read_storage_version(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Return the oldest DuckDB that reads the open file, such as `v1.5.0`; None if DuckDB does not tell."""
    row = connection.execute(
        "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchone()
    return None if row is None or row[0] is None else str(row[0]).split("+", 1)[0].split(" ", 1)[0]


def rewrite(config: SinkConfig, feed: str) -> tuple[str | None, str | None]:
    """Write the file anew in the storage version of the settings: all tables, views and schemas in it, also of others.

    Nobody else can use the file meanwhile. The new file takes the old one's place at the end, as a whole.

    Args:
        config: The file, and the version.
        feed: The feed that uses the file.

    Returns:
        The storage versions before and after.

    Raises:
        DestinationLocked: Another process uses the file.
        DestinationError: DuckDB fails; the file stays as it was.
    """
    path = Path(config.url)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    file = DuckDBFile(config, feed=feed)
    try:
        connection = file.open(for_writing=True).connection
        with translated(config.url):
            before = read_storage_version(connection)
            old = qualified_schema(connection, "main").rpartition(".")[0]
            quoted = str(temporary).replace("'", "''")
            connection.execute(f"ATTACH '{quoted}' AS dbmazz_rewritten (STORAGE_VERSION '{config.storage_version}')")
            connection.execute(f"COPY FROM DATABASE {old} TO dbmazz_rewritten")
            connection.execute("USE dbmazz_rewritten.main")
            after = read_storage_version(connection)
            connection.execute(f"USE {old}.main")
            connection.execute("CHECKPOINT dbmazz_rewritten")
            connection.execute("DETACH dbmazz_rewritten")
            connection.execute("CHECKPOINT")  # closing the old file must not leave a WAL for the new one
        temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(path)  # while the lock of the old file keeps others out
    finally:
        file.close()
        temporary.unlink(missing_ok=True)
    return before, after
