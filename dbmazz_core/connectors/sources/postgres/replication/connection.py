"""The replication connection: IDENTIFY_SYSTEM, the creation of slots, and START_REPLICATION.

This module knows bytes and positions. `parser` reads the messages, and the engine applies them.

Sources: PostgreSQL manual, "Streaming Replication Protocol" (protocol-replication) and "Logical Streaming Replication
Protocol" (protocol-logical-replication).
"""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import pq

from dbmazz_core.connectors.sources.postgres.connection import Server, connect_replication, session_conninfo
from dbmazz_core.connectors.sources.postgres.errors.connecting import pooler_in_between
from dbmazz_core.connectors.sources.postgres.errors.running import Login
from dbmazz_core.connectors.sources.postgres.server.error_details import detailed_source_error
from dbmazz_core.connectors.sources.postgres.silence import connection_is_dead, execute, next_result
from dbmazz_core.errors import SlotActive
from dbmazz_core.forks import detach_in_forks
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import SystemIdentity
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier, quote_literal

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
    from dbmazz_core.connectors.sources.postgres.replication.transport import LibpqTransport

#: Seconds to wait for an active slot before the error: a walsender that lost its client holds its slot for a moment.
SLOT_RELEASE_WAIT_S = 5.0
#: Bytes of messages that wait for the program while it applies a flush.
QUEUE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """The result of `CREATE_REPLICATION_SLOT`.

    Attributes:
        name: The slot.
        consistent_point: Transactions that commit at or after this LSN are streamed; earlier ones are in the snapshot.
        snapshot_name: For `SET TRANSACTION SNAPSHOT`; valid until the connection's next command.
    """

    name: str
    consistent_point: Lsn
    snapshot_name: str


