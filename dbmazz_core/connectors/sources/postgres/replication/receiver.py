"""The receiving thread: reads the stream into a bounded queue and answers the server in time.

Once streaming has begun, the thread is the only user of the connection. It sends a standby status update well within
`wal_sender_timeout`, and at once when the confirmed LSN moves or `read` finds a request of the server. It does so
whatever the consumer does, and also while the queue is full: only a call that holds the interpreter lock for most of
`wal_sender_timeout` would stop it. It acknowledges only LSNs that `confirm` was called with, and before the first call
it sends nothing. (In the minor releases of 2025 an acknowledgement of an older LSN moves the slot back:
logical.c, LogicalConfirmReceivedLocation. It would hide that another process has moved the slot forward.)

If nothing came since the last status update, the next one asks the server for a keepalive: an idle server answers at
once. A walsender that is busy with one transaction may not read the request for minutes, so no more than one of them is
under way between two status updates, and silence is no evidence without a look at the server (`silence`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import psycopg

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.parser import build_standby_status_update
from dbmazz_core.connectors.sources.postgres.replication.copy_data import MESSAGE_MAX_BYTES, TOO_LONG
from dbmazz_core.connectors.sources.postgres.replication.transport import Chunk, Transport
from dbmazz_core.errors import ParseError, ReplicationInterrupted
from dbmazz_core.forks import detach_in_forks
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.stream import TextNeeded
from dbmazz_core.settings.secret_url import SecretUrl

#: Bytes of a block. A smaller block is handed over when nothing has come for LINGER_S seconds.
BLOCK_BYTES = 4 << 20
LINGER_S = 0.005
#: Seconds after which a message is handed over even if more keep coming.
GATHER_MAX_S = 0.1
#: Longest wait, in seconds, for what the thread has gathered.
_HAND_OVER_S = 0.05
#: Seconds to sleep before a read. The walsender writes each message on its own, so a short sleep saves most system
#: calls. In a longer one the buffer of a Unix socket fills up and the server slows down (measured: docs/benchmarks.md).
GATHER_S = 0.00003
#: Bytes of an incomplete message that count as progress: any slow line brings them within the limits of silence.
PROGRESS_BYTES = 1 << 16
#: Seconds between a look at the server and the verdict.
_POLL_S = 1.0
#: Seconds until `read` notices Ctrl-C: polars' handler of SIGINT restarts the wait for a lock.
_CTRL_C_S = 0.1
#: Seconds that the last status update may take.
_END_TIMEOUT_S = 5.0
#: Classes of SQLSTATE that send functions raise: unsupported features, bad data, undefined functions, errors of the
#: function's language, and internal errors.
_OF_VALUES = ("0A", "22", "38", "39", "42", "P0", "XX")
#: Most seconds between two status updates, whatever `wal_sender_timeout` is.
STATUS_INTERVAL_S = 10.0


class StreamConnection(Protocol):
    """What `StreamReceiver` needs of the connection that it streams from."""

    slot: str
    url: SecretUrl
    walsender_pid: int

    def source_error(self, sqlstate: str | None, text: str) -> Exception:
        """Return the error for an SQLSTATE and a message of the server."""

    def end_reason(self, *, asked: bool) -> str | None:
        """Return the reason why nothing can come any more, None if something may: `silence.connection_is_dead`."""

    def close(self) -> None:
        """Close the connection."""


class StreamReceiver:
    """A running logical replication stream, received by a thread.

    Args:
        connection: The connection; `close` closes it.
        transport: The stream on this connection.
        wal_sender_timeout_s: The server's `wal_sender_timeout` in seconds; 0: none.
        queue_bytes: Bytes of messages in the queue from which on the thread stops reading.
        binary: Whether values come in binary format.

    Attributes:
        walsender_pid: Process id of the server's walsender.
        received_bytes: Bytes of messages received so far.
        receive_cpu_s: CPU seconds of the thread, known once it has ended.
    """

    def __init__(
        self,
        connection: StreamConnection,
        transport: Transport,
        *,
        wal_sender_timeout_s: float,
        queue_bytes: int,
        binary: bool = False,
    ) -> None:
        self.walsender_pid = connection.walsender_pid
        self.received_bytes = 0
        self.receive_cpu_s = 0.0
        self._connection = connection
        self._transport = transport
        self._binary = binary
        self._confirmed: Lsn | None = None
        self._interval = min(STATUS_INTERVAL_S, wal_sender_timeout_s / 4 or STATUS_INTERVAL_S)
        self._status_due = float("inf")
        self._reply_wanted = False
        self._asked_at = 0.0
        self._heard_at = time.monotonic()
        self._sent_at = 0.0
        self._incomplete = 0
        self._progress_at = time.monotonic()
        self._look: threading.Thread | None = None
        self._look_began = self._looked_at = 0.0
        self._suspicion: str | None = None
        self._queue: deque[Chunk] = deque()
        self._announced_end = INVALID_LSN
        self._queued = 0
        self._queue_bytes = max(queue_bytes, 1)
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._ended = False
        self._closing = False
        self._hand_over = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        detach_in_forks(self, lambda receiver: [receiver._transport.fileno()])
        self._thread = threading.Thread(target=self._run, name="dbmazz-receiver", daemon=True)
        self._thread.start()

    # -- for the consumer

    def read(self, timeout: float, *, take_gathered: bool = False) -> MessageBlock | None:
        """Return the next block, or None if none came within `timeout` seconds.

        A block without messages reports that `server_end` has moved.

        Args:
            timeout: Seconds to wait.
            take_gathered: Whether to take what the thread has gathered until then, although more keeps coming.

        Raises:
            SourceError: The stream broke, or the server can send nothing any more (`silence`). All blocks received
                before have been returned first.
            ParseError: The bytes are no replication stream.
            TextNeeded: The server cannot send a value in binary format.
        """
        deadline = time.monotonic() + timeout
        while (chunk := self._next_chunk(deadline, take_gathered=take_gathered)) is not None:
            block = self._read_chunk(chunk)
            if len(block) or block.server_end != self._announced_end:
                self._announced_end = block.server_end
                self.received_bytes += block.size
                return block
        self._verify_server_sends()
        return None

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything before `lsn` as durable, at once. An LSN not above the last one is ignored."""
        if self._confirmed is None or lsn > self._confirmed:
            self._confirmed = lsn
            self._status_due = 0.0
            self._wake()

    @property
    def confirmed_lsn(self) -> Lsn:
        """The LSN that was last acknowledged; `INVALID_LSN` before the first `confirm`."""
        return self._confirmed or INVALID_LSN

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for `read`."""
        return self._queued

    def request_keepalive(self) -> None:
        """Ask the server for a keepalive, which moves `server_end`. While an answer is owed, nothing is sent."""
        if self._heard_at >= self._asked_at:
            self._reply_wanted = True
            self._wake()

    def close(self) -> None:
        """Send the last acknowledgement, stop the thread and close the connection. Idempotent."""
        if self._wake_in >= 0:
            self._closing = True
            self._wake()
            self._thread.join()
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = self._wake_out = -1
            self._transport.close()
            self._connection.close()

    def _next_chunk(self, deadline: float, *, take_gathered: bool) -> Chunk | None:
        """Take the next chunk from the queue; None if none came in time."""
        with self._changed:
            while not (self._queue or self._ended):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    if not (take_gathered and self._transport.gathered):
                        return None
                    take_gathered, self._hand_over = False, True
                    self._write_to_pipe()
                    left_s = _HAND_OVER_S
                    deadline = time.monotonic() + left_s
                self._changed.wait(min(left_s, _CTRL_C_S))
            if not self._queue:
                raise self._failure or self._end_of_stream()
            chunk = self._queue.popleft()
            self._queued -= chunk.size
            self._changed.notify_all()
            return chunk

    def _read_chunk(self, chunk: Chunk) -> MessageBlock:
        """Return the messages that a chunk completes, and note what the chunk says about the server."""
        before = self._transport.incomplete
        block = self._transport.read(chunk)
        after = self._transport.incomplete
        if after != before + chunk.size or after // PROGRESS_BYTES > before // PROGRESS_BYTES:
            self._note_progress()
        if self._transport.reply_requested or self._transport.ended:
            self._wake()
        return block

    def _verify_server_sends(self) -> None:
        """Verify that the server can still send: look at it if no message has come for `SILENCE_LIMIT_S`.

        The look has a thread of its own, so that `read` does not wait for it. A busy server passes.

        Raises:
            ReplicationInterrupted: The server's process is gone, waits for a client that it does not reach, or the
                server cannot be reached.
            ParseError: The server has sent everything that it has, but bytes came that complete no message.
        """
        if self._look is not None and self._look.is_alive():
            return
        now = time.monotonic()
        if self._suspicion is not None and self._progress_at < self._look_began:
            if now - self._looked_at < _POLL_S:  # what came during the look is read meanwhile
                return
            if self._incomplete or self._transport.incomplete:
                raise ParseError(
                    "bytes came that complete no message, and the server has nothing more to send",
                    message_type="d",
                    offset=1,
                    lsn=INVALID_LSN,
                )
            raise self._interrupted(self._suspicion)
        if now - max(self._progress_at, self._looked_at) >= silence.SILENCE_LIMIT_S:
            self._look_began = now
            self._look = threading.Thread(target=self._look_at_server, name="dbmazz-look", daemon=True)
            self._look.start()

    def _look_at_server(self) -> None:
        self._suspicion = self._connection.end_reason(asked=self._asked_at > self._progress_at)
        self._looked_at = time.monotonic()

    def _wake(self) -> None:
        """Wake the thread up, whether it waits for the socket or for room in the queue."""
        self._write_to_pipe()
        with self._changed:  # the thread may wait for room in the queue instead
            self._changed.notify_all()

    def _write_to_pipe(self) -> None:
        if self._wake_out >= 0:
            with contextlib.suppress(BlockingIOError):  # the pipe is full, so the thread wakes up anyway
                os.write(self._wake_out, b"w")

    # -- the thread

    def _run(self) -> None:
        started = time.thread_time()
        try:
            self._receive()
            if self._confirmed is not None:
                self._send_status(self._confirmed)
        except (psycopg.Error, OSError) as error:
            self._failure = self._interrupted(self._connection.url.redact(str(error)))
        except Exception as error:  # noqa: BLE001 - `read` raises it
            self._failure = error
        finally:
            self.receive_cpu_s = time.thread_time() - started
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _receive(self) -> None:
        """Read the socket and enqueue chunks until the stream ends or `stop` was called."""
        transport, poller = self._transport, select.poll()
        poller.register(transport.fileno(), select.POLLIN)
        poller.register(self._wake_in, select.POLLIN)
        first = 0.0
        while not self._closing:
            received = transport.gather()
            if received:
                self._heard_at, self._incomplete = time.monotonic(), 0
            if not transport.ended and transport.gathered < BLOCK_BYTES:
                if received:
                    continue
                # The socket is empty.
                linger_s = 0.0 if self._hand_over else LINGER_S
                wait_s = linger_s if transport.gathered else self._seconds_until_status()
                ready = poller.poll(wait_s * 1000)
                self._send_due_status(ready)
                if not transport.gathered:
                    if any(descriptor == transport.fileno() for descriptor, _ in ready):
                        self._note_bytes(transport.fileno())
                    continue
                if ready and not self._hand_over:
                    first = first or time.monotonic()
                    if time.monotonic() - first < GATHER_MAX_S:
                        time.sleep(GATHER_S)
                        continue
            first, self._hand_over = 0.0, False
            self._enqueue(transport.take())
            if transport.ended:
                return

    def _note_progress(self) -> None:
        """Note that a message came, or a good part of one."""
        self._progress_at = time.monotonic()

    def _note_bytes(self, descriptor: int) -> None:
        """Count the bytes that wait in the socket, as a message that libpq assembles shows no other sign of progress.

        Raises:
            ParseError: More bytes came than the longest message has, and complete none.
        """
        self._heard_at = time.monotonic()
        waiting = int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)), sys.byteorder)
        before, self._incomplete = self._incomplete, self._incomplete + waiting
        if self._incomplete // PROGRESS_BYTES > before // PROGRESS_BYTES:
            self._note_progress()
        if self._incomplete > MESSAGE_MAX_BYTES:
            raise ParseError(TOO_LONG, message_type="d", offset=1, lsn=INVALID_LSN)

    def _send_due_status(self, ready: Sequence[tuple[int, int]]) -> None:
        """Empty the wake-up pipe if it is among the ready descriptors, and send a status update if one is due."""
        if any(descriptor == self._wake_in for descriptor, _ in ready):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)
        if self._confirmed is None:
            return
        if self._reply_wanted or self._transport.reply_requested or time.monotonic() >= self._status_due:
            self._transport.reply_requested = False
            self._send_status(self._confirmed)

    def _seconds_until_status(self) -> float:
        """Seconds until a status update is due. Before the first `confirm`: until the next check for one."""
        return min(max(self._status_due - time.monotonic(), 0.0), self._interval)

    def _enqueue(self, chunk: Chunk) -> None:
        """Put a chunk into the queue once there is room, and send due status updates meanwhile.

        A status update is sent without the lock: the socket may block, and `read`, `confirm` and `stop` must not.
        """
        while True:
            with self._changed:
                if self._queued < self._queue_bytes or self._closing:
                    self._queue.append(chunk)
                    self._queued += chunk.size
                    self._changed.notify_all()
                    break
                self._changed.wait(self._seconds_until_status())
            self._send_due_status(())
        self._send_due_status(())

    def _send_status(self, confirmed: Lsn) -> None:
        """Send a status update.

        Raises:
            ReplicationInterrupted: That takes longer than the status interval; the last one may take `_END_TIMEOUT_S`.
        """
        now = time.monotonic()
        reply, self._reply_wanted = self._reply_wanted or self._heard_at <= self._sent_at, False
        self._sent_at, self._status_due = now, now + self._interval
        if reply:
            self._asked_at = now
        sent = self._transport.send(build_standby_status_update(confirmed, reply_requested=reply))
        while not sent:  # the socket's buffer is full: the server does not read, or the network stalls
            poller = select.poll()
            poller.register(self._transport.fileno(), select.POLLOUT)
            poller.poll(100)
            if time.monotonic() - now > (min(self._interval, _END_TIMEOUT_S) if self._closing else self._interval):
                raise self._interrupted("the server does not read status updates")
            sent = self._transport.flush()

    def _end_of_stream(self) -> Exception:
        """Return the error for a stream that the server has ended."""
        end = self._transport.stream_end
        if end.message is not None:
            if self._binary and (end.sqlstate or "")[:2] in _OF_VALUES:
                # Perhaps of a column that is not captured: a composite with a type that has no send function.
                return TextNeeded(f"the server cannot send a value in binary format: {end.message}")
            return self._connection.source_error(end.sqlstate, end.message)
        return self._interrupted("the server ended the stream")

    def _interrupted(self, detail: str) -> ReplicationInterrupted:
        return ReplicationInterrupted(
            f"the replication stream of slot {self._connection.slot} broke: {detail.strip()}",
            object=self._connection.slot,
            remedy="run again: capture resumes at the checkpoint, nothing is lost",
        )
