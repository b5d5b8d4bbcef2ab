"""The reader: the consumer's end of a stream that a process of its own receives (`receiver_process`)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import select
import signal
import time

from dbmazz_core.config import SourceConfig
from dbmazz_core.connectors.sources.postgres import receiver_spawn
from dbmazz_core.connectors.sources.postgres.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.frames import BLOCK, END, ERROR, STARTED, block_of, read_frame, write
from dbmazz_core.connectors.sources.postgres.receiver_process import Request
from dbmazz_core.connectors.sources.postgres.shared_buffers import SlotViews
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import INVALID_LSN, Lsn

#: Linux's largest pipe for everybody.
_PIPE_BYTES = 1 << 20
#: How long the receiver may take to end once it is told to.
_END_S = 5.0


class StreamReader:
    """A running logical replication stream. Nothing is acknowledged, not even its start, before `begin`.

    Args:
        config: Which server, slot and publication.
        start_lsn: Transactions committed at or after it are streamed.
        messages: Whether logical messages are wanted.
        server: The server that the stream has to come from; None: any.

    Attributes:
        pid: Id of the receiving process.
        walsender: Id of the server's process that sends the stream.
        receive_cpu_s: CPU seconds of the receiving thread, known once the stream is closed.
        confirmed_lsn: What was last acknowledged.

    Raises:
        SourceError: If the stream does not start.
    """

    def __init__(
        self, config: SourceConfig, start_lsn: Lsn, *, messages: bool = False, server: Server | None = None
    ) -> None:
        self.receive_cpu_s = 0.0
        self.walsender = 0
        self.confirmed_lsn = INVALID_LSN
        self._slot = config.slot
        self._closed = False
        spawned = receiver_spawn.take()
        self.pid, self._down, self._up = spawned.pid, spawned.down, spawned.up
        self._ended = False
        self._slots = None
        if spawned.memory is not None:
            self._slots = SlotViews(spawned.memory, self._release)
            os.close(spawned.memory)  # what is mapped stays
        with contextlib.suppress(OSError, AttributeError):  # a smaller pipe works too
            fcntl.fcntl(self._up, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poller = select.poll()
        self._poller.register(self._up, select.POLLIN)
        try:
            self._tell(pickle.dumps(Request(config.url, server, config.slot, config.publication, start_lsn, messages)))
            self._next()
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> MessageBlock | None:
        """The next block, or None if nothing came for `timeout` seconds.

        A block without messages tells that `server_end` moved.

        Raises:
            SourceError: If the stream broke; everything received before has been handed out first.
        """
        return self._next() if self._poller.poll(timeout * 1000) else None

    def begin(self, lsn: Lsn) -> None:
        """Have the server told from now on that we live, and that everything before `lsn` is durable."""
        self.confirmed_lsn = lsn
        self._tell(f"confirm {lsn}\n".encode())

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything before `lsn` as durable; sent at once. An LSN behind the last one is ignored."""
        if lsn > self.confirmed_lsn:
            self.confirmed_lsn = lsn
            self._tell(f"confirm {lsn}\n".encode())

    def request_keepalive(self) -> None:
        """Ask the server how far it has sent; the answer moves `server_end`."""
        self._tell(b"keepalive\n")

    def close(self) -> None:
        """Have the last acknowledgement sent, and end the stream. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.close(self._down)
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(EOFError, OSError):
            while self._poller.poll(max(deadline - time.monotonic(), 0) * 1000):
                kind, payload = self._read_frame()
                if kind == END:
                    self.receive_cpu_s = pickle.loads(payload)
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._up)

    def _next(self) -> MessageBlock | None:
        try:
            kind, payload = self._read_frame()
        except EOFError:
            raise ReplicationInterrupted(
                f"the process that receives the stream of slot {self._slot} ended",
                object=self._slot,
                remedy="run again: capture resumes at the checkpoint, nothing is lost",
            ) from None
        if kind == ERROR:
            raise pickle.loads(payload)
        if kind == STARTED:
            self.walsender = pickle.loads(payload)
        return block_of(payload, self._slots) if kind == BLOCK else None

    def _read_frame(self) -> tuple[bytes, bytearray]:
        try:
            return read_frame(self._up)
        except EOFError:
            self._ended = True  # its end of the pipe closes with the process
            raise

    def _release(self, slot: int) -> None:
        if not self._closed:
            self._tell(f"release {slot}\n".encode())

    def _tell(self, command: bytes) -> None:
        # A receiver that is gone has said why, or its pipe has ended: the next read raises that.
        with contextlib.suppress(BrokenPipeError):
            write(self._down, command)
