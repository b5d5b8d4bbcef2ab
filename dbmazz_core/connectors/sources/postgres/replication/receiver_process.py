"""The receiving process: `main`, run by the process that `launcher` starts, which forks for each stream.

A process and not only a thread, because receiving one message takes Python a microsecond, all of it under the
interpreter's lock: next to a decoder at work the server would wait for us half of the time (measured, a Unix socket:
half the speed; docs/benchmarks.md). While it waits it has no threads, so that a fork has all there is.

A fork reads a request and commands from its socket, and writes frames to it (see `protocol`). When what it reads ends,
it ends; and when the program does, though a fork of that may still hold the other end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.replication.buffers import BufferPool
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.replication.launcher import CAN_FORK
from dbmazz_core.connectors.sources.postgres.replication.protocol import (
    END,
    ERROR,
    STARTED,
    read_request,
    write_block,
    write_object,
)
from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.secret_url import SecretUrl

_POLL_S = 1.0
_SWITCH_INTERVAL_S = 0.0001


@dataclass(frozen=True, slots=True)
class Request:
    """What to stream. It comes through a pipe, so that the password is in no argument and no environment.

    Attributes:
        url: Where from.
        server: Which one that has to be; None: any.
        slot, publication: Of what.
        start_lsn: From where on.
        messages: Whether logical messages are wanted.
    """

    url: SecretUrl
    server: Server | None
    slot: str
    publication: str
    start_lsn: Lsn
    messages: bool


def main(descriptor: int, program: int) -> None:
    """Wait for requests on a socket, and divide for each, until it closes or the program ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader decides when it ends
    signal.signal(signal.SIGCHLD, _reap_children)
    control = socket.socket(fileno=descriptor)
    watch = ProgramWatch(program)
    gc.freeze()
    while watch.until_readable(control):
        header, descriptors, _, _ = socket.recv_fds(control, 4, 2)
        if len(header) < 4:
            break
        environment, directory = pickle.loads(control.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
        pid = os.fork() if CAN_FORK else 0
        if not pid:
            if not CAN_FORK:
                control.sendall(os.getpid().to_bytes(4, "big"))
            control.close()
            _run_receiver(descriptors, environment, directory, watch)
        pidfd = _open_pidfd(pid)
        if pidfd is None:
            control.sendall(pid.to_bytes(4, "big"))
        else:
            socket.send_fds(control, [pid.to_bytes(4, "big")], [pidfd])
            os.close(pidfd)
        for received in descriptors:
            os.close(received)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


class ProgramWatch:
    """Notices when the program ends, though its forks may live on and hold copies of its descriptors.

    Args:
        program: Its process id.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._pidfd = _open_pidfd(program)

    @property
    def alive(self) -> bool:
        """Whether the program is still there."""
        if self._pidfd is not None:
            return not select.select([self._pidfd], [], [], 0)[0]
        try:
            os.kill(self._program, 0)
        except OSError:
            return False
        return True

    def until_readable(self, channel: socket.socket) -> bool:
        """Wait for something to read, or the end; False once the program has ended."""
        watched: list[socket.socket | int] = [channel] if self._pidfd is None else [channel, self._pidfd]
        while True:
            ready = select.select(watched, [], [], _POLL_S)[0]
            if not self.alive:
                return False
            if ready:
                return True


def _open_pidfd(pid: int) -> int | None:
    """A descriptor that means this process and no later one of its id; None where the system has none."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # an old kernel, or the process is gone
        return None


def _reap_children(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_receiver(
    descriptors: Sequence[int], environment: dict[str, str], directory: str, watch: ProgramWatch
) -> NoReturn:
    """Be the receiving process for one stream, and end."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # removed: only a relative path would have needed it
            os.chdir(directory)
        serve(socket.socket(fileno=descriptors[0]), descriptors[1] if len(descriptors) > 1 else None, watch)
        status = 0
    except BaseException:  # noqa: BLE001 - a fork must not return into the loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve(channel: socket.socket, memory: int | None, watch: ProgramWatch) -> None:
    """Serve one request.

    Args:
        channel: To the reader.
        memory: Descriptor of the memory shared with the reader.
        watch: Notices the end of the reader's program.
    """
    # The thread that empties the socket must not wait for the other one, which looks at what came.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    buffers = BufferPool(memory)
    try:
        request = read_request(channel)
    except EOFError:
        return
    assert isinstance(request, Request)
    try:
        receiver, walsender = _start_stream(request, buffers)
    except Exception as error:  # noqa: BLE001 - the reader raises it
        write_object(channel, ERROR, error)
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader is gone: nobody is left to tell
        write_object(channel, STARTED, walsender)
        threading.Thread(target=_execute_commands, args=(receiver, channel, watch), daemon=True).start()
        try:
            while True:
                block = receiver.read(_POLL_S)
                if block is not None:
                    write_block(channel, block)
        except Exception as error:  # noqa: BLE001 - the reader raises it, unless it closed the stream itself
            if not receiver.closing:
                write_object(channel, ERROR, error)
        receiver.close()
        write_object(channel, END, receiver.receive_cpu_s)
    receiver.close()


def _start_stream(request: Request, buffers: BufferPool) -> tuple[StreamReceiver, int]:
    """The running stream, and the server process that sends it."""
    connection = ReplicationConnection(
        request.url, slot=request.slot, publication=request.publication, server=request.server
    )
    try:
        receiver = connection.start(request.start_lsn, messages=request.messages, buffers=buffers)
        return receiver, connection.pgconn.backend_pid
    except BaseException:
        connection.close()
        raise


def _execute_commands(receiver: StreamReceiver, channel: socket.socket, watch: ProgramWatch) -> None:
    """Follow commands until they end, or the program does."""
    rest = b""
    try:
        while watch.until_readable(channel) and (received := channel.recv(1 << 12)):
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                command, _, argument = line.decode().partition(" ")
                if command == "confirm":
                    receiver.confirm(Lsn.parse(argument))
                else:
                    receiver.request_keepalive()
    except ConnectionResetError:  # it died with something of ours unread
        pass
    finally:
        receiver.stop()
