"""Errors of connection attempts as errors of this package, with a remedy.

libpq passes on no SQLSTATE while it connects, so its message and the server's are the only evidence. Messages in
another language than English are not recognized; the error then repeats them.
"""

from __future__ import annotations

import re

from dbmazz_core.connectors.sources.postgres.errors.running import (
    Login,
    missing_replication,
    no_free_connection,
)
from dbmazz_core.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    DbmazzError,
    MissingPrivilege,
)
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier


def recognized_connection_error(message: str, url: SecretUrl) -> DbmazzError | None:
    """Return the error for a connection attempt that failed, or None if its message is not recognized.

    Args:
        message: libpq's message about all hosts that it tried.
        url: URL of the connection.
    """
    # The password is redacted where the message is shown, and only there: a short one may be a part of a word.
    text, shown = _one_line(message), _one_line(url.redact(message))
    login = Login.of(url)
    # From the most to the least specific: an answer of one host counts before the silence of another.
    for recognize in (_credential_error, _access_rule_error, _privilege_error):
        if error := recognize(text, login):
            return error
    for recognize_and_show in (_option_error, _availability_error, _network_error):
        if error := recognize_and_show(text, shown, login):
            return error
    return None


def unrecognized_connection_error(message: str, url: SecretUrl, *, used_password: bool) -> ConnectionFailed:
    """Return the error for a connection attempt whose message is not recognized; the error repeats the message.

    Args:
        message: libpq's message.
        url: URL of the connection.
        used_password: Whether the server asked for a password and got one.
    """
    text = _one_line(url.redact(message))
    login = Login.of(url)
    if used_password:
        return AuthenticationFailed(
            f"{login.server} did not let role {quote_identifier(login.role)} in: {text}",
            object=f"role {login.role}",
            remedy="correct user, password, database and options in SOURCE_URL",
        )
    return ConnectionFailed(
        f"cannot connect to {login.server}: {text}",
        object=login.server,
        remedy="check SOURCE_URL, and that PostgreSQL runs there",
    )


def pooler_in_between(login: Login, what: str) -> ConnectionFailed:
    """Return the error for a URL that leads to a connection pooler.

    Args:
        login: The login.
        what: What the pooler does, behind "is a connection pooler that".
    """
    return ConnectionFailed(
        f"{login.server} is a connection pooler that {what}",
        object=login.server,
        remedy="put PostgreSQL's own host and port into SOURCE_URL",
    )


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _search(pattern: str, text: str) -> re.Match[str] | None:
    return re.search(pattern, text, re.IGNORECASE)


def _authentication_failed(what: str, login: Login, remedy: str) -> AuthenticationFailed:
    return AuthenticationFailed(what, object=f"role {login.role}", remedy=remedy)


def _credential_error(text: str, login: Login) -> DbmazzError | None:
    role, database = quote_identifier(login.role), quote_identifier(login.database)
    if _search("password authentication failed", text):
        # PostgreSQL reports the same for an unknown role, so as not to disclose which roles exist.
        return _authentication_failed(
            f"{login.server} refused the password of role {role}, or has no such role",
            login,
            "correct user and password in SOURCE_URL (characters like @ : / % # are percent-encoded), "
            f"or set a new password: ALTER ROLE {role} PASSWORD '...';",
        )
    if _search("no password supplied", text):
        return _authentication_failed(
            f"{login.server} asks for the password of role {role}, and none is given",
            login,
            "put it into SOURCE_URL (postgres://user:password@...), PGPASSWORD or a password file",
        )
    if _search('role ".*" does not exist', text):
        return _authentication_failed(
            f"{login.server} has no role {role}",
            login,
            f"correct the user in SOURCE_URL, or create it: CREATE ROLE {role} LOGIN REPLICATION PASSWORD '...';",
        )
    if _search('role ".*" is not permitted to log in', text):
        return _authentication_failed(
            f"role {role} may not log in to {login.server}", login, f"ALTER ROLE {role} LOGIN;"
        )
    if _search('database ".*" does not exist', text):
        return AuthenticationFailed(
            f"{login.server} has no database {database}",
            object=f"database {login.database}",
            remedy=f"correct the database in SOURCE_URL, or create it: CREATE DATABASE {database};",
        )
    return None


