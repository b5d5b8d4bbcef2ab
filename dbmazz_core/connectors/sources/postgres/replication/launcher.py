"""Start receiver processes: a fork server imports everything once and forks one receiver for each stream.

Starting a Python process takes 0.25 s, and 0.25 s of CPU time. The program therefore starts the fork server once, when
it needs its first stream, and the fork server forks for every later stream in milliseconds. A window starts the fork
server (`prestart`) before it imports polars.
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

from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.module_path import module_path

#: macOS frameworks, and libpq through them, fail in a process that continues after fork() without exec(). Outside of
#: Linux each stream therefore gets a process of its own.
CAN_FORK = sys.platform == "linux"
#: Seconds that the fork server may take to end with the program.
_END_TIMEOUT_S = 2.0
#: Seconds that the fork server may take to start, and to fork.
_ANSWER_TIMEOUT_S = 60.0
#: Bytes of standard error that are kept for an error message.
_STDERR_TAIL_BYTES = 2000
#: `-I` isolates the interpreter: it ignores the current directory and PYTHON* variables, so that a file there with the
#: name of a standard module is not imported. The program passes its own import path as an argument.
_BOOT_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__package__}.receiver_process import main; main(*map(int, sys.argv[2:]))"
)


@dataclass(frozen=True, slots=True)
class ReceiverProcess:
    """A receiver process that waits for its request.

    Attributes:
        pid: Its process id. The fork server is its parent.
        channel: The socket to the process. The other end closes with the process.
        memory: Descriptor of the shared memory, see `buffers`; None: no shared memory.
        pidfd: Descriptor of the process (pidfd_open(2)), which stays valid if the id is reused; None where the system
            has none.
    """

    pid: int
    channel: socket.socket
    memory: int | None
    pidfd: int | None

    def kill(self) -> None:
        """Send SIGKILL to the process. A process that has ended is ignored, and so is one without `pidfd`."""
        if self.pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class _ForkServer:
    """The process that forks receivers. It ends when its socket closes, which is when this program ends."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        close_in_forks(self._socket)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process runs
        arguments = (json.dumps(module_path()), str(theirs.fileno()), str(os.getpid()))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT_CODE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in the terminal is for the program alone
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy's threads do not survive fork()
            )
        self.owner = os.getpid()

    @property
    def usable(self) -> bool:
        """Whether the fork server runs and belongs to this process: a fork of the program starts its own."""
        return self.owner == os.getpid() and self._process.poll() is None

    @property
    def stderr_tail(self) -> str:
        """The last `_STDERR_TAIL_BYTES` that the fork server and its forks wrote to standard error."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(self._stderr.tell() - _STDERR_TAIL_BYTES, 0))
        return self._stderr.read().decode("utf-8", "replace").strip()

    def fork(self) -> ReceiverProcess:
        """Have the fork server fork a receiver.

        Raises:
            OSError: The fork server has ended, or does not answer within `_ANSWER_TIMEOUT_S`.
        """
        from dbmazz_core.connectors.sources.postgres.replication import buffers  # numpy: the fork server starts first

        memory = buffers.create_memory()
        channel, theirs = socket.socketpair()
        passed = [theirs.fileno(), *([] if memory is None else [memory])]
        try:
            # The receiver needs the environment of now: libpq's variables, and the directory of relative paths.
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
        """End the fork server. In a fork of this program only close the socket."""
        self._socket.close()
        if self.usable:
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


_closed_in_forks: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def close_in_forks(channel: socket.socket) -> None:
    """Close a socket in forks of this program, so that its peer sees the end of the program and not of its forks."""
    _closed_in_forks.add(channel)


def _close_sockets_in_fork() -> None:
    for channel in list(_closed_in_forks):
        channel.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_sockets_in_fork)

_lock = threading.Lock()
_fork_server: _ForkServer | None = None


def prestart() -> None:
    """Start the fork server, so that the next `start_receiver` does not wait for its imports."""
    with _lock:
        _running_fork_server()


def start_receiver() -> ReceiverProcess:
    """Return a new receiver process, which waits for its request.

    Raises:
        ReplicationInterrupted: No receiver can be started; the message ends with the process's standard error.
    """
    global _fork_server
    with _lock:
        try:
            return _running_fork_server().fork()
        except OSError:  # the fork server was killed: try a new one
            _stop_fork_server()
        fork_server = _running_fork_server()
        try:
            return fork_server.fork()
        except OSError as error:
            _stop_fork_server()
            raise ReplicationInterrupted(
                f"the receiver process does not start: {fork_server.stderr_tail or error}",
                object="receiver",
                remedy="fix the error that the process reports; nothing was read or changed",
            ) from None
        finally:
            if not CAN_FORK:
                _fork_server = None


def stderr_tail() -> str:
    """Return the end of what the fork server and receivers of this program wrote to standard error."""
    fork_server = _fork_server
    return "" if fork_server is None else fork_server.stderr_tail


def _running_fork_server() -> _ForkServer:
    """Return the fork server; start one if none runs. The caller holds `_lock`."""
    global _fork_server
    if _fork_server is None or not _fork_server.usable:
        _fork_server = _ForkServer()
    return _fork_server


def _stop_fork_server() -> None:
    global _fork_server
    if _fork_server is not None:
        _fork_server.close()
        _fork_server = None


atexit.register(_stop_fork_server)
