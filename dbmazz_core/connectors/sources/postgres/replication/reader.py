"""The program's end of a stream that a receiver process receives (`receiver_process`)."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import socket
import threading
import time

from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.replication import launcher
from dbmazz_core.connectors.sources.postgres.replication.buffers import BufferViews
from dbmazz_core.connectors.sources.postgres.replication.protocol import (
    BLOCK,
    END,
    ERROR,
    STARTED,
    read_frame,
    unpack_block,
    write_request,
)
from dbmazz_core.connectors.sources.postgres.replication.receiver_process import Request
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.settings.config import SourceConfig

#: Seconds that a stream may take to start: the connection's own limits, and the wait for a slot that is released.
_START_TIMEOUT_S = 60.0
#: Seconds that the rest of a frame may take after its first bytes.
_FRAME_TIMEOUT_S = 30.0
#: Seconds that the receiver may take to end.
_END_TIMEOUT_S = 5.0


class StreamReader:
    """A running logical replication stream.

    Nothing is acknowledged before `start_acknowledging`, not even the LSN where the stream starts.

    Args:
        config: Names the server, the slot and the publication.
        start_lsn: Transactions that commit at or after this LSN are streamed.
        messages: Whether the server sends logical messages.
        server: The server that the stream must come from; None: any.

    Attributes:
        pid: Process id of the receiver.
        walsender_pid: Process id of the server's walsender.
        receive_cpu_s: CPU seconds of the receiving thread, known once the stream is closed.
        confirmed_lsn: The LSN that was last acknowledged.

    Raises:
        SourceError: The stream does not start.
    """

    def __init__(
        self, config: SourceConfig, start_lsn: Lsn, *, messages: bool = False, server: Server | None = None
    ) -> None:
        self.receive_cpu_s = 0.0
        self.walsender_pid = 0
        self.confirmed_lsn = INVALID_LSN
        self._slot = config.slot
        self._redact = config.url.redact
        self._closed = False
        self._process = launcher.start_receiver()
        self.pid, self._channel = self._process.pid, self._process.channel
        self._channel.settimeout(_FRAME_TIMEOUT_S)
        self._send_lock = threading.Lock()
        self._process_ended = False
        self._buffers = None
        if self._process.memory is not None:
            self._buffers = BufferViews(self._process.memory)
            os.close(self._process.memory)  # the mapping stays valid
        self._poller = select.poll()
        self._poller.register(self._channel, select.POLLIN)
        try:
            write_request(
                self._channel, Request(config.url, server, config.slot, config.publication_name, start_lsn, messages)
            )
            if not self._poller.poll(_START_TIMEOUT_S * 1000):
                raise self._interrupted(f"no answer within {_START_TIMEOUT_S:.0f} s")
            self._read_message()
        except OSError as error:
            self.close()
            raise self._interrupted(str(error)) from None
        except BaseException:
            self.close()
            raise

    def read(self, timeout: float) -> MessageBlock | None:
        """Return the next block, or None if none came within `timeout` seconds.

        A block without messages reports that `server_end` has moved.

        Raises:
            SourceError: The stream broke. All blocks received before have been returned first.
        """
        return self._read_message() if self._poller.poll(timeout * 1000) else None

    def start_acknowledging(self, lsn: Lsn) -> None:
        """Acknowledge everything before `lsn`, and from now on answer the server's keepalives."""
        self.confirmed_lsn = lsn
        self._send_command(f"confirm {lsn}\n".encode())

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything before `lsn` as durable, at once. An LSN not above the last one is ignored."""
        if lsn > self.confirmed_lsn:
            self.confirmed_lsn = lsn
            self._send_command(f"confirm {lsn}\n".encode())

    def request_keepalive(self) -> None:
        """Ask the server for a keepalive, which moves `server_end`."""
        self._send_command(b"keepalive\n")

    def close(self) -> None:
        """Send the last acknowledgement and end the stream. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)  # unlike close(), ends the socket for forks' copies too
        deadline = time.monotonic() + _END_TIMEOUT_S
        with contextlib.suppress(EOFError, OSError):
            while self._poller.poll(max(deadline - time.monotonic(), 0) * 1000):
                kind, payload = self._read_frame()
                if kind == END:
                    self.receive_cpu_s = pickle.loads(payload)
        if not self._process_ended:
            self._process.kill()
        self._channel.close()
        if self._process.pidfd is not None:
            os.close(self._process.pidfd)

    def _read_message(self) -> MessageBlock | None:
        """Read the next frame and return its block, or raise its error."""
        try:
            kind, payload = self._read_frame()
        except EOFError:
            raise self._interrupted(f"the process ended{self._stderr_tail()}") from None
        except OSError as error:
            raise self._interrupted(str(error)) from None
        if kind == ERROR:
            raise pickle.loads(payload)
        if kind == STARTED:
            self.walsender_pid = pickle.loads(payload)
        return unpack_block(payload, self._buffers) if kind == BLOCK else None

    def _read_frame(self) -> tuple[bytes, bytearray]:
        """Read the next frame; raise EOFError once the receiver has ended."""
        try:
            return read_frame(self._channel)
        except (EOFError, ConnectionResetError):
            self._process_ended = True  # the other end of the socket closes with the process
            raise EOFError from None

    def _send_command(self, command: bytes) -> None:
        # If the receiver has ended, the next read raises the reason.
        with self._send_lock, contextlib.suppress(OSError):
            self._channel.sendall(command)

    def _stderr_tail(self) -> str:
        text = launcher.stderr_tail()
        return f": {self._redact(text)}" if text else ""

    def _interrupted(self, what: str) -> ReplicationInterrupted:
        return ReplicationInterrupted(
            f"the receiver process of replication slot {self._slot} failed: {what}",
            object=self._slot,
            remedy="run again: capture resumes at the checkpoint, nothing is lost",
        )
