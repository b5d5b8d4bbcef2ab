"""Starting receiving processes: one that has imported everything waits, and divides for each stream.

A Python process takes a quarter of a second to start, and as much of a processor. So a program starts one when it needs
the first stream, and this one forks for every stream that the program reads: a window more costs milliseconds. The
`dbmazz` command starts it first of all, before it imports what it needs itself.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.replication import shared_buffers
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.module_path import module_path

#: On macOS a process must not go on after a fork (its frameworks, and libpq through them, fail): one for every stream.
FORKS = sys.platform == "linux"
#: How long the waiting process may take to end with the program.
_END_S = 2.0
#: How long it may take to start, and to divide.
_ANSWER_S = 60.0
#: Bytes of what a process that died said last.
_LAST_WORDS = 2000
#: Isolated, the interpreter looks neither into the current directory nor at its variables: a file there that is called
#: like a standard module is not imported. What the program itself imports from is told.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__package__}.receiver_process import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True, slots=True)
class Spawned:
    """A receiving process that waits for its request.

    Attributes:
        pid: Its id. It is the child of the process that divides.
        channel: The socket to it. Its other end closes with the process.
        memory: Descriptor of the memory shared with it, see `shared_buffers`.
        pidfd: Descriptor that means this process and no later one of its id; None where the system has none.
    """

    pid: int
    channel: socket.socket
    memory: int | None
    pidfd: int | None

    def kill(self) -> None:
        """End it at once; nothing happens if it has ended."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class _Waiting:
    """The process that divides. It ends when the socket to it closes: with this program, whatever ends it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_ANSWER_S)
        close_in_forks(self._socket)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, json.dumps(module_path()), str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for us alone
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's threads would not survive the fork
            )
        self.owner = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether it is there, and ours: a fork of this program has to start its own."""
        return self.owner == os.getpid() and self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of what it, or a process that it divided into, wrote to its standard error."""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(self._said.tell() - _LAST_WORDS, 0))
        return self._said.read().decode("utf-8", "replace").strip()

    def divide(self) -> Spawned:
        """Have it fork; raises OSError if it is gone, or says nothing."""
        memory = shared_buffers.create()
        channel, theirs = socket.socketpair()
        given = [theirs.fileno(), *([] if memory is None else [memory])]
        try:
            # With the surroundings of now: libpq's own variables, and the directory that paths are relative to.
            context = pickle.dumps((dict(os.environ), os.getcwd()))
            socket.send_fds(self._socket, [len(context).to_bytes(4, "big")], given)
            self._socket.sendall(context)
            answer, descriptors, _, _ = socket.recv_fds(self._socket, 4, 1)
            if len(answer) < 4:
                raise BrokenPipeError("the process that starts receivers ended")
        except BaseException:
            channel.close()
            if memory is not None:
                os.close(memory)
            raise
        finally:
            theirs.close()
        close_in_forks(channel)
        return Spawned(int.from_bytes(answer, "big"), channel, memory, descriptors[0] if descriptors else None)

    def close(self) -> None:
        """End it; a fork of this program only lets go of it."""
        self._socket.close()
        if self.usable:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_open: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forks(channel: socket.socket) -> None:
    """Close a socket in forks of this program: what it leads to has to see the end of the program, not of its forks."""
    _open.add(channel)


def _close_all() -> None:
    for channel in list(_open):
        channel.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all)

_lock = threading.Lock()
_waiting: _Waiting | None = None


def prestart() -> None:
    """Start the process that the next `take` needs."""
    with _lock:
        _ready()


def take() -> Spawned:
    """A receiving process of one's own.

    Raises:
        ReplicationInterrupted: If none can be started; with the last words of the one that died.
    """
    global _waiting
    with _lock:
        try:
            return _ready().divide()
        except OSError:  # killed since: once more, with a new one
            _dismiss()
        waiting = _ready()
        try:
            return waiting.divide()
        except OSError as error:
            _dismiss()
            raise ReplicationInterrupted(
                f"the process that receives the stream does not start: {waiting.last_words or error}",
                object="receiver",
                remedy="see above what failed there; nothing was read or changed",
            ) from None
        finally:
            if not FORKS:
                _waiting = None


def last_words() -> str:
    """The end of what receiving processes of this program wrote to their standard error."""
    waiting = _waiting
    return "" if waiting is None else waiting.last_words


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
