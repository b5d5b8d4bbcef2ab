"""DuckDB's failures as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from dbmazz_core.errors import DestinationConflict, DestinationError, DestinationLocked, DiskFull
from dbmazz_core.table_ref import TableRef

_NO_SPACE = re.compile(
    r"No space left|disk full|ENOSPC|maximum size.*exceeded|max_temp_directory_size|File too large|quota exceeded",
    re.IGNORECASE,
)
_HOLDER = re.compile(r"held in (?P<program>.*?) \(PID (?P<pid>\d+)\)")


def is_locked(error: duckdb.Error) -> bool:
    """Whether another process holds the file."""
    return "Could not set lock on file" in str(error)


def locked(path: str, error: duckdb.Error, waited_s: float) -> DestinationLocked:
    """The error for a file that another process holds, naming it where DuckDB does."""
    holder = _HOLDER.search(str(error))
    who = f"process {holder['pid']} ({holder['program']})" if holder else "another process"
    look = f"look at it with `ps -p {holder['pid']} -o pid,user,args`" if holder else "find it with `fuser`"
    return DestinationLocked(
        f"the DuckDB file {path} is locked by {who}; waited {waited_s:g} s",
        object=path,
        remedy=f"{look} and close it, or wait: DuckDB lets one process write, or several read "
        "(SINK_LOCK_TIMEOUT_S sets how long to wait)",
    )


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn DuckDB's exceptions into DestinationErrors."""
    try:
        yield
    except duckdb.Error as error:
        raise destination_error(path, error) from error


def destination_error(path: str, error: duckdb.Error, table: TableRef | None = None) -> DestinationError:
    """The DestinationError for a failure of DuckDB, at a table where that is known."""
    text = str(error).strip()
    which = f"'{table}'" if table else "<table>"
    copy = f"copy the table anew: dbmazz snapshot --tables {which}"
    if _NO_SPACE.search(text):
        return DiskFull(
            f"no space left for the DuckDB file {path}: {_first_line(text)}",
            object=path,
            remedy="free some space, or raise the limit (quota, `ulimit -f`), and run again: capture resumes at the "
            "checkpoint",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return DestinationError(
            f"DuckDB ran out of memory while writing {path}: {_first_line(text)}",
            object=path,
            remedy="raise SINK_MEMORY_LIMIT, or lower FLUSH_MAX_BYTES",
        )
    if isinstance(error, duckdb.CatalogException | duckdb.BinderException):
        return DestinationConflict(
            f"the DuckDB file {path} does not hold what dbmazz left there: {_first_line(text)}",
            object=path,
            remedy=f"undo the change made by hand, or {copy}",
        )
    if isinstance(error, duckdb.ConstraintException):
        # The tables have no constraints of ours: the source's own hold for what comes.
        return DestinationConflict(
            f"a constraint that dbmazz did not make refuses rows in {path}: {_first_line(text)}",
            object=path,
            remedy=f"drop the constraint or unique index in DuckDB, or {copy}",
        )
    return DestinationError(
        f"DuckDB cannot write {path}: {_first_line(text)}",
        object=path,
        remedy="look at the file and its directory's permissions; if it was written by a newer DuckDB, upgrade "
        "(pip install -U duckdb)",
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
