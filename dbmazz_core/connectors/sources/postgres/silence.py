"""Connections that have gone silent: notice a dead one within a minute, and wait for a busy server as long as it works.

TCP itself notices a peer that is gone, once it is told to: with `TCP_OPTIONS` the kernel ends a connection whose peer
has acknowledged nothing for half a minute. Linux would otherwise retransmit for a quarter of an hour
(tcp(7), tcp_retries2), and send no probe at all while sent data is unacknowledged.

A proxy, a tunnel or a load balancer in between keeps its own half alive when the other half is dead. Only the
server's process can tell then. After `SILENCE_LIMIT_S` without a byte, `connection_is_dead` therefore looks at this
process through a new connection:

- The process works, or waits for a lock or a disk: the server is busy, however long it takes. A walsender that applies
  a large transaction's invalidations, or reads its spilled changes, answers no request for minutes
  (walsender.c: replies are read in WalSndLoop, WalSndWaitForWal and ProcessPendingWrites only).
- The process waits for its client, or is gone: what it sent last does not arrive any more.
- No new connection can be made either: the server, or the way to it, is dead.
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import pq, waiting

#: libpq's options for TCP: probes after 10 s of silence, every 5 s; sent data must be acknowledged within 30 s.
#: With TCP_USER_TIMEOUT, the kernel's limit for unanswered probes is that time too (tcp(7)).
TCP_OPTIONS: dict[str, str] = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
#: Seconds of silence after which the server's process is looked at, again and again while it is busy.
SILENCE_LIMIT_S = 30.0
#: Seconds that a look may take: to connect, and to answer.
_LOOK_TIMEOUT_S = 10
#: Seconds that the server may take to answer a command that waits for nothing there.
ANSWER_TIMEOUT_S = 30.0
#: Seconds between the two looks that must agree.
_SECOND_LOOK_S = 1.0

#: Longest time, in seconds, until Ctrl-C is noticed: polars' handler of SIGINT restarts system calls.
_CTRL_C_S = 0.1

_PgGenerator = Generator[Any, Any, Any]


class WatchedConnection(psycopg.Connection[tuple[Any, ...]]):
    """An ordinary connection on which a query fails once the server cannot answer it any more.

    The error is a psycopg.OperationalError without SQLSTATE, as for every connection that breaks. Before `watch` was
    called, a query must be answered within `SILENCE_LIMIT_S`.
    """

    _look: Callable[[], str | None] | None = None

    def watch(self, conninfo: str, pid: int) -> None:
        """Look at the server's process after each `SILENCE_LIMIT_S` of silence.

        Args:
            conninfo: Connection string that leads to the same server.
            pid: Process id of this connection's server process, as the server knows it.
        """
        self._look = lambda: connection_is_dead(conninfo, pid)

    def wait(self, gen: _PgGenerator, *args: Any, **options: Any) -> Any:
        """Run one of psycopg's generators, and watch for silence meanwhile."""
        return super().wait(_Watched(gen, self.pgconn, self._end_if_dead, SILENCE_LIMIT_S), *args, **options)

    def _end_if_dead(self) -> None:
        reason = f"nothing has come for {SILENCE_LIMIT_S:.0f} s" if self._look is None else self._look()
        if reason is not None:
            self.pgconn.finish()
            raise psycopg.OperationalError(reason)


class _Watched:
    """A generator of psycopg that waits for its socket itself, and notices silence meanwhile.

    psycopg waits in C, where not all supported versions tell the generator that nothing has come.

    Args:
        gen: The generator.
        pgconn: Its connection.
        on_silence: Called after each `limit_s` without an event; an exception ends the wait.
        limit_s: Seconds of silence.
    """

    def __init__(self, gen: _PgGenerator, pgconn: pq.abc.PGconn, on_silence: Callable[[], None], limit_s: float):
        self._gen = gen
        self._pgconn = pgconn
        self._on_silence = on_silence
        self._limit_s = limit_s
        self._interrupted = False
        self.throw, self.close = gen.throw, gen.close

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, ready: Any) -> Any:
        """Go on, and return what the generator waits for once that has come."""
        wanted = self._gen.send(ready)
        if not self._interrupted:  # psycopg cancels the query, and waits for the end with a limit of its own
            try:
                self._wait(wanted)
            except BaseException:
                self._interrupted = True
                raise
        return wanted

    def _wait(self, wanted: int) -> None:
        poller = select.poll()
        events = (select.POLLIN if wanted & waiting.Wait.R else 0) | (select.POLLOUT if wanted & waiting.Wait.W else 0)
        poller.register(self._pgconn.socket, events)
        since = time.monotonic()
        while not poller.poll(_CTRL_C_S * 1000):
            if time.monotonic() - since >= self._limit_s:
                self._on_silence()
                since = time.monotonic()


