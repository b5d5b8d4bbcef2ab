"""Draining the stream: a thread that reads messages into a bounded queue and answers the server on time.

It runs in a process of its own (`receiver_process`), which `reader.StreamReader` starts and reads from.

The thread is the only user of the connection once streaming has begun. It sends a standby status update well
inside `wal_sender_timeout`, and at once when the server asks or when the confirmed LSN moves, whatever the consumer is
busy with and even while the queue is full. What it acknowledges is only ever what `confirm` was told; before that it
sends nothing at all. (To the minor releases of 2025 an acknowledgement of an older LSN moves the slot back: logical.c,
LogicalConfirmReceivedLocation. It would hide that somebody else has moved it on.)
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import psycopg

from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.parser import build_standby_status_update
from dbmazz_core.connectors.sources.postgres.replication.transport import Chunk, Transport
from dbmazz_core.errors import ReplicationInterrupted
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.settings.secret_url import SecretUrl

#: A block is handed over when it is that large, or when nothing more has come for LINGER_S.
BLOCK_BYTES = 4 << 20
LINGER_S = 0.005
#: Oldest that a message gets before it is handed over while others keep trickling in.
GATHER_MAX_S = 0.1
#: The walsender writes each message on its own. Letting some gather before reading saves most system calls; longer
#: naps let a Unix socket's buffer run full and slow the server down (measured: docs/benchmarks.md).
GATHER_S = 0.00003
#: Longest time between two status updates, whatever the server's timeout.
STATUS_INTERVAL_S = 10.0


class StreamConnection(Protocol):
    """What the receiver needs of the connection that it streams from."""

    slot: str
    url: SecretUrl

    def source_error(self, sqlstate: str | None, text: str) -> Exception:
        """What the server said as one of our errors."""

    def close(self) -> None:
        """Close it."""


class StreamReceiver:
    """A running logical replication stream.

    Attributes:
        received_bytes: Bytes of messages received so far.
        receive_cpu_s: CPU seconds the thread has used, for benchmarks.
    """

    def __init__(
        self,
        connection: StreamConnection,
        transport: Transport,
        *,
        wal_sender_timeout_s: float,
        queue_bytes: int,
    ) -> None:
        self.received_bytes = 0
        self.receive_cpu_s = 0.0
        self._connection = connection
        self._transport = transport
        self._confirmed: Lsn | None = None
        self._interval = min(STATUS_INTERVAL_S, wal_sender_timeout_s / 4 or STATUS_INTERVAL_S)
        self._status_due = float("inf")
        self._reply_wanted = False
        self._queue: deque[Chunk] = deque()
        self._announced_end = INVALID_LSN
        self._queued = 0
        self._queue_bytes = max(queue_bytes, 1)
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._ended = False
        self._closing = False
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        self._thread = threading.Thread(target=self._run, name="dbmazz-receiver", daemon=True)
        self._thread.start()

    # -- the consumer's side

    def read(self, timeout: float) -> MessageBlock | None:
        """The next block, or None if nothing came for `timeout` seconds.

        A block without messages tells that `server_end` moved.

        Raises:
            SourceError: If the stream broke; everything received before has been handed out first.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ended, timeout)
            if not self._queue:
                if self._ended:
                    raise self._failure or self._end_of_stream()
                return None
            chunk = self._queue.popleft()
            self._queued -= chunk.size
            self._changed.notify_all()
        block = self._transport.read(chunk)
        if self._transport.reply_requested or self._transport.ended:
            self._wake()
        if not len(block) and block.server_end == self._announced_end:
            return None
        self._announced_end = block.server_end
        self.received_bytes += block.size
        return block

    def confirm(self, lsn: Lsn) -> None:
        """Acknowledge everything before `lsn` as durable; sent at once. An LSN behind the last one is ignored."""
        if self._confirmed is None or lsn > self._confirmed:
            self._confirmed = lsn
            self._status_due = 0.0
            self._wake()

    @property
    def confirmed_lsn(self) -> Lsn | None:
        """What was last acknowledged, None if nothing was."""
        return self._confirmed

    @property
    def closing(self) -> bool:
        """Whether `stop` was called."""
        return self._closing

    def request_keepalive(self) -> None:
        """Ask the server how far it has sent; the answer moves `server_end`."""
        self._reply_wanted = True
        self._wake()

    def stop(self) -> None:
        """Have the thread send the last acknowledgement and end; `read` then raises. From any thread."""
        self._closing = True
        self._wake()

    def close(self) -> None:
        """Stop, and close the connection. Idempotent."""
        if self._wake_in >= 0:
            self.stop()
            self._thread.join()
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = self._wake_out = -1
            self._connection.close()

    def _wake(self) -> None:
        if self._wake_out >= 0:
            with contextlib.suppress(BlockingIOError):  # already awake
                os.write(self._wake_out, b"w")
        with self._changed:  # it may be waiting for room in the queue instead
            self._changed.notify_all()

    # -- the thread's side

    def _run(self) -> None:
        started = time.thread_time()
        try:
            self._receive()
            if self._confirmed is not None:
                self._send_status(self._confirmed)
        except (psycopg.Error, OSError) as error:
            self._failure = self._interrupted(str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the consumer gets it
            self._failure = error
        finally:
            self.receive_cpu_s = time.thread_time() - started
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _receive(self) -> None:
        transport, poller = self._transport, select.poll()
        poller.register(transport.fileno(), select.POLLIN)
        poller.register(self._wake_in, select.POLLIN)
        first = 0.0
        while not self._closing:
            received = transport.gather()
            if not transport.ended and transport.gathered < BLOCK_BYTES:
                if received:
                    continue
                # All that has come is read.
                wait_s = LINGER_S if transport.gathered else self._seconds_until_status()
                ready = poller.poll(wait_s * 1000)
                self._send_due_status(ready)
                if not transport.gathered:
                    continue
                if ready:
                    first = first or time.monotonic()
                    if time.monotonic() - first < GATHER_MAX_S:
                        time.sleep(GATHER_S)
                        continue
            first = 0.0
            self._enqueue(transport.take())
            if transport.ended:
                return

    def _send_due_status(self, ready: Sequence[tuple[int, int]]) -> None:
        """Empty the wake-up pipe, and send a status update where one is due."""
        if any(descriptor == self._wake_in for descriptor, _ in ready):
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_in, 4096)
        if self._confirmed is None:
            return
        if self._reply_wanted or self._transport.reply_requested or time.monotonic() >= self._status_due:
            self._transport.reply_requested = False
            self._send_status(self._confirmed)

    def _seconds_until_status(self) -> float:
        """Seconds until a status update is due; before the first, until one is looked for again."""
        return min(max(self._status_due - time.monotonic(), 0.0), self._interval)

    def _enqueue(self, chunk: Chunk) -> None:
        """Put a chunk into the queue once there is room, answering the server meanwhile: without the lock, for the
        socket may take its time, and whoever reads, confirms or stops must not wait for it."""
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
        reply, self._reply_wanted = self._reply_wanted, False
        self._status_due = time.monotonic() + self._interval
        sent = self._transport.send(build_standby_status_update(confirmed, reply_requested=reply))
        deadline = time.monotonic() + self._interval
        while not sent:  # the socket takes no more: a server that does not read, or a stalled network
            poller = select.poll()
            poller.register(self._transport.fileno(), select.POLLOUT)
            poller.poll(100)
            if time.monotonic() > deadline:
                raise self._interrupted("the server does not read our status updates")
            sent = self._transport.flush()

    def _end_of_stream(self) -> Exception:
        end = self._transport.stream_end
        if end.message is not None:
            return self._connection.source_error(end.sqlstate, end.message)
        return self._interrupted("the server ended the stream")

    def _interrupted(self, detail: str) -> ReplicationInterrupted:
        return ReplicationInterrupted(
            f"the replication stream of slot {self._connection.slot} broke: "
            f"{self._connection.url.redact(detail).strip()}",
            object=self._connection.slot,
            remedy="run again: capture resumes at the checkpoint, nothing is lost",
        )