def _access_rule_error(text: str, login: Login) -> DbmazzError | None:
    role, database = quote_identifier(login.role), quote_identifier(login.database)
    if _search(r"pg_hba\.conf", text):
        client = _search(r'for (?:replication connection from )?host "([^"]+)"', text)
        address = f"{client[1]}/{128 if ':' in client[1] else 32} " if client else ""
        # "no encryption" since PostgreSQL 15, "SSL off" before.
        plain = _search("no encryption|SSL off", text)
        tls = " (there may be one for TLS only: try sslmode=require in SOURCE_URL)" if plain else ""
        return _authentication_failed(
            f"{login.server} has no pg_hba.conf entry that lets role {role} into database {database}{tls}",
            login,
            f"add to the server's pg_hba.conf: {'host' if client else 'local'} {database} {role} "
            f"{address}scram-sha-256, then SELECT pg_reload_conf();",
        )
    if _search("valid client certificate", text):
        return _authentication_failed(
            f"{login.server} asks for a client certificate",
            login,
            "give sslcert=... and sslkey=... in SOURCE_URL",
        )
    if match := _search("([a-z]+) authentication failed for user", text):
        return _authentication_failed(
            f"{login.server} did not let role {role} in: {match[1]} authentication failed",
            login,
            "the server's pg_hba.conf chooses this method for such a connection: run as the operating system account "
            "that it expects, connect over TCP (a host in SOURCE_URL) with a password, or have the entry changed",
        )
    return None


def _privilege_error(text: str, login: Login) -> DbmazzError | None:
    role, database = quote_identifier(login.role), quote_identifier(login.database)
    # The message of PostgreSQL up to 15, then that of 16 and newer.
    if _search("superuser or replication role|permission denied to start WAL sender", text):
        return missing_replication(login)
    if _search("permission denied for database", text):
        return MissingPrivilege(
            f"role {role} may not connect to database {database}",
            object=f"database {login.database}",
            remedy=f"GRANT CONNECT ON DATABASE {database} TO {role};",
        )
    limit = _search(
        "max_wal_senders|too many clients|too many connections for (?:role|database)|remaining connection slots",
        text,
    )
    return no_free_connection(limit[0], login) if limit else None


def _option_error(text: str, shown: str, login: Login) -> DbmazzError | None:
    if _search(r"startup parameter.{0,20}replication|replication connections? (?:is|are) not", text):
        return pooler_in_between(login, f"does not carry replication: {shown}")
    if _search(
        "invalid [^:]*value|bad value for|definition of service|service file|could not match [0-9]+|"
        "unrecognized configuration parameter|permission denied to set parameter",
        text,
    ):
        return ConfigError(
            f"an option of SOURCE_URL cannot be used: {shown}",
            object="SOURCE_URL",
            remedy="correct that option in SOURCE_URL",
        )
    return None


def _availability_error(text: str, shown: str, login: Login) -> DbmazzError | None:
    if _search("the database system is|not currently accepting connections|not yet accepting", text):
        return ConnectionFailed(
            f"{login.server} accepts no connections at the moment: {shown}",
            object=login.server,
            remedy="wait a moment and run it again; the server's log shows what it is doing",
        )
    if _search("session is (?:not )?read-only|server is (?:not )?in hot standby mode", text):
        return ConnectionFailed(
            f"no server of {login.server} meets target_session_attrs: {shown}",
            object=login.server,
            remedy="change target_session_attrs or the hosts in SOURCE_URL",
        )
    return None


def _network_error(text: str, shown: str, login: Login) -> DbmazzError | None:
    def failed(what: str, remedy: str) -> ConnectionFailed:
        return ConnectionFailed(what, object=login.server, remedy=remedy)

    if _search("invalid response to SSL negotiation|expected authentication request", text):
        return failed(f"the server at {login.server} is not PostgreSQL", "correct host and port in SOURCE_URL")
    if _search(r"\b(?:SSL|TLS|certificate|sslmode)\b", text):
        return failed(
            f"no encrypted connection to {login.server}: {shown}",
            "make sslmode, sslrootcert, sslcert and sslkey in SOURCE_URL fit the server; sslmode=prefer "
            "uses TLS where the server offers it",
        )
    if _search("could not translate host name|failed to resolve host|name or service not known", text):
        return failed(f"no such host: {login.server}", "correct the host in SOURCE_URL; check DNS and VPN")
    if _search("connection refused|no such file", text):
        return failed(
            f"nothing listens at {login.server}",
            "start PostgreSQL, or correct host and port in SOURCE_URL (the server listens where its "
            "settings listen_addresses, port and unix_socket_directories say)",
        )
    if _search("time(?:d )?out", text):
        return failed(
            f"{login.server} did not answer in time",
            "check host, port and the firewalls between; connect_timeout=30 in SOURCE_URL waits 30 s",
        )
    return None
