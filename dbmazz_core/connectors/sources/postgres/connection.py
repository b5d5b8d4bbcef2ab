"""Connections to PostgreSQL: ordinary ones for catalog and snapshots, replication ones for the stream."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import pq
from psycopg.pq import abc

from dbmazz_core.connectors.sources.postgres.errors.connecting import (
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
from dbmazz_core.errors import DbmazzError, NoFreeWalSender, ServerChanged
from dbmazz_core.settings.secret_url import SecretUrl

#: An ordinary connection; rows are tuples.
Connection = psycopg.Connection[tuple[Any, ...]]
_AnyConnection = TypeVar("_AnyConnection", bound=Connection)

#: What makes a value's text the same on every connection: snapshot and stream must give equal text for equal
#: values. The first three are also what PostgreSQL's own subscriber sets (libpqwalreceiver.c).
#: `lc_monetary` is left alone on purpose: `money` counts the smallest unit, and only the database's own
#: locale knows how many of these make one; another locale would print another amount.
TEXT_FORM_SETTINGS: dict[str, str] = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",  # the text of regclass and its kin
}

#: Catalog queries and copies wait that long for tables that others have locked; then the error says who.
LOCK_TIMEOUT_S = 60

_SESSION_SETTINGS: dict[str, str] = {
    # A snapshot lasts as long as it lasts, and roles and databases often carry such limits.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # Every name is qualified; with a search path others could put their functions before pg_catalog's
    # (CVE-2018-1058), and the text of regclass depends on it. PostgreSQL's own subscriber does the same.
    "search_path": "",
    # Row-level security does not filter the stream. With `off` a query that it would filter fails, instead of
    # giving a snapshot without some of the rows.
    "row_security": "off",
}

#: When the server was started, exactly, and whether it is a standby: two columns of text.
_SERVER_COLUMNS = "extract(epoch FROM pg_postmaster_start_time())::text, pg_is_in_recovery()::text"

#: Libpq's own defaults wait without end, and notice a dead peer only after two hours.
#: Option: value, and the environment variable of libpq that goes before it.
_DEFAULT_OPTIONS: dict[str, tuple[str, str]] = {
    "connect_timeout": ("10", "PGCONNECT_TIMEOUT"),
    "keepalives_idle": ("30", ""),
    "keepalives_interval": ("10", ""),
    "keepalives_count": ("3", ""),
}


@dataclass(frozen=True, slots=True)
class Server:
    """One running server: a connection of a run that leads to another one is of no use to it.

    With several hosts in the URL, several addresses of a name, or a pooler or proxy in front, each connection may lead
    elsewhere; slot, position, catalog and stream have to be one server's.

    Attributes:
        url: To this server alone, as far as addresses tell.
        started: `pg_postmaster_start_time()`, seconds since 1970: no two servers have the same, to the microsecond.
        in_recovery: Whether it was a standby.
    """

    url: SecretUrl
    started: str
    in_recovery: bool

    def verify(self, other: Server) -> None:
        """Raise ServerChanged if a connection that has just been opened leads to another server."""
        if other.started != self.started:
            raise server_changed("a connection led to another server than the first one, or it was restarted since")
        if other.in_recovery != self.in_recovery:
            raise server_changed(PROMOTED)


PROMOTED = "the server was promoted in the middle of this run"


def server_changed(what: str) -> ServerChanged:
    """The error for a run that was led to two servers."""
    return ServerChanged(
        f"{what}; nothing was applied since",
        object="SOURCE_URL",
        remedy="run again; if that comes again, name one server in SOURCE_URL, and no pooler that balances connections",
    )


def connect(url: SecretUrl, *, application_name: str = "dbmazz", text_form: bool = False) -> Connection:
    """Open an ordinary connection in autocommit mode, with `LOCK_TIMEOUT_S` as only timeout and no `search_path`.

    Parameters:
        url: Where to. An `application_name` or `connect_timeout` (else 10 s a host) in it goes before ours.
        application_name: What `pg_stat_activity` shows.
        text_form: Apply `TEXT_FORM_SETTINGS`, so that values read as text are the stream's.

    Raises:
        ConnectionFailed: No server; `AuthenticationFailed` where it refuses the login.
        MissingPrivilege: The role may not connect to the database.
        NoFreeWalSender: The server takes no more connections.
        ConfigError: Libpq cannot use an option of the URL.
    """
    return connect_to(None, url, application_name=application_name, text_form=text_form)[0]


def connect_to(
    server: Server | None, url: SecretUrl, *, application_name: str = "dbmazz", text_form: bool = False
) -> tuple[Connection, Server]:
    """Open a connection as `connect` does, to one server if that is wanted; and which one it leads to.

    Raises:
        ServerChanged: It leads to another one.
    """
    # A URL that was written for a replication connection would open one.
    ordinary = {"replication": "false"} if "replication" in url.parameters else {}
    connection = _open(Connection, url, application_name, **ordinary)
    try:
        settings = settings_query(connection.info.server_version, text_form=text_form, lock_timeout_s=LOCK_TIMEOUT_S)
        try:
            row = connection.execute(settings).fetchone()
        except psycopg.Error as error:
            raise source_error_of(error, url) from None
        assert row is not None
        found = _server_of(url, connection.pgconn, *row[:2])
        if server is not None:
            server.verify(found)
    except BaseException:
        connection.close()
        raise
    return connection, found


def _server_of(url: SecretUrl, pgconn: abc.PGconn, started: str, in_recovery: str) -> Server:
    host, hostaddr, port = (value.decode() for value in (pgconn.host, pgconn.hostaddr, pgconn.port))
    return Server(url.pinned(host=host, hostaddr=hostaddr, port=port), started, in_recovery == "true")


def is_standby(connection: Connection) -> bool:
    """Whether the server is one now."""
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])


def connect_replication(
    url: SecretUrl, *, application_name: str = "dbmazz", server: Server | None = None
) -> abc.PGconn:
    """Open a replication connection to the URL's database, in blocking mode, with `TEXT_FORM_SETTINGS`.

    The caller closes it with `finish()`.

    Raises:
        MissingPrivilege: The role may not replicate; the remedy holds the ALTER ROLE.
        NoFreeWalSender: All of `max_wal_senders` are taken.
        ConnectionFailed: And the other errors of `connect`.
    """
    connection = _open(_UnownedConnection, url, application_name, replication="database").pgconn
    try:
        connection.nonblocking = 0
        result = connection.exec_(settings_query(connection.server_version, text_form=True, raw=True))
        if result.status != pq.ExecStatus.TUPLES_OK:
            sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
            raise source_error(sqlstate.decode() if sqlstate else None, result.get_error_message(), url)
        if server is not None:
            started, in_recovery = ((result.get_value(0, place) or b"").decode() for place in (0, 1))
            server.verify(_server_of(url, connection, started, in_recovery))
    except BaseException:
        connection.finish()
        raise
    return connection


class _UnownedConnection(Connection):
    """A connection that is opened for its `pgconn` alone, which lives on when this is thrown away.

    `PGconn.connect` would do, but it keeps the interpreter's lock while it waits: no other thread runs, and no
    signal is handled, until the server has answered or the timeout is over.
    """

    def __del__(self) -> None:  # type: ignore[override]  # psycopg's warns of connections left open
        pass


def _open(kind: type[_AnyConnection], url: SecretUrl, application_name: str, **overrides: str) -> _AnyConnection:
    """Connect, without any settings yet."""
    try:
        return kind.connect(
            session_conninfo(url, application_name, **overrides), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        message = str(error)
        used_password = error.pgconn is not None and error.pgconn.used_password
    # Outside the handler: psycopg's exception holds the connection, and is not to be carried along.
    recognized = recognized_connection_error(message, url)
    if kind is _UnownedConnection and (recognized is None or isinstance(recognized, NoFreeWalSender)):
        recognized = _refusal_cause(url) or recognized
    raise recognized or unrecognized_connection_error(message, url, used_password=used_password)


def _refusal_cause(url: SecretUrl) -> DbmazzError | None:
    """Why a replication connection is refused, where words do not tell because they are not English.

    An ordinary connection finds the facts: it is refused as well, or sees the role and the free walsenders.
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
    """The connection string for libpq. It holds the password."""
    options = {
        option: value
        for option, (value, variable) in _DEFAULT_OPTIONS.items()
        if option not in url.parameters and not os.environ.get(variable)
    }
    options |= {"fallback_application_name": application_name, "client_encoding": "UTF8"}
    return url.conninfo(**options | overrides)


def settings_query(server_version: int, *, text_form: bool, raw: bool = False, lock_timeout_s: int = 0) -> bytes:
    """The query that applies all settings of a session and returns `_SERVER_COLUMNS`.

    It works on replication connections too.

    Args:
        server_version: As in `PQserverVersion`.
        text_form: See `connect`.
        raw: Whether texts of a database in SQL_ASCII come as they are. Else it is an error of the whole stream, or
            copy, where one is not UTF-8 (manual, "Character Set Support"), and not a bad value of one row.
        lock_timeout_s: 0: none. Creating a slot waits for transactions as for locks, and has its own rule.
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
    # English words, for errors where the SQLSTATE alone does not tell. Only superusers may.
    calls.append("CASE WHEN current_setting('is_superuser') = 'on' THEN set_config('lc_messages', 'C', false) END")
    return f"SELECT {', '.join(calls)}".encode()
