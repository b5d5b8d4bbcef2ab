"""The receiving process: `python -m ...receiver_process`, started by `receiver_spawn`, which forks for each stream.

A process and not only a thread, because receiving one message takes Python a microsecond, all of it under the
interpreter's lock: next to a decoder at work the server would wait for us half of the time (measured, a Unix socket:
half the speed; docs/benchmarks.md). While it waits it has no threads, so that a fork has all there is.

A fork reads a pickled request from standard input, then commands (see `frames`), and writes frames to standard output.
When its standard input ends, whatever the reason, it ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.frames import END, ERROR, STARTED, write_block, write_object
from dbmazz_core.connectors.sources.postgres.receiver import StreamReceiver
from dbmazz_core.connectors.sources.postgres.receiver_spawn import FORKS
from dbmazz_core.connectors.sources.postgres.replication import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.shared_buffers import SlotPool
from dbmazz_core.lsn import Lsn
from dbmazz_core.secret_url import SecretUrl

_POLL_S = 1.0
_SWITCH_S = 0.0001


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


def main() -> None:
    """Wait for orders on the socket that the argument names, and divide for each, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader decides when it ends
    signal.signal(signal.SIGCHLD, _bury)
    orders = socket.socket(fileno=int(sys.argv[1]))
    gc.freeze()
    while True:
        header, given, _, _ = socket.recv_fds(orders, 4, 3)
        if len(header) < 4:
            break
        environment, directory = pickle.loads(orders.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL))
        pid = os.fork() if FORKS else 0
        if not pid:
            if not FORKS:
                orders.sendall(os.getpid().to_bytes(4, "big"))
            orders.close()
            _become(given, environment, directory)
        orders.sendall(pid.to_bytes(4, "big"))
        for descriptor in given:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def _bury(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _become(given: Sequence[int], environment: dict[str, str], directory: str) -> NoReturn:
    """Be the receiving process for one stream, and end."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # removed: only a relative path would have needed it
            os.chdir(directory)
        os.dup2(given[0], sys.stdin.fileno())
        os.dup2(given[1], sys.stdout.fileno())
        for descriptor in given[:2]:
            os.close(descriptor)
        serve(given[2] if len(given) > 2 else None)
        status = 0
    except BaseException:  # noqa: BLE001 - a fork must not return into the loop
        traceback.print_exc()
    finally:
        os._exit(status)


def serve(memory: int | None) -> None:
    """Serve one request.

    Args:
        memory: Descriptor of the memory shared with the reader.
    """
    # The thread that empties the socket must not wait for the other one, which looks at what came.
    sys.setswitchinterval(_SWITCH_S)
    out = sys.stdout.fileno()
    slots = SlotPool(memory)
    try:
        request = pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    try:
        receiver, walsender = _start(request, slots)
    except Exception as error:  # noqa: BLE001 - the reader raises it
        write_object(out, ERROR, error)
        return
    with contextlib.suppress(BrokenPipeError):  # the reader is gone: nobody is left to tell
        write_object(out, STARTED, walsender)
        threading.Thread(target=_obey, args=(receiver, slots), daemon=True).start()
        try:
            while True:
                block = receiver.read(_POLL_S)
                if block is not None:
                    write_block(out, block)
        except Exception as error:  # noqa: BLE001 - the reader raises it, unless it closed the stream itself
            if not receiver.closing:
                write_object(out, ERROR, error)
        receiver.close()
        write_object(out, END, receiver.receive_cpu_s)
    receiver.close()


def _start(request: Request, slots: SlotPool) -> tuple[StreamReceiver, int]:
    """The running stream, and the server process that sends it."""
    connection = ReplicationConnection(
        request.url, slot=request.slot, publication=request.publication, server=request.server
    )
    try:
        receiver = connection.start(request.start_lsn, messages=request.messages, slots=slots)
        return receiver, connection.pgconn.backend_pid
    except BaseException:
        connection.close()
        raise


def _obey(receiver: StreamReceiver, slots: SlotPool) -> None:
    """Follow commands until standard input ends."""
    for line in sys.stdin.buffer:
        command, _, argument = line.decode().strip().partition(" ")
        if command == "confirm":
            receiver.confirm(Lsn.parse(argument))
        elif command == "release":
            slots.release(int(argument))
        else:
            receiver.request_keepalive()
    receiver.stop()


if __name__ == "__main__":
    main()
