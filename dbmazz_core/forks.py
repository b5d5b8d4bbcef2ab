"""Forks of this process: an error in those that would hang, and no connections of ours in any.

A fork holds copies of all descriptors. A server whose client was killed would not see the end of its connection as long
as a fork lives, and would keep the session with its temporary slot, snapshot and locks.

polars runs queries in threads. fork() copies only the calling thread, so that in a fork of a process that has used
polars every query waits forever for threads that do not exist (polars' user guide, "Multiprocessing").
"""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from dbmazz_core.errors import ConfigError

#: Names of the threads of this process, by thread; there is no such directory outside of Linux.
_TASKS = Path("/proc/self/task")
#: polars' pool, which its first query starts.
_POOL_THREAD = re.compile(r"polars-\d+")

_Owner = TypeVar("_Owner")

#: Owners of descriptors, with what returns these for an owner.
_owners: weakref.WeakKeyDictionary[object, Callable[[object], Iterable[int]]] = weakref.WeakKeyDictionary()
_polars_ran = False
_forked_after_polars = False


def verify_can_run() -> None:
    """Verify that this process is no fork of a process that had used polars before. Known on Linux only.

    Raises:
        ConfigError: It is one.
    """
    if _forked_after_polars:
        raise ConfigError(
            "this process is a fork of a process that had used polars, as captures do; polars would wait forever for "
            "threads that fork() does not copy",
            object="process",
            remedy='start the process with multiprocessing.get_context("spawn") or "forkserver" or with subprocess, or '
            "fork before the first capture",
        )


def detach_in_forks(owner: _Owner, descriptors: Callable[[_Owner], Iterable[int]]) -> None:
    """Replace the descriptors of an object in forks of this process by /dev/null, where it ends harmlessly.

    Args:
        owner: Owns the descriptors; may be collected.
        descriptors: Returns them for the owner. An exception stands for none.
    """
    _owners[owner] = descriptors  # type: ignore[assignment]  # is called with this owner only


def _before_fork() -> None:
    global _polars_ran
    with contextlib.suppress(OSError):  # outside of Linux, or a thread has just ended
        _polars_ran = any(_POOL_THREAD.match((task / "comm").read_text()) for task in _TASKS.iterdir())


def _after_fork() -> None:
    global _forked_after_polars
    _forked_after_polars = _forked_after_polars or _polars_ran
    owners = list(_owners.items())
    _owners.clear()
    if owners:
        null = os.open(os.devnull, os.O_RDWR)
        for owner, descriptors in owners:
            with contextlib.suppress(Exception):  # it is closed
                for descriptor in descriptors(owner):
                    os.dup2(null, descriptor, inheritable=False)
        os.close(null)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
