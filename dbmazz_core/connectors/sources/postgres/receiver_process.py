"""The receiving process: `python -m ...receiver_process`, started by `reader.StreamReader`.

A process and not only a thread, because receiving one message takes Python a microsecond, all of it under the
interpreter's lock: next to a decoder at work the server would wait for us half of the time (measured, a Unix socket:
half the speed; docs/benchmarks.md). It reads a pickled request from standard input, then commands (see `frames`), and
writes frames to standard output. When its standard input ends, whatever the reason, it ends.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
import threading
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.frames import END, ERROR, STARTED, write_block, write_object
from dbmazz_core.connectors.sources.postgres.receiver import StreamReceiver
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
        slot, publication: Of what.
        start_lsn: From where on.
        messages: Whether logical messages are wanted.
    """

    url: SecretUrl
    slot: str
    publication: str
    start_lsn: Lsn
    messages: bool


def main() -> None:
    """Serve one request."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the reader decides when it ends
    # The thread that empties the socket must not wait for the other one, which looks at what came.
    sys.setswitchinterval(_SWITCH_S)
    out = sys.stdout.fileno()
    slots = SlotPool(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    try:
        request = pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    try:
        receiver = _start(request, slots)
    except Exception as error:  # noqa: BLE001 - the reader raises it
        write_object(out, ERROR, error)
        return
    with contextlib.suppress(BrokenPipeError):  # the reader is gone: nobody is left to tell
        write_object(out, STARTED, None)
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


def _start(request: Request, slots: SlotPool) -> StreamReceiver:
    connection = ReplicationConnection(request.url, slot=request.slot, publication=request.publication)
    try:
        return connection.start(request.start_lsn, messages=request.messages, slots=slots)
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
