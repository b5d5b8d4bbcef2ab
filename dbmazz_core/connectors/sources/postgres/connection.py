"""Connections to PostgreSQL: ordinary ones for the catalog and snapshots, replication connections for the stream."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.pq import abc

from dbmazz_core.connectors.sources.postgres.errors.connecting import (
    pooler_in_between,
    recognized_connection_error,
    unrecognized_connection_error,
)
from dbmazz_core.connectors.sources.postgres.errors.running import (
    Login,
    missing_replication,
    no_free_connection,
    source_error,
    source_error_of,
)
from dbmazz_core.connectors.sources.postgres.silence import TCP_OPTIONS, WatchedConnection, execute
from dbmazz_core.errors import DbmazzError, NoFreeWalSender, ServerChanged
from dbmazz_core.forks import detach_in_forks
from dbmazz_core.settings.secret_url import SecretUrl

#: An ordinary connection; rows are tuples.
Connection = psycopg.Connection[tuple[Any, ...]]
_AnyConnection = TypeVar("_AnyConnection", bound=Connection)

#: Settings that make the text of a value the same on every connection: the snapshot and the stream must give equal text
#: for equal values. PostgreSQL's own subscriber sets the first three too (libpqwalreceiver.c). `lc_monetary` is not
#: set: `money` counts the smallest unit of the currency, and only the database's own locale knows how many of these
#: make one unit, so that another locale would print another amount.
TEXT_FORM_SETTINGS: dict[str, str] = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",  # changes the text of regclass, regtype and the like
}

#: Seconds that catalog queries and copies wait for a locked table. The error then names the transaction that locks it.
LOCK_TIMEOUT_S = 60

_SESSION_SETTINGS: dict[str, str] = {
    # A snapshot may last for hours, and roles and databases often have such limits.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # All names are qualified. With a search path another role's functions could shadow pg_catalog's (CVE-2018-1058),
    # and the text of regclass would depend on the path. PostgreSQL's own subscriber does the same.
    "search_path": "",
    # Row-level security does not filter the stream. With `off`, a query that a policy would filter fails, instead of
    # returning a snapshot without some of the rows.
    "row_security": "off",
    # Setup writes to the catalog. A default is no prohibition: privileges decide what the role may change.
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    # dbmazz reads the publication's row filters, and quotes texts, as SQL of the standard.
    "standard_conforming_strings": "on",
    # An index scan for a row filter must return all rows.
    "gin_fuzzy_search_limit": "0",
    # A statement that does not get its lock is tried again.
    "exit_on_error": "off",
}

#: Precedes the first query of a session, in one message: a standby runs no query in a serializable transaction, which
#: `default_transaction_isolation` of a role or database can ask for.
READ_COMMITTED = b"SET TRANSACTION ISOLATION LEVEL READ COMMITTED; "

#: Three text columns: when the server was started, to the microsecond, whether it is a standby, and the process id of
#: the session's server process.
_SERVER_COLUMNS = (
    "extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery()::text, pg_backend_pid()::text"
)

#: Defaults for connection options. libpq's own wait without limit and notice a dead peer only after two hours.
_DEFAULT_OPTIONS: dict[str, str] = {"connect_timeout": "10"} | TCP_OPTIONS
#: libpq's environment variables that take precedence over `_DEFAULT_OPTIONS`.
_OPTION_VARIABLES = {"connect_timeout": "PGCONNECT_TIMEOUT"}


@dataclass(frozen=True, slots=True)
class Server:
    """One running server, to which all connections of a run must lead.

    With several hosts in the URL, several addresses of a name, or a pooler or proxy in between, each connection may
    lead to another server. Slot, WAL position, catalog and stream must be those of one server.

    Attributes:
        url: URL of this server alone, as far as its address tells.
        started: `pg_postmaster_start_time()`, in seconds since 1970, to the microsecond: different for every server.
        in_recovery: Whether the server was a standby.
    """

    url: SecretUrl
    started: str
    in_recovery: bool

    def verify(self, other: Server) -> None:
        """Compare this server with the one that a new connection leads to.

        Raises:
            ServerChanged: The two differ, or the server was restarted or promoted since.
        """
        if other.started != self.started:
            raise server_changed("a connection led to another server than the first one, or it was restarted since")
        if other.in_recovery != self.in_recovery:
            raise server_changed(PROMOTED)


PROMOTED = "the server was promoted during this run"


def server_changed(what: str) -> ServerChanged:
    """Return the error for a run whose connections lead to two servers, or whose server was promoted."""
    return ServerChanged(
        f"{what}; nothing was applied since",
        object="SOURCE_URL",
        remedy="run again; if it happens again, name one server in SOURCE_URL, and no pooler that balances connections",
    )


def connect(url: SecretUrl, *, application_name: str = "dbmazz", text_form: bool = False) -> Connection:
    """Open an ordinary connection in autocommit mode, with no timeout but `LOCK_TIMEOUT_S` and an empty `search_path`.

    Args:
        url: URL of the server. Its `application_name` and `connect_timeout` (default: 10 s a host) take precedence.
        application_name: As `pg_stat_activity` shows it.
        text_form: Apply `TEXT_FORM_SETTINGS`, so that values read as text equal the stream's.

    Raises:
        ConnectionFailed: No server answers, or a pooler shares its processes among connections.
        AuthenticationFailed: The server refuses the login.
        MissingPrivilege: The role may not connect to the database.
        NoFreeWalSender: The server takes no more connections.
        ConfigError: libpq cannot use an option of the URL.
    """
    return connect_to(None, url, application_name=application_name, text_form=text_form)[0]


def connect_to(
    server: Server | None, url: SecretUrl, *, application_name: str = "dbmazz", text_form: bool = False
) -> tuple[Connection, Server]:
    """Open a connection as `connect` does, and return it with the server that it leads to.

    Args:
        server: The server that the connection must lead to; None: any.
        url: See `connect`.
        application_name: See `connect`.
        text_form: See `connect`.

    Raises:
        ServerChanged: The connection leads to another server.
        DbmazzError: The errors of `connect`.
    """
    # A URL for replication connections has `replication` set, which would open one.
    ordinary = {"replication": "false"} if "replication" in url.parameters else {}
    connection = _open(WatchedConnection, url, application_name, **ordinary)
    detach_in_forks(connection, lambda opened: [opened.fileno()])
    try:
        settings = settings_query(connection.info.server_version, text_form=text_form, lock_timeout_s=LOCK_TIMEOUT_S)
        try:
            cursor = connection.execute(READ_COMMITTED + settings)
            cursor.nextset()
            row = cursor.fetchone()
        except psycopg.Error as error:
            raise source_error_of(error, url) from None
        assert row is not None
        found = _server_of(url, connection.pgconn, *row[:2])
        if server is not None:
            server.verify(found)
        conninfo = session_conninfo(found.url, "dbmazz look", **ordinary)
        if int(row[2]) != connection.info.backend_pid:
            _verify_own_process(conninfo, int(row[2]), url)
        connection.watch(conninfo, int(row[2]))
    except BaseException:
        connection.close()
        raise
    return connection, found


def _verify_own_process(conninfo: str, pid: int, url: SecretUrl) -> None:
    """Verify that a connection has a server process of its own, where a proxy tells clients another process id.

    A pooler in transaction mode gives the process of an idle connection to the next one that has a query. Then
    settings, locks and snapshots do not last from one query to the next. (A pooler in session mode, and the proxies of
    some services, invent process ids too, for their cancel requests.)

    Args:
        conninfo: Connection string of a second connection.
        pid: Process of the first connection, which is idle.
        url: URL of both.

    Raises:
        ConnectionFailed: Both connections have the same process.
    """
    try:
        with psycopg.connect(conninfo, autocommit=True) as other:
            row = other.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    except psycopg.Error as error:
        raise source_error_of(error, url) from None
    if row is not None and row[0] == pid:
        raise pooler_in_between(Login.of(url), "gives several connections the same server process (transaction mode)")


def _server_of(url: SecretUrl, pgconn: abc.PGconn, started: str, in_recovery: str) -> Server:
    host, hostaddr, port = (value.decode() for value in (pgconn.host, pgconn.hostaddr, pgconn.port))
    return Server(url.pinned(host=host, hostaddr=hostaddr, port=port), started, in_recovery == "true")


def is_standby(connection: Connection) -> bool:
    """Return whether the server is a standby now."""
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def connect_replication(
    url: SecretUrl, *, application_name: str = "dbmazz", server: Server | None = None
) -> abc.PGconn:
    """Open a replication connection to the URL's database, in blocking mode, with `TEXT_FORM_SETTINGS`.

    The caller closes the connection with `finish()`.

    Args:
        url: URL of the server.
        application_name: As `pg_stat_activity` shows it.
        server: The server that the connection must lead to; None: any.

    Raises:
        MissingPrivilege: The role may not replicate; the remedy holds the ALTER ROLE.
        NoFreeWalSender: All of `max_wal_senders` are taken.
        ServerChanged: The connection leads to another server.
        DbmazzError: The other errors of `connect`.
    """
    connection = _open(_UnownedConnection, url, application_name, replication="database").pgconn
    try:
        connection.nonblocking = 0
        try:
            result = execute(
                connection, READ_COMMITTED + settings_query(connection.server_version, text_form=True, raw=True)
            )
        except psycopg.Error as error:
            raise source_error_of(error, url) from None
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            sqlstate = None if result is None else result.error_field(pq.DiagnosticField.SQLSTATE)
            message = "" if result is None else result.get_error_message()
            raise source_error(sqlstate.decode() if sqlstate else None, message, url)
        if server is not None:
            started, in_recovery = ((result.get_value(0, place) or b"").decode() for place in (0, 1))
            server.verify(_server_of(url, connection, started, in_recovery))
    except BaseException:
        connection.finish()
        raise
    return connection


class _UnownedConnection(Connection):
    """A psycopg connection that is opened for its `pgconn`, which outlives this object.

    `PGconn.connect` keeps the interpreter's lock while it waits: no other thread runs and no signal is handled until
    the server has answered or the timeout is over. `psycopg.Connection.connect` waits without the lock.
    """

    def __del__(self) -> None:  # type: ignore[override]  # psycopg's warns of connections that were not closed
        pass


def _open(kind: type[_AnyConnection], url: SecretUrl, application_name: str, **overrides: str) -> _AnyConnection:
    """Connect, without applying settings."""
    try:
        return kind.connect(
            session_conninfo(url, application_name, **overrides), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        message = str(error)
        used_password = error.pgconn is not None and error.pgconn.used_password
    # Outside of the handler: the new error must not refer to psycopg's exception, which holds the connection.
    recognized = recognized_connection_error(message, url)
    if kind is _UnownedConnection and (recognized is None or isinstance(recognized, NoFreeWalSender)):
        recognized = _refusal_cause(url) or recognized
    raise recognized or unrecognized_connection_error(message, url, used_password=used_password)


def _refusal_cause(url: SecretUrl) -> DbmazzError | None:
    """Find out why a replication connection was refused, where the server's message is not in English.

    An ordinary connection is either refused as well, or reads the role's attribute and the number of walsenders.
    """
    login = Login.of(url)
    try:
        with connect(url) as connection:
            row = connection.execute(
                "SELECT rolsuper OR rolreplication, (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int, "
                "current_setting('max_wal_senders')::int "
                "FROM pg_catalog.pg_roles WHERE rolname = current_user"
            ).fetchone()
    except DbmazzError as refused_too:
        return refused_too
    except psycopg.Error as error:
        return source_error_of(error, url)
    may_replicate, taken, limit = row or (True, 0, 1)
    if not may_replicate:
        return missing_replication(login)
    return no_free_connection("max_wal_senders", login, walsenders=(taken, limit)) if taken >= limit else None


def session_conninfo(url: SecretUrl, application_name: str, **overrides: str) -> str:
    """Return the connection string for libpq. It contains the password."""
    options = {
        option: value
        for option, value in _DEFAULT_OPTIONS.items()
        if option not in url.parameters and not os.environ.get(_OPTION_VARIABLES.get(option, ""))
    }
    options |= {"fallback_application_name": application_name, "client_encoding": "UTF8"}
    return url.conninfo(**options | overrides)


def settings_query(server_version: int, *, text_form: bool, raw: bool = False, lock_timeout_s: int = 0) -> bytes:
    """Return one query that applies all settings of a session and returns `_SERVER_COLUMNS`.

    The query works on replication connections too.

    Args:
        server_version: As in `PQserverVersion`.
        text_form: See `connect`.
        raw: Whether a database in SQL_ASCII sends texts without conversion. With conversion, one text that is not UTF-8
            fails the whole stream or copy (manual, "Character Set Support"), instead of being a bad value of one row.
        lock_timeout_s: Seconds to wait for locks; 0: no limit, for the creation of a slot, which waits for transactions
            as for locks and has its own limit.
    """
    settings = _SESSION_SETTINGS | {"lock_timeout": f"{lock_timeout_s}s"} | (TEXT_FORM_SETTINGS if text_form else {})
    if server_version >= 170000:
        settings["transaction_timeout"] = "0"
    calls = [_SERVER_COLUMNS]
    calls += [f"set_config('{name}', '{value}', false)" for name, value in settings.items()]
    if raw:
        calls.append(
            "CASE WHEN current_setting('server_encoding') = 'SQL_ASCII' "
            "THEN set_config('client_encoding', 'SQL_ASCII', false) END"
        )
    # English messages, to tell errors apart that share an SQLSTATE. Only superusers may set `lc_messages`.
    calls.append("CASE WHEN current_setting('is_superuser') = 'on' THEN set_config('lc_messages', 'C', false) END")
    return f"SELECT {', '.join(calls)}".encode()


def verify_not_promoted(connection: Connection, server: Server) -> None:
    """Verify that a server that was a standby still is one.

    A promoted server sends changes of a new timeline. The run has read the old one, and would record the checkpoint
    under that.

    Raises:
        ServerChanged: The standby was promoted.
    """
    if server.in_recovery and not is_standby(connection):
        raise server_changed(PROMOTED)
