"""Starting the receiving process, ahead of time where somebody knows that it will be needed.

A Python process takes a quarter of a second to start. The `dbmazz` command starts it first of all, before it imports
what it needs itself; it waits for its request, and ends by itself if none comes before its standard input closes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres import shared_buffers

_MODULE = f"{__package__}.receiver_process"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A receiving process that waits for its request on standard input.

    Attributes:
        process: The process.
        memory: Descriptor of the memory shared with it, see `shared_buffers`.
    """

    process: subprocess.Popen[bytes]
    memory: int | None

    def close(self) -> None:
        """Close the descriptor; what is mapped stays."""
        if self.memory is not None:
            os.close(self.memory)


_waiting: list[Spawned] = []


def prestart() -> None:
    """Start a receiving process that the next `take` gets."""
    if not _waiting:
        _waiting.append(_spawn())


def take() -> Spawned:
    """A receiving process, the one that waits if there is one."""
    while _waiting:
        spawned = _waiting.pop()
        if spawned.process.poll() is None:
            return spawned
        spawned.close()
    return _spawn()


def _spawn() -> Spawned:
    memory = shared_buffers.create()
    given = () if memory is None else (memory,)
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, *map(str, given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        pass_fds=given,
        start_new_session=True,  # Ctrl-C in the terminal is for us alone
    )
    return Spawned(process, memory)
