"""Publish a copy of the DuckDB file, for readers that keep it open.

The file is copied under a temporary name, its checkpoints are noted in it, and it is renamed over the last copy. A
reader sees the old copy or the new one, never a part. Whoever has the old one open goes on reading it.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb.file import DuckDBFile, FileIdentity, file_identity
from dbmazz_core.connectors.sinks.duckdb.opening import open_file
from dbmazz_core.connectors.sinks.duckdb_sql.bookkeeping import optional_time
from dbmazz_core.connectors.sinks.duckdb_sql.failures import destination_error
from dbmazz_core.errors import DestinationError, DestinationLocked
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.settings.config import SinkConfig

#: Shares the blocks of the first file with the second one, where the file system can do that (FICLONE), or copies them.
#: It runs in a process of its own: a process that closes a file once loses all its locks on it (fcntl(2)), and another
#: thread may have the file open.
_COPY = """
import fcntl, shutil, sys
source, copy = sys.argv[1:]
try:
    with open(source, "rb") as old, open(copy, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), 0x40049409, old.fileno())
        except OSError:
            shutil.copyfileobj(old, new, 1 << 24)
except OSError as error:
    sys.exit(f"{error.strerror}")
"""

#: The table in a read copy: a row for each checkpoint, and the file that was copied.
_PUBLISHED = """
CREATE OR REPLACE TABLE _dbmazz.published AS
SELECT slot, lsn, TIMESTAMPTZ 'epoch' + to_microseconds(CAST($1 AS BIGINT)) AS published_at,
       CAST($2 AS BIGINT) AS source_inode, CAST($3 AS BIGINT) AS source_bytes, CAST($4 AS BIGINT) AS source_mtime_ns
FROM _dbmazz.checkpoints
"""


class ReadCopyPublisher:
    """Publishes the read copy of one DuckDB file, which no transaction of this process may have open.

    Args:
        config: The file, its read copy, and how often to publish.
        feed: The feed whose checkpoint is told.
    """

    def __init__(self, config: SinkConfig, feed: str) -> None:
        assert config.read_copy is not None
        self._config = config
        self._feed = feed
        self._path = Path(config.url)
        self._wal = Path(f"{config.url}.wal")
        self._copy = Path(config.read_copy)

    def publish(self) -> ReadCopy:
        """Publish the file, if it has changed since the last copy and this copy is old enough.

        A failure is told in the result: the file itself has everything.
        """
        found = ReadCopy(str(self._copy))
        try:
            with self._publishing():
                known, found = self._published()
                if not self._path.exists() or (known == file_identity(self._path) and not self._wal.exists()):
                    return found
                age = None if found.published_at is None else datetime.now(UTC) - found.published_at
                if age is not None and timedelta(0) <= age < timedelta(seconds=self._config.read_copy_interval_s):
                    return found
                return self._publish()
        except DestinationLocked as error:
            return replace(found, error=error)
        except (OSError, duckdb.Error, DestinationError) as error:
            return replace(found, error=self._failure(error))

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Let no other process publish meanwhile, by a lock on the directory, and remove what a killed one has left."""
        directory = os.open(self._copy.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            for leftover in self._copy.parent.glob(f".{glob.escape(self._copy.name)}.*.tmp*"):
                leftover.unlink(missing_ok=True)
            yield
        finally:
            os.close(directory)

    def _published(self) -> tuple[FileIdentity | None, ReadCopy]:
        """Return the identity of the file that was copied last, None if it is not known, and the copy."""
        found = ReadCopy(str(self._copy))
        if not self._copy.exists():
            return None, found
        try:
            with duckdb.connect(str(self._copy), read_only=True) as connection:
                row = connection.execute(
                    "SELECT source_inode, source_bytes, source_mtime_ns, epoch_us(published_at), "
                    "(SELECT lsn FROM _dbmazz.published WHERE slot = ?) FROM _dbmazz.published",
                    [self._feed],
                ).fetchone()
        except duckdb.Error:
            return None, found  # another file has this name, or somebody writes to it: it is replaced
        if row is None:
            return None, found
        inode, size, mtime, published_us, lsn = row
        known = replace(found, lsn=None if lsn is None else Lsn(lsn), published_at=optional_time(published_us))
        return (inode, size, mtime), known

    def _publish(self) -> ReadCopy:
        started = time.monotonic()
        self._move_wal_into_the_file()
        temporary = self._copy.with_name(f".{self._copy.name}.{secrets.token_hex(4)}.tmp")
        try:
            identity = self._copy_file(temporary)
            now = datetime.now(UTC)
            with duckdb.connect(str(temporary)) as connection:
                connection.execute(_PUBLISHED, [int(now.timestamp() * 1_000_000), *identity])
                row = connection.execute("SELECT lsn FROM _dbmazz.published WHERE slot = ?", [self._feed]).fetchone()
            temporary.chmod(stat.S_IMODE((self._copy if self._copy.exists() else self._path).stat().st_mode))
            self._copy.with_name(self._copy.name + ".wal").unlink(missing_ok=True)  # of a writer that was killed
            temporary.replace(self._copy)
        finally:
            temporary.unlink(missing_ok=True)
        lsn = None if row is None else Lsn(row[0])
        return ReadCopy(str(self._copy), lsn, now, time.monotonic() - started)

    def _copy_file(self, temporary: Path) -> FileIdentity:
        """Copy the file while nobody can write to it; return what identifies it."""
        with open_file(self._config, read_only=True):
            identity = file_identity(self._path)
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", _COPY, str(self._path), str(temporary)],
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        if done.returncode or identity is None:
            raise OSError(0, done.stderr.strip() or "the file is gone")
        return identity

    def _move_wal_into_the_file(self) -> None:
        """Let DuckDB move the WAL that a killed process has left into the file: only the file is copied."""
        if self._wal.exists():
            file = DuckDBFile(self._config, feed=self._feed)
            file.open(for_writing=True)
            file.close()

    def _failure(self, error: Exception) -> DestinationError:
        if isinstance(error, duckdb.Error):
            error = destination_error(str(self._copy), error)
        cause = error.what if isinstance(error, DestinationError) else getattr(error, "strerror", None) or str(error)
        return DestinationError(
            f"the read copy {self._copy} was not published: {cause}; the DuckDB file has all changes",
            object=str(self._copy),
            remedy=f"correct SINK_READ_COPY, or the space and the permissions of {self._copy.parent}; the next window "
            "publishes it",
        )
