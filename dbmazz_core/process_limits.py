"""Limits of this process that the system sets, as errors that name the limit: open files, memory, threads.

Libraries report them in their own ways: OSError, MemoryError, ImportError of a shared library, RuntimeError of Python's
threads, a panic of polars.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dbmazz_core.errors import ConnectionFailed, DbmazzError, DestinationError, LimitReached

_Class = TypeVar("_Class", bound=type)

_FILES = r"too many open files|\[errno 2[34]\]"
_THREADS = r"can't start new thread|failed to spawn|threadpoolbuilderror|\[errno 11\]|resource temporarily unavailable"
_MEMORY = (
    r"cannot allocate memory|\[errno 12\]|failed to map segment|bad.?alloc|memory allocation of \d+ bytes failed|"
    r"failed to allocate|unable to allocate|allocation failure|malloc of size|realloc of size"
)
#: In errors of dbmazz, which may repeat words of the server about limits of its own.
_OURS = r"\[errno (?:11|12|2[34])\]|failed to map segment|can't start new thread|create socket: too many open files"
#: In errors of the destination, where DuckDB repeats words of the system.
_DUCKDBS = "bad allocation|allocation failure|cannot allocate memory|too many open files"
#: Bytes of address space that polars, DuckDB, Arrow and their threads reserve on a machine with a few cores.
_ADDRESS_SPACE = 4 << 30
#: Files that the libraries have open at the same time while they connect.
_NEEDED_FILES = 4
#: Control groups of containers: at most so many processes and threads, and bytes.
_PIDS_MAX, _MEMORY_MAX = Path("/sys/fs/cgroup/pids.max"), Path("/sys/fs/cgroup/memory.max")


def limit_reached(error: BaseException) -> LimitReached | None:
    """Return the error for an exception that a limit of this process has caused; None for any other exception."""
    if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit | LimitReached):
        return None
    text = f"{error.what if isinstance(error, DbmazzError) else error}".strip() or type(error).__name__
    lowered = text.lower()
    if isinstance(error, ConnectionFailed | DestinationError) and _files_are_scarce():
        return _files(text.split("\n", 1)[0])  # libpq and DuckDB may not tell what they lack
    if isinstance(error, DbmazzError) and not re.search(_OURS, lowered):
        # DuckDB has a limit of its own, which its error names; where malloc fails, it says so.
        if not (isinstance(error, DestinationError) and re.search(_DUCKDBS, lowered)):
            return None
    elif not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        return None
    first = text.split("\n", 1)[0]
    if re.search(_FILES, lowered):
        return _files(first)
    if re.search(_THREADS, lowered):
        return _threads(first)
    if isinstance(error, MemoryError) or re.search(_MEMORY, lowered):
        return _memory(first)
    return None


def small_address_space() -> str | None:
    """Return a warning if the address space is so small that a library may abort the process without an error."""
    limit = _soft_limit("RLIMIT_AS")
    if limit is None or limit >= _ADDRESS_SPACE:
        return None
    return (
        f"warning: the address space of this process is limited to {limit} bytes (ulimit -v). A library that gets no "
        "more may end the process without an error; `ulimit -v unlimited` lifts the limit"
    )


def name_limits(owner: _Class) -> _Class:
    """Have the public methods of a class raise `LimitReached` where a limit of this process is the cause."""
    for name, method in list(vars(owner).items()):
        if not name.startswith("_") and inspect.isfunction(method) and not inspect.isgeneratorfunction(method):
            setattr(owner, name, _naming(method))
    return owner


def _naming(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return method(*args, **options)
        except BaseException as error:
            limit = limit_reached(error)
            if limit is None:
                raise
            raise limit from error

    return call


def _files_are_scarce() -> bool:
    """Return whether the process may open fewer files than a connection and a destination need."""
    copies: list[int] = []
    try:
        for _ in range(_NEEDED_FILES):
            copies.append(os.dup(0))
    except OSError as error:
        return error.errno == errno.EMFILE
    finally:
        for copy in copies:
            os.close(copy)
    return False


def _files(text: str) -> LimitReached:
    limit = _soft_limit("RLIMIT_NOFILE")
    return LimitReached(
        f"this process may not open more files{f' than {limit}' if limit else ''} (ulimit -n): {text}",
        object="open files (ulimit -n)",
        remedy="raise the limit: `ulimit -n 1024` in the shell, LimitNOFILE=1024 in a systemd unit, "
        "`--ulimit nofile=1024` of a container. If it is high already, the program around dbmazz leaks files",
    )


def _threads(text: str) -> LimitReached:
    found = _present(
        ("processes and threads of the user (ulimit -u)", _soft_limit("RLIMIT_NPROC")),
        ("processes and threads of the container (pids.max)", _cgroup_limit(_PIDS_MAX)),
        ("bytes of address space, which stacks of threads need (ulimit -v)", _soft_limit("RLIMIT_AS")),
    )
    return LimitReached(
        f"this process may start no more threads: {text}{found}",
        object="threads (ulimit -u, ulimit -v)",
        remedy="raise these limits: `ulimit -u 4096` and `ulimit -v unlimited` in the shell, TasksMax= and LimitAS= in "
        "a systemd unit, `--pids-limit` of a container",
    )


def _memory(text: str) -> LimitReached:
    found = _present(
        ("bytes of address space (ulimit -v)", _soft_limit("RLIMIT_AS")),
        ("bytes of data (ulimit -d)", _soft_limit("RLIMIT_DATA")),
        ("bytes of memory of the container (memory.max)", _cgroup_limit(_MEMORY_MAX)),
    )
    return LimitReached(
        f"the system gives this process no more memory: {text}{found}",
        object="memory (ulimit -v)",
        remedy="`ulimit -v unlimited` in the shell, or no LimitAS= in a systemd unit: libraries reserve several GB of "
        "address space that they do not use. To use less memory, lower MEMORY_LIMIT",
    )


def _present(*limits: tuple[str, int | None]) -> str:
    """Return the limits that are set, as the end of a sentence."""
    found = [f"{limit} {what}" for what, limit in limits if limit is not None]
    return f". Its limits: {', '.join(found)}" if found else ""


def _soft_limit(name: str) -> int | None:
    """Return a soft limit of this process; None if there is none, or the system does not have it."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    number = getattr(resource, name, None)
    soft = resource.RLIM_INFINITY if number is None else resource.getrlimit(number)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _cgroup_limit(path: Path) -> int | None:
    """Return a limit of the control group, None if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
