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

from dbmazz_core.connectors.sources.postgres.replication import buffers
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.module_path import module_path

#: On macOS a process must not go on after a fork (its frameworks, and libpq through them, fail): one for every stream.
CAN_FORK = sys.platform == "linux"
#: How long the waiting process may take to end with the program.
_END_TIMEOUT_S = 2.0
#: How long it may take to start, and to divide.
_ANSWER_TIMEOUT_S = 60.0
#: Bytes of what a process that died said last.
_STDERR_TAIL_BYTES = 2000
#: Isolated, the interpreter looks neither into the current directory nor at its variables: a file there that is called
#: like a standard module is not imported. What the program itself imports from is told.
_BOOT_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__package__}.receiver_process import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True, slots=True)
class ReceiverProcess:
    """A receiving process that waits for its request.

    Attributes:
        pid: Its id. It is the child of the process that divides.
        channel: The socket to it. Its other end closes with the process.
        memory: Descriptor of the memory shared with it, see `buffers`.
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


class _ForkServer:
    """The process that divides. It ends when the socket to it closes: with this program, whatever ends it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        close_in_forks(self._socket)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        arguments = (json.dumps(module_path()), str(theirs.fileno()), str(os.getpid()))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT_CODE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
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
    def stderr_tail(self) -> str:
        """The end of what it, or a process that it divided into, wrote to its standard error."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(self._stderr.tell() - _STDERR_TAIL_BYTES, 0))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def fork(self) -> ReceiverProcess:
        """Have it fork; raises OSError if it is gone, or says nothing."""
        memory = buffers.create_memory()
        channel, theirs = socket.socketpair()
        passed = [theirs.fileno(), *([] if memory is None else [memory])]
        try:
            # With the surroundings of now: libpq's own variables, and the directory that paths are relative to.
            context = pickle.dumps((dict(os.environ), os.getcwd()))
            socket.send_fds(self._socket, [len(context).to_bytes(4, "big")], passed)
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
        return ReceiverProcess(int.from_bytes(answer, "big"), channel, memory, descriptors[0] if descriptors else None)

    def close(self) -> None:
        """End it; a fork of this program only lets go of it."""
        self._socket.close()
        if self.usable:
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_closed_in_forks: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forks(channel: socket.socket) -> None:
    """Close a socket in forks of this program: what it leads to has to see the end of the program, not of its forks."""
    _closed_in_forks.add(channel)


def _close_sockets() -> None:
    for channel in list(_closed_in_forks):
        channel.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_sockets)

_lock = threading.Lock()
_fork_server: _ForkServer | None = None


def prestart() -> None:
    """Start the process that the next `start_receiver` needs."""
    with _lock:
        _running_server()


def start_receiver() -> ReceiverProcess:
    """A receiving process of one's own.

    Raises:
        ReplicationInterrupted: If none can be started; with the last words of the one that died.
    """
    global _fork_server
    with _lock:
        try:
            return _running_server().fork()
        except OSError:  # killed since: once more, with a new one
            _stop_server()
        server = _running_server()
        try:
            return server.fork()
        except OSError as error:
            _stop_server()
            raise ReplicationInterrupted(
                f"the process that receives the stream does not start: {server.stderr_tail or error}",
                object="receiver",
                remedy="see above what failed there; nothing was read or changed",
            ) from None
        finally:
            if not CAN_FORK:
                _fork_server = None


def stderr_tail() -> str:
    """The end of what receiving processes of this program wrote to their standard error."""
    server = _fork_server
    return "" if server is None else server.stderr_tail


def _running_server() -> _ForkServer:
    global _fork_server
    if _fork_server is None or not _fork_server.usable:
        _fork_server = _ForkServer()
    return _fork_server


def _stop_server() -> None:
    global _fork_server
    if _fork_server is not None:
        _fork_server.close()
        _fork_server = None


atexit.register(_stop_server)