class _LookConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection whose queries must be answered within `_LOOK_TIMEOUT_S`."""

    def wait(self, gen: _PgGenerator, *args: Any, **options: Any) -> Any:
        return super().wait(_Watched(gen, self.pgconn, self._give_up, _LOOK_TIMEOUT_S), *args, **options)

    def _give_up(self) -> None:
        self.pgconn.finish()
        raise psycopg.errors.ConnectionTimeout("the query was not answered")


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What a server process is doing.

    Attributes:
        waits_for_client: Whether it waits until its client sends or reads: with type Client a backend (ClientRead,
            ClientWrite), with Client or Activity a walsender (WalSenderMain).
        copied_bytes: Bytes that its COPY has sent so far; None: it runs no COPY.
    """

    waits_for_client: bool
    copied_bytes: int | None


def process_state(conninfo: str, pid: int) -> ProcessState | None:
    """Return what a server process is doing, read through a new connection; None if there is no such process.

    A role sees this of its own processes (manual, "The Cumulative Statistics System").

    Raises:
        psycopg.Error: The server does not answer, or refuses.
    """
    with _LookConnection.connect(conninfo, autocommit=True, connect_timeout=_LOOK_TIMEOUT_S) as connection:
        row = connection.execute(
            "SELECT COALESCE(a.wait_event_type IN ('Client', 'Activity'), false), c.bytes_processed "
            "FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_progress_copy c USING (pid) "
            "WHERE a.pid = %s",
            [pid],
        ).fetchone()
    return None if row is None else ProcessState(*row)


def is_unreachable(error: psycopg.Error) -> bool:
    """Return whether no connection was made, by a server that refuses none (too many clients, a shutdown) either."""
    return isinstance(error, psycopg.errors.ConnectionTimeout) or bool(
        re.search("timed? ?out|refused|unreachable|no route|reset", str(error), re.IGNORECASE)
    )


def connection_is_dead(conninfo: str, pid: int, *, asked: bool = True) -> str | None:
    """Return the reason why nothing can come from a server process any more; None if something may.

    Args:
        conninfo: Connection string that leads to the same server.
        pid: The server process.
        asked: Whether the process owes an answer, so that it may not wait for its client.
    """
    silent = f"nothing has come for {SILENCE_LIMIT_S:.0f} s"
    for look in range(2):
        if look:
            time.sleep(_SECOND_LOOK_S)  # an answer may be on its way
        try:
            state = process_state(conninfo, pid)
        except psycopg.Error as error:
            return f"{silent}, and the server takes no new connection" if is_unreachable(error) else None
        if state is None:
            return f"{silent}, and the server's process {pid} has ended"
        if not state.waits_for_client or not asked:
            return None
    return (
        f"{silent}, and the server's process {pid} waits for its client: the network, or a proxy on the way, has "
        "dropped the connection without ending it"
    )


def execute(pgconn: pq.abc.PGconn, command: bytes) -> pq.abc.PGresult | None:
    """Run a command that the server answers at once, as `PGconn.exec_` does, but wait for `ANSWER_TIMEOUT_S` at most.

    Raises:
        psycopg.OperationalError: The connection broke, or nothing came in time.
    """
    pgconn.send_query(command)
    last, result = None, next_result(pgconn)
    while result is not None:
        last, result = result, next_result(pgconn)
    return last


def next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    """Return the next result of a command, as `PGconn.get_result` does, but wait for `ANSWER_TIMEOUT_S` at most.

    Raises:
        psycopg.OperationalError: The connection broke, or nothing came in time.
    """
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    poller = select.poll()
    while pgconn.is_busy():
        poller.register(pgconn.socket, select.POLLIN | (select.POLLOUT if pgconn.flush() else 0))
        if not poller.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise psycopg.OperationalError(
                f"the server, or a proxy in front of it, did not answer within {ANSWER_TIMEOUT_S:.0f} s"
            )
        pgconn.consume_input()
    return pgconn.get_result()
