"""Starting receiving processes: one that has imported everything waits, and divides for each stream.

A Python process takes a quarter of a second to start, and as much of a processor. So a program starts one when it needs
the first stream, and this one forks for every stream that the program reads: a window more costs milliseconds. The
`dbmazz` command starts it first of all, before it imports what it needs itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres import shared_buffers

_MODULE = f"{__package__}.receiver_process"
#: On macOS a process must not go on after a fork (its frameworks, and libpq through them, fail): one for every stream.
FORKS = sys.platform == "linux"
#: How long the waiting process may take to end with the program.
_END_S = 2.0


@dataclass(frozen=True, slots=True)
class Spawned:
    """A receiving process that waits for its request.

    Attributes:
        pid: Its id. It is the child of the process that divides.
        down: Descriptor of the pipe to its standard input.
        up: Descriptor of the pipe from its standard output, which ends when the process does.
        memory: Descriptor of the memory shared with it, see `shared_buffers`.
    """

    pid: int
    down: int
    up: int
    memory: int | None


class _Waiting:
    """The process that divides. It ends when the socket to it closes: with this program, whatever ends it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for us alone
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's threads would not survive the fork
            )
        self.owner = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether it is there, and ours: a fork of this program has to start its own."""
        return self.owner == os.getpid() and self._process.poll() is None

    def divide(self) -> Spawned:
        """Have it fork; raises OSError if it is gone."""
        memory = shared_buffers.create()
        their_input, down = os.pipe()
        up, their_output = os.pipe()
        given = [their_input, their_output, *([] if memory is None else [memory])]
        try:
            # With the surroundings of now: libpq's own variables, and the directory that paths are relative to.
            context = pickle.dumps((dict(os.environ), os.getcwd()))
            socket.send_fds(self._socket, [len(context).to_bytes(4, "big")], given)
            self._socket.sendall(context)
            answer = self._socket.recv(4, socket.MSG_WAITALL)
            if len(answer) < 4:
                raise BrokenPipeError("the process that starts receivers ended")
        except BaseException:
            for descriptor in (down, up, *([] if memory is None else [memory])):
                os.close(descriptor)
            raise
        finally:
            os.close(their_input)
            os.close(their_output)
        return Spawned(int.from_bytes(answer, "big"), down, up, memory)

    def close(self) -> None:
        """End it, with what it has started; a fork of this program only lets go of it."""
        self._socket.close()
        if self.usable:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)


_lock = threading.Lock()
_waiting: _Waiting | None = None


def prestart() -> None:
    """Start the process that the next `take` needs."""
    with _lock:
        _ready()


def take() -> Spawned:
    """A receiving process of one's own."""
    global _waiting
    with _lock:
        try:
            return _ready().divide()
        except OSError:  # killed since: once more, with a new one
            _dismiss()
            return _ready().divide()
        finally:
            if not FORKS:
                _waiting = None


def _ready() -> _Waiting:
    global _waiting
    if _waiting is None or not _waiting.usable:
        _waiting = _Waiting()
    return _waiting


def _dismiss() -> None:
    global _waiting
    if _waiting is not None:
        _waiting.close()
        _waiting = None


atexit.register(_dismiss)
