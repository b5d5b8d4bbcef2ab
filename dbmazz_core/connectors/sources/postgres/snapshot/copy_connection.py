"""A connection that has imported an exported snapshot and runs `COPY ... TO STDOUT (FORMAT binary)`.

Rows of a connection without encryption are read from the socket itself: libpq would take a call for each row, which
costs Python more than everything else of a row together. libpq does not know of these commands, and finds its
connection as idle as it left it. An encrypted connection is read through libpq.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Self

import psycopg
from psycopg import pq

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.connection import Connection, Server, connect_to, session_conninfo
from dbmazz_core.connectors.sources.postgres.snapshot.copy_answer import BLOCK_BYTES, CopyAnswer
from dbmazz_core.connectors.sources.postgres.snapshot.copy_format import TRAILER, RowBlock, header_size
from dbmazz_core.forks import detach_in_forks
from dbmazz_core.settings.secret_url import SecretUrl

#: Bytes of a read. A Unix socket holds less.
_READ_BYTES = 1 << 20
#: Longest time, in seconds, until a request to stop is noticed.
_STOP_S = 0.1
#: Seconds without a byte after which the rows that have come are handed over.
_PAUSE_S = 0.02
_LENGTH = Struct(">I")
#: First bytes of an answer without encryption: CommandComplete, ErrorResponse, NoticeResponse, ParameterStatus. A TLS
#: record begins with 20 to 24 (RFC 8446, section 5.1), a GSSAPI packet with the first byte of its length, 0.
_PLAIN = (b"C", b"E", b"N", b"S")


class CopyFailed(Exception):
    """A copy failed.

    Attributes:
        sqlstate: SQLSTATE of the server's error; None: the connection broke.
        message: The message.
    """

    def __init__(self, sqlstate: str | None, message: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message


class CopyStopped(Exception):
    """The reader was asked to stop."""


class CopyConnection:
    """A connection whose transaction sees the rows of an exported snapshot.

    Attributes:
        raw: Whether texts arrive as the database has them, in any encoding (a database in SQL_ASCII).
        is_usable: Whether the connection can run another copy: no copy has failed, or was left before its end.
    """

    def __init__(self, connection: Connection, conninfo: str) -> None:
        self.raw = False
        self.is_usable = True
        self._connection = connection
        self._pgconn = connection.pgconn
        self._conninfo = conninfo
        self._pid = 0
        self._is_plain = False
        self._socket = socket.socket(fileno=os.dup(self._pgconn.socket))
        detach_in_forks(self, lambda copying: [copying._socket.fileno()])

    @classmethod
    def open(cls, server: Server, url: SecretUrl, snapshot_name: str, *, lock_timeout_s: int) -> Self:
        """Connect, and import the snapshot into a transaction.

        Args:
            server: The server that has the snapshot.
            url: Its URL.
            snapshot_name: Name of the snapshot.
            lock_timeout_s: `lock_timeout` of the connection, in seconds.

        Raises:
            SourceError: The connection failed.
            CopyFailed: The server refused the snapshot.
        """
        opened, _ = connect_to(server, url, application_name="dbmazz snapshot", text_form=True)
        copying = cls(opened, session_conninfo(server.url, "dbmazz look"))
        try:
            copying._import(snapshot_name, lock_timeout_s)
        except BaseException:
            copying.close()
            raise
        return copying

    def close(self) -> None:
        """Close the connection."""
        self.is_usable = False
        self._socket.close()
        self._connection.close()

    def execute(self, query: str) -> str | None:
        """Run a query in the transaction; return the first value of its result.

        Raises:
            CopyFailed: It failed.
        """
        try:
            result = silence.execute(self._pgconn, query.encode())
        except psycopg.Error as error:
            self.is_usable = False
            raise CopyFailed(None, str(error)) from None
        self._verify(result, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
        value = result.get_value(0, 0) if result is not None and result.ntuples else None
        return None if value is None else value.decode()

    def rows(self, query: str, width: int, stopping: Callable[[], bool]) -> Iterator[RowBlock]:
        """Run a query with COPY, and yield its rows in blocks of about `BLOCK_BYTES`.

        If the iterator is closed before its end, the connection cannot be used any more.

        Args:
            query: The query.
            width: Number of its columns.
            stopping: Whether to stop; asked again and again while nothing comes.

        Raises:
            CopyFailed: The query failed, or the connection broke.
            CopyStopped: `stopping` returned True.
            MalformedRows: The bytes are no rows of a binary COPY.
        """
        self.is_usable = False
        command = f"COPY ({query}) TO STDOUT (FORMAT binary)".encode()
        yield from (self._plain_rows if self._is_plain else self._libpq_rows)(command, width, stopping)
        self.is_usable = True

    def _import(self, snapshot_name: str, lock_timeout_s: int) -> None:
        # SET TRANSACTION SNAPSHOT must come before the transaction's first query (manual, "SET TRANSACTION").
        self._pgconn.send_query(
            b"BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
            + f"SET TRANSACTION SNAPSHOT '{snapshot_name}'; SET LOCAL lock_timeout = '{lock_timeout_s}s'".encode()
        )
        try:
            # The first byte of the answer tells whether the connection is encrypted, before libpq reads it.
            while self._pgconn.flush():
                self._wait(select.POLLOUT, lambda: False)
            self._wait(select.POLLIN, lambda: False)
            self._is_plain = self._socket.recv(1, socket.MSG_PEEK) in _PLAIN
            last, result = None, silence.next_result(self._pgconn)
            while result is not None:
                last, result = result, silence.next_result(self._pgconn)
        except (psycopg.Error, OSError) as error:
            raise CopyFailed(None, str(error)) from None
        self._verify(last, pq.ExecStatus.COMMAND_OK)
        self._pid = int(self.execute("SELECT pg_catalog.pg_backend_pid()") or 0)
        encoding = self.execute(
            "SELECT CASE WHEN pg_catalog.current_setting('server_encoding') = 'SQL_ASCII' "
            "THEN pg_catalog.set_config('client_encoding', 'SQL_ASCII', false) END"
        )
        self.raw = encoding is not None

    def _verify(self, result: pq.abc.PGresult | None, *expected: pq.ExecStatus) -> None:
        """Raise CopyFailed unless a result has an expected status."""
        if result is not None and result.status in expected:
            return
        self.is_usable = False
        if result is None:
            raise CopyFailed(None, "the server gave no answer")
        fields = [result.error_field(f) for f in (pq.DiagnosticField.SQLSTATE, pq.DiagnosticField.MESSAGE_PRIMARY)]
        sqlstate, message = (None if field is None else field.decode("utf-8", "replace") for field in fields)
        raise CopyFailed(sqlstate, message or result.get_error_message())

    def _wait(self, event: int, stopping: Callable[[], bool]) -> None:
        """Wait for a poll event of the socket.

        Raises:
            CopyFailed: Nothing can come any more.
            CopyStopped: `stopping` returned True.
        """
        poller = select.poll()
        poller.register(self._socket, event)
        since = time.monotonic()
        while not poller.poll(_STOP_S * 1000):
            if stopping():
                raise CopyStopped
            if time.monotonic() - since >= silence.SILENCE_LIMIT_S:
                reason = silence.connection_is_dead(self._conninfo, self._pid) if self._pid else "no answer"
                if reason is not None:
                    raise CopyFailed(None, reason)
                since = time.monotonic()

    def _libpq_rows(self, command: bytes, width: int, stopping: Callable[[], bool]) -> Iterator[RowBlock]:
        """Implement `rows` through libpq."""
        pgconn = self._pgconn
        try:
            pgconn.send_query(command)
            while pgconn.is_busy():
                self._wait(select.POLLIN | (select.POLLOUT if pgconn.flush() else 0), stopping)
                pgconn.consume_input()
            self._verify(pgconn.get_result(), pq.ExecStatus.COPY_OUT)
            rows: list[memoryview] = []
            size, is_first, length = 0, True, 0
            while length >= 0:
                length, data = pgconn.get_copy_data(1)
                if length > 0:
                    if is_first:
                        data, is_first = data[header_size(data) :], False
                    if len(data) and bytes(data[:2]) != TRAILER:
                        rows.append(data)
                        size += len(data)
                if rows and (length <= 0 or size >= BLOCK_BYTES):
                    yield RowBlock.join(rows)
                    rows, size = [], 0
                if length == 0:
                    self._wait(select.POLLIN, stopping)
                    pgconn.consume_input()
            self._verify(silence.next_result(pgconn), pq.ExecStatus.COMMAND_OK)
            while silence.next_result(pgconn) is not None:
                pass
        except psycopg.Error as error:
            raise CopyFailed(None, str(error)) from None

    def _plain_rows(self, command: bytes, width: int, stopping: Callable[[], bool]) -> Iterator[RowBlock]:
        """Implement `rows` on the socket."""
        unsent = memoryview(b"Q" + _LENGTH.pack(len(command) + 5) + command + b"\0")
        answer = CopyAnswer(width)
        try:
            while unsent:
                self._wait(select.POLLOUT, stopping)
                unsent = unsent[self._socket.send(unsent) :]
            is_open = True
            while not answer.is_complete and is_open:
                is_open = self._receive(answer, stopping)
                block = answer.take()
                if block is not None:
                    yield block
        except OSError as error:
            raise CopyFailed(None, str(error)) from None
        if answer.error is not None:
            raise CopyFailed(answer.error.get("C"), answer.error.get("M", ""))
        if not is_open:
            raise CopyFailed(None, "the server closed the connection")

    def _receive(self, answer: CopyAnswer, stopping: Callable[[], bool]) -> bool:
        """Receive bytes until the buffer is full, the answer may be complete, or nothing has come for a moment.

        Returns:
            Whether the connection is open; if the server has closed it, an error may be among the bytes.
        """
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        has_new = False  # the beginning of a row may have come before
        while len(room := answer.room) and not (has_new and answer.seems_complete):
            try:
                received = self._socket.recv_into(room, min(_READ_BYTES, len(room)))
            except BlockingIOError:
                if has_new and not poller.poll(_PAUSE_S * 1000):
                    return True
                self._wait(select.POLLIN, stopping)
                continue
            if not received:
                return False
            answer.received(received)
            has_new = True
        return True
