"""The receiver process: `main` is the fork server that `launcher` starts, `serve` receives one stream.

Receiving runs in a process and not in a thread, because libpq needs one call a message, and each takes Python a
microsecond under the interpreter's lock. Beside a decoding thread, the server waited half of the time (measured: half
the speed over a Unix socket; docs/benchmarks.md). The fork server has no threads, because fork() copies only the
calling thread.

A receiver reads a request and commands from its socket and writes frames to the socket (see `protocol`). It ends when
the socket closes. It also ends with the program, even if a fork of the program keeps the other end open.
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

#: Seconds between two checks whether the program still runs.
_POLL_S = 1.0
#: Seconds between switches of threads (`sys.setswitchinterval`; Python's default is 5 ms).
_SWITCH_INTERVAL_S = 0.0001


@dataclass(frozen=True, slots=True)
class Request:
    """What to stream. The request travels through a socket, so that the password is in no argument or environment.

    Attributes:
        url: URL of the server.
        server: The server that the connection must lead to; None: any.
        slot: Replication slot.
        publication: Publication.
        start_lsn: Where the stream starts.
        messages: Whether the server sends logical messages.
    """

    url: SecretUrl
    server: Server | None
    slot: str
    publication: str
    start_lsn: Lsn
    messages: bool


def main(descriptor: int, program: int) -> None:
    """Run the fork server: fork a receiver for each request until the socket closes or the program ends.

    Args:
        descriptor: Descriptor of the socket to the program.
        program: Process id of the program.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader decides when a receiver ends
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
    """Detects the end of the program, even if forks of the program hold copies of its descriptors.

    Args:
        program: Process id of the program.
    """

    def __init__(self, program: int) -> None:
        self._program = program
        self._pidfd = _open_pidfd(program)

    @property
    def alive(self) -> bool:
        """Whether the program still runs."""
        if self._pidfd is not None:
            return not select.select([self._pidfd], [], [], 0)[0]
        try:
            os.kill(self._program, 0)
        except OSError:
            return False
        return True

    def until_readable(self, channel: socket.socket) -> bool:
        """Wait until the socket is readable, which includes its end; return False once the program has ended."""
        watched: list[socket.socket | int] = [channel] if self._pidfd is None else [channel, self._pidfd]
        while True:
            ready = select.select(watched, [], [], _POLL_S)[0]
            if not self.alive:
                return False
            if ready:
                return True


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor of a process that stays valid if the id is reused; None where the system has none."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:  # the kernel is too old, or the process has ended
        return None


def _reap_children(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run_receiver(
    descriptors: Sequence[int], environment: dict[str, str], directory: str, watch: ProgramWatch
) -> NoReturn:
    """Receive one stream in a fork, with the program's environment and directory, and end the process."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # the directory was removed; only a relative path needs it
            os.chdir(directory)
        serve(socket.socket(fileno=descriptors[0]), descriptors[1] if len(descriptors) > 1 else None, watch)
        status = 0
    except BaseException:  # noqa: BLE001 - a fork must not return into the fork server's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def serve(channel: socket.socket, memory: int | None, watch: ProgramWatch) -> None:
    """Receive one stream: read the request, start the stream, and forward blocks until the stream ends.

    Args:
        channel: Socket to the reader.
        memory: Descriptor of the memory that is shared with the reader; None: no shared memory.
        watch: Detects the end of the reader's program.
    """
    # The thread that reads the server's socket must not wait for this one, which finds messages in the bytes.
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
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader has ended
        write_object(channel, STARTED, walsender)
        threading.Thread(target=_execute_commands, args=(receiver, channel, watch), daemon=True).start()
        try:
            while True:
                block = receiver.read(_POLL_S)
                if block is not None:
                    write_block(channel, block)
                else:
                    receiver.verify_server_sends()
        except Exception as error:  # noqa: BLE001 - the reader raises it, unless it closed the stream itself
            if not receiver.closing:
                write_object(channel, ERROR, error)
        receiver.close()
        write_object(channel, END, receiver.receive_cpu_s)
    receiver.close()


def _start_stream(request: Request, buffers: BufferPool) -> tuple[StreamReceiver, int]:
    """Start the stream; return its receiver and the process id of the walsender."""
    connection = ReplicationConnection(
        request.url, slot=request.slot, publication=request.publication, server=request.server
    )
    try:
        receiver = connection.start(request.start_lsn, messages=request.messages, buffers=buffers)
        return receiver, connection.walsender_pid
    except BaseException:
        connection.close()
        raise


def _execute_commands(receiver: StreamReceiver, channel: socket.socket, watch: ProgramWatch) -> None:
    """Execute the reader's commands until the socket closes or the program ends, then stop the receiver."""
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
    except ConnectionResetError:  # the reader ended without reading all frames
        pass
    finally:
        receiver.stop()
