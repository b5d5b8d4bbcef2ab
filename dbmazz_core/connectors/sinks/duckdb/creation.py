"""Create the DuckDB file, also where a creation that was killed, or a full disk, has left a part of one.

DuckDB creates a file in several steps: it opens the file, locks it, and writes three headers. If it is killed in
between, or the disk is full, the rest is no database, and DuckDB refuses it from then on. Two processes that find no
file can also both write headers, and the second one empties the file of the first. Here the file is locked, and read,
before anything is written, and only a file without any data is written to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

import duckdb

from dbmazz_core.errors import DiskFull

#: Size of DuckDB's three headers: an empty database.
_HEADERS_BYTES = 3 * 4096
#: Where the headers of a checkpoint are, and in them the number of the first block (-1: there is none).
_CHECKPOINT_HEADERS = (4096, 2 * 4096)
_FIRST_BLOCK = slice(16, 24)
_NO_BLOCK = b"\xff" * 8
_MAGIC = slice(8, 12)


def has_no_data(path: Path) -> bool:
    """Return whether the file is what a creation leaves that did not end: empty, or a part of an empty database."""
    try:
        if path.stat().st_size > _HEADERS_BYTES or path.with_name(path.name + ".wal").exists():
            return False
        content = path.read_bytes()
    except OSError:
        return False
    return _holds_nothing(content)


def _holds_nothing(content: bytes) -> bool:
    if len(content) > _HEADERS_BYTES:
        return False
    if not content.strip(b"\0"):
        return True
    headers = (content[start : start + 4096] for start in _CHECKPOINT_HEADERS)
    first_blocks = (header[_FIRST_BLOCK] for header in headers if header.strip(b"\0"))
    return content[_MAGIC] == b"DUCK" and all(_NO_BLOCK.startswith(block) for block in first_blocks)


def create_file(path: Path, storage_version: str) -> bool:
    """Make an empty database of a missing file, or of one for which `has_no_data` is true.

    The calling process must not have the file open: DuckDB's lock of a file ends when the process closes it once.

    Args:
        path: The file.
        storage_version: The oldest DuckDB that is to read the file.

    Returns:
        Whether the file is an empty database now; False: it is locked, has data, or cannot be opened.

    Raises:
        DiskFull: If there is no space for it.
        duckdb.Error: If DuckDB cannot create an empty database in the directory.
    """
    try:
        headers = _empty_database(path.parent, storage_version)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _raise_if_full(path, error)
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as DuckDB locks it
        if not _holds_nothing(os.pread(descriptor, _HEADERS_BYTES + 1, 0)):
            return False
        if os.pwrite(descriptor, headers, 0) < len(headers):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    except OSError as error:
        _raise_if_full(path, error)
        return False
    finally:
        os.close(descriptor)
    return True


def _empty_database(directory: Path, storage_version: str) -> bytes:
    """Return the content of an empty database."""
    with tempfile.TemporaryDirectory(prefix=".dbmazz_new_", dir=directory) as temporary:
        file = Path(temporary) / "empty.duckdb"
        duckdb.connect(str(file), config={"storage_compatibility_version": storage_version}).close()
        return file.read_bytes()


def _raise_if_full(path: Path, error: OSError) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise DiskFull(
            f"no space left for the DuckDB file {path}: {error.strerror}",
            object=str(path),
            remedy="free some space, or raise the limit (quota, `ulimit -f`), and run again",
        ) from error