class ReplicationConnection:
    """A connection that speaks the replication protocol, on psycopg's libpq layer.

    Every libpq option of the URL is in effect: TLS, service files, several hosts. Usable as a context manager.

    Args:
        url: URL of the server.
        slot: Replication slot of the stream.
        publication: Publication of the stream.
        application_name: As `pg_stat_activity` shows it.
        server: The server that the connection must lead to; None: any.

    Attributes:
        walsender_pid: Process id of the walsender; before `start`, as libpq was told.

    Raises:
        SourceError: From every method, with its remedy.
        ServerChanged: The connection leads to another server than `server`.
    """

    def __init__(
        self,
        url: SecretUrl,
        *,
        slot: str,
        publication: str,
        application_name: str = "dbmazz",
        server: Server | None = None,
    ) -> None:
        self.url = url
        self.slot = slot
        self.publication = publication
        self.pgconn: pq.abc.PGconn = connect_replication(url, application_name=application_name, server=server)
        detach_in_forks(self, lambda connection: [connection.pgconn.socket])
        self.walsender_pid = self.pgconn.backend_pid
        place = {name: getattr(self.pgconn, name).decode() for name in ("host", "hostaddr", "port")}
        self._look_conninfo = session_conninfo(url.pinned(**place), "dbmazz look", replication="false")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server frees the slot and drops temporary slots."""
        self.pgconn.finish()

    @property
    def server_version(self) -> int:
        """The server's version as `server_version_num` shows it, for example 150018."""
        return self.pgconn.server_version

    def identify_system(self) -> SystemIdentity:
        """Run `IDENTIFY_SYSTEM`: system identifier, timeline, flush LSN and database."""
        (row,) = self._query("IDENTIFY_SYSTEM")
        return SystemIdentity(row[0], int(row[1]), Lsn.parse(row[2]), row[3])

    def timeline_history(self, timeline: int) -> dict[int, Lsn]:
        """Run `TIMELINE_HISTORY`: the timelines that led to this one, each with the LSN where it ended.

        Args:
            timeline: At least 2; the first timeline has no history.
        """
        ((_, content),) = self._query(f"TIMELINE_HISTORY {timeline}")
        entries = [line.split("\t") for line in content.splitlines() if line[:1].isdigit()]
        return {int(entry[0]): Lsn.parse(entry[1]) for entry in entries}

    def create_slot(
        self,
        name: str,
        *,
        temporary: bool = False,
        on_wait: Callable[[float], None] | None = None,
        wait_s: float = 2.0,
    ) -> CreatedSlot:
        """Create a logical slot for pgoutput and export its snapshot.

        The server waits for every transaction that is writing at the start to end (manual, "CREATE_REPLICATION_SLOT").

        Args:
            name: The slot.
            temporary: Whether the server drops the slot with the connection.
            on_wait: Called with the seconds waited so far, every `wait_s` seconds; an exception of it ends the wait.
            wait_s: Seconds between two calls of `on_wait`.

        Raises:
            SourceError: The server refuses, or the connection breaks.
        """
        kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
        command = f"CREATE_REPLICATION_SLOT {quote_identifier(name)} {kind} pgoutput EXPORT_SNAPSHOT"
        started = time.monotonic()
        self.pgconn.send_query(command.encode())
        poller = select.poll()
        poller.register(self.pgconn.socket, select.POLLIN)
        try:
            while self.pgconn.is_busy():
                if poller.poll(wait_s * 1000):
                    self.pgconn.consume_input()
                elif on_wait is not None:
                    on_wait(time.monotonic() - started)
            # Not `get_result`, which waits for the end of the answer without limit, and lets no other thread run.
            result = next_result(self.pgconn)
            while next_result(self.pgconn) is not None:
                pass
        except psycopg.Error as error:
            raise detailed_source_error(None, str(error), self.url, slot=name, publication=self.publication) from None
        except BaseException:
            # If the command were not canceled, the server would go on waiting and create the slot in the end.
            self.pgconn.get_cancel().cancel()
            with suppress(psycopg.Error):  # the connection may be dead
                while next_result(self.pgconn) is not None:
                    pass
            raise
        (row,) = self._rows(result)
        return CreatedSlot(row[0], Lsn.parse(row[1]), row[2])

    def start(
        self,
        start_lsn: Lsn,
        *,
        messages: bool = False,
        binary: bool = False,
        queue_bytes: int = QUEUE_BYTES,
    ) -> StreamReceiver:
        """Start streaming transactions that commit at or after `start_lsn`, with protocol version 1.

        Args:
            start_lsn: Where to start. If the slot's confirmed LSN is later, the server starts there without saying so.
                The caller must compare the two after the stream has begun, because others can move the slot until then.
                Nothing is acknowledged before `StreamReceiver.confirm` is called.
            messages: Whether the server sends logical messages (`pg_logical_emit_message`; PostgreSQL 14).
            binary: Whether the server sends values in binary form, if their type has one (PostgreSQL 14).
            queue_bytes: Bytes of messages that wait for the consumer before the receiver stops reading.

        Raises:
            SlotActive: Another process has used the slot for `SLOT_RELEASE_WAIT_S` seconds.
            SourceError: The server refuses, or does not answer.
        """
        # numpy, which the other commands do not need.
        from dbmazz_core.connectors.sources.postgres.replication.receiver import StreamReceiver
        from dbmazz_core.connectors.sources.postgres.replication.transport import open_transport

        # Options' values are string literals in the replication grammar; names inside are SQL identifiers.
        options = f"proto_version '1', publication_names {quote_literal(quote_identifier(self.publication))}"
        if messages:
            options += ", messages 'true'"
        if binary:
            options += ", binary 'true'"
        command = f"START_REPLICATION SLOT {quote_identifier(self.slot)} LOGICAL {start_lsn} ({options})"
        timeout_ms = self._setting_ms("wal_sender_timeout")
        # Proxies invent process ids for their cancel requests; the server knows its own.
        ((pid,),) = self._query("SELECT pg_catalog.pg_backend_pid()")
        self.walsender_pid = int(pid)
        deadline = time.monotonic() + SLOT_RELEASE_WAIT_S
        while True:
            self.pgconn.send_query(command.encode())
            try:
                transport = open_transport(self.pgconn) or self._libpq_transport()
            except SlotActive:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
            except OSError as error:
                raise self.source_error(None, str(error)) from None
            else:
                self.pgconn.nonblocking = 1  # so that its end does not wait for a server that does not read
                return StreamReceiver(
                    self,
                    transport,
                    wal_sender_timeout_s=timeout_ms / 1000,
                    queue_bytes=queue_bytes,
                    binary=binary,
                )

    def _libpq_transport(self) -> LibpqTransport:
        """Read the answer to START_REPLICATION through libpq; raise the error that it holds."""
        from dbmazz_core.connectors.sources.postgres.replication.transport import LibpqTransport

        try:
            result = next_result(self.pgconn)
            if result is not None and result.status == pq.ExecStatus.COPY_BOTH:
                return LibpqTransport(self.pgconn)
            while result is not None and next_result(self.pgconn) is not None:
                pass
        except psycopg.Error as error:
            raise self.source_error(None, str(error)) from None
        raise self.error(result)

    def error(self, result: pq.abc.PGresult | None = None) -> Exception:
        """Return the error for a failed result, or for libpq's last failure."""
        sqlstate, message = None, b""
        if result is not None:
            sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or result.error_message
        text = (message or self.pgconn.error_message).decode("utf-8", "replace").strip()
        return self.source_error(sqlstate.decode() if sqlstate else None, text)

    def source_error(self, sqlstate: str | None, text: str) -> Exception:
        """Return the error for an SQLSTATE and a message of the server."""
        if sqlstate == "42601":  # syntax_error: an ordinary backend does not know the commands of a walsender
            text = "drops the option `replication` (it answers a replication command with a syntax error)"
            return pooler_in_between(Login.of(self.url), text)
        return detailed_source_error(sqlstate, text, self.url, slot=self.slot, publication=self.publication)

    def end_reason(self, *, asked: bool) -> str | None:
        """Return the reason why the walsender can send nothing any more, None if it may, see `connection_is_dead`."""
        return connection_is_dead(self._look_conninfo, self.walsender_pid, asked=asked)

    def _query(self, command: str) -> list[list[str]]:
        try:
            return self._rows(execute(self.pgconn, command.encode()))
        except psycopg.Error as error:
            raise self.source_error(None, str(error)) from None

    def _rows(self, result: pq.abc.PGresult | None) -> list[list[str]]:
        """Return the rows of a result, NULL as an empty string, or raise its error."""
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise self.error(result)
        return [
            [(result.get_value(row, column) or b"").decode() for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    def _setting_ms(self, name: str) -> int:
        """Return a setting in milliseconds; if it cannot be read, 60 s, the default of `wal_sender_timeout`."""
        ((value,),) = self._query(f"SHOW {name}")
        match = re.fullmatch(r"(\d+)(ms|s|min|h|d)?", value)
        if match is None:
            return 60_000
        return int(match[1]) * {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}[match[2] or "ms"]


def open_stream(
    config: SourceConfig,
    start_lsn: Lsn,
    *,
    messages: bool = False,
    binary: bool = False,
    server: Server | None = None,
) -> StreamReceiver:
    """Open a replication connection and start streaming, see `ReplicationConnection.start`.

    Args:
        config: Names the server, the slot and the publication.
        start_lsn: Transactions that commit at or after this LSN are streamed.
        messages: Whether the server sends logical messages.
        binary: Whether the server sends values in binary form.
        server: The server that the stream must come from; None: any.

    Raises:
        SourceError: The stream does not start.
    """
    connection = ReplicationConnection(config.url, slot=config.slot, publication=config.publication_name, server=server)
    try:
        return connection.start(start_lsn, messages=messages, binary=binary)
    except BaseException:
        connection.close()
        raise
