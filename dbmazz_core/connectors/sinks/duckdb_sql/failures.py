"""Turn DuckDB's exceptions into dbmazz's errors."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from dbmazz_core.errors import (
    DestinationConflict,
    DestinationDamaged,
    DestinationError,
    DestinationLocked,
    DestinationOutOfMemory,
    DiskFull,
)
from dbmazz_core.table_ref import TableRef

_NO_SPACE = re.compile(
    r"No space left|disk full|ENOSPC|maximum size.*exceeded|max_temp_directory_size|File too large|quota exceeded",
    re.IGNORECASE,
)
_DAMAGED = re.compile(
    r"not a valid DuckDB database file|Could not read enough bytes|Corrupt |Failure while replaying WAL|"
    r"computed checksum|Failed to deserialize|Failed to load metadata|Could not read file",
    re.IGNORECASE,
)
_NO_MEMORY = re.compile(r"failed to (pin block|allocate data)|Out of Memory Error")
#: What DuckDB says of tables and columns that somebody has dropped, added, or made others depend on.
_CHANGED = re.compile(r"does not exist|not found|does not have a column|already exists|is of type|depend on it")
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")


def is_locked(error: duckdb.Error) -> bool:
    """Return whether DuckDB failed because another process has locked the file."""
    return "Could not set lock on file" in str(error)


def is_otherwise_open(error: duckdb.Error) -> bool:
    """Return whether DuckDB failed because this process has the file open, for reading or for writing."""
    return "with a different configuration than existing connections" in str(error) or is_attached_elsewhere(error)


def is_attached_elsewhere(error: duckdb.Error) -> bool:
    """Return whether DuckDB failed because another instance of this process has the file open."""
    return "is already attached by database" in str(error)


def locked(path: str, error: duckdb.Error, waited_s: float) -> DestinationLocked:
    """Return the error for a file that another process has locked.

    Args:
        path: The file.
        error: DuckDB's exception; its text can name the process.
        waited_s: How long dbmazz waited for the lock, in seconds.
    """
    if is_otherwise_open(error):
        return DestinationLocked(
            f"this process has the DuckDB file {path} open otherwise, to read or to write; waited {waited_s:g} s",
            object=path,
            remedy="close the other connection to the file: in one process, all must read, or all may write",
        )
    holder = _HOLDER.search(str(error))
    who = f"process {holder['pid']} ({holder['program']})" if holder else "another process"
    inspect = f"inspect it with `ps -p {holder['pid']} -o pid,user,args`" if holder else "find it with `fuser`"
    return DestinationLocked(
        f"the DuckDB file {path} is locked by {who}; waited {waited_s:g} s",
        object=path,
        remedy=f"{inspect} and close it, or wait: DuckDB allows one process to write, or several to read "
        "(SINK_LOCK_TIMEOUT_S sets how long to wait)",
    )


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Raise DestinationError for an exception of DuckDB; see `destination_error`."""
    try:
        yield
    except duckdb.Error as error:
        raise destination_error(path, error) from error


def destination_error(path: str, error: duckdb.Error, table: TableRef | None = None) -> DestinationError:
    """Return the DestinationError for an exception of DuckDB.

    Args:
        path: The file.
        error: The exception.
        table: The table that the statement was about, if it is known.
    """
    text = str(error).strip()
    name = f"'{table}'" if table else "<table>"
    resnapshot = f"re-snapshot the table: dbmazz snapshot --tables {name}"
    if _NO_SPACE.search(text):
        return DiskFull(
            f"no space left for the DuckDB file {path}: {_first_line(text)}",
            object=path,
            remedy="free some space, or raise the limit (quota, `ulimit -f`), and run again: capture resumes at the "
            "checkpoint",
        )
    if _DAMAGED.search(text) or isinstance(error, duckdb.SerializationException):
        return _damaged(path, text)
    if isinstance(error, duckdb.OutOfMemoryException) or _NO_MEMORY.search(text):
        return DestinationOutOfMemory(
            f"DuckDB ran out of memory while writing {f'{table} in ' if table else ''}{path}: {_first_line(text)}",
            object=table or path,
            remedy="raise SINK_MEMORY_LIMIT, or lower FLUSH_MAX_BYTES; DuckDB holds 2,048 rows of a table in memory at "
            "a time, and all wide rows of a single transaction",
        )
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException) and _CHANGED.search(text):
        return DestinationConflict(
            f"tables in the DuckDB file {path} are not as dbmazz left them: {_first_line(text)}",
            object=path,
            remedy=f"undo the change in DuckDB, or {resnapshot}",
        )
    if isinstance(error, duckdb.ConstraintException):
        # dbmazz creates no constraints: the source has already enforced its own.
        return DestinationConflict(
            f"a constraint that dbmazz did not create rejects rows in {path}: {_first_line(text)}",
            object=path,
            remedy=f"drop the constraint or unique index in DuckDB, or {resnapshot}",
        )
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException | duckdb.ParserException):
        about = f" about {table}" if table else ""
        return DestinationError(
            f"DuckDB rejects a statement of dbmazz{about} in {path}: {_first_line(text)}",
            object=str(table) if table else path,
            remedy=f"{resnapshot}; please report it, with the schema change that the table has had in PostgreSQL",
        )
    return DestinationError(
        f"DuckDB cannot write {path}: {_first_line(text)}",
        object=path,
        remedy="check the file and the permissions of its directory; if a newer DuckDB wrote the file, upgrade "
        "(pip install -U duckdb)",
    )


def _damaged(path: str, text: str) -> DestinationDamaged:
    """Return the error for a file that is not, or no longer, a database."""
    files = [path, *(wal for wal in [f"{path}.wal"] if Path(wal).exists())]
    moves = [f"mv {shlex.quote(file)} {shlex.quote(f'{file}.damaged')}" for file in files]
    return DestinationDamaged(
        f"{path} is damaged, or is not a DuckDB file: {_first_line(text)}",
        object=path,
        remedy=f"move it away and copy all tables again: {' && '.join(moves)} && dbmazz snapshot. To keep deleted rows "
        "and changes of the modes soft_delete and changelog, restore a backup of the file before `dbmazz snapshot`",
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
