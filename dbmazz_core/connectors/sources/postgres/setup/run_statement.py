"""Run a statement that changes the source's catalog, or say why PostgreSQL refuses it."""

from __future__ import annotations

import time

import psycopg
from psycopg import errors as pg

from dbmazz_core.connectors.sources.postgres.connection import Connection, is_standby
from dbmazz_core.connectors.sources.postgres.setup.statements import SetupStatement
from dbmazz_core.errors import MissingPrivilege, SourceError, SourceNotReady
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier

_ATTEMPTS = 3


def run_statement(conn: Connection, statement: SetupStatement, url: SecretUrl, role: str, *, done: str = "") -> None:
    """Run a statement, up to `_ATTEMPTS` times if it does not get its locks.

    Args:
        conn: A connection made by `connect`, with a short `lock_timeout`.
        statement: The statement.
        url: URL of the server.
        role: The role that is connected.
        done: What was changed before, for the error.

    Raises:
        SourceNotReady: Other sessions hold locks on the table, or the server takes no changes.
        MissingPrivilege: The role may not run the statement.
        psycopg.Error: Another error of the server.
    """
    after = f" ({done})" if done else ""
    for _ in range(_ATTEMPTS):
        try:
            conn.execute(statement.sql.encode())
            return
        except pg.LockNotAvailable:
            problem: SourceError = _table_is_locked(conn, statement)
        except pg.InsufficientPrivilege as error:
            problem = MissingPrivilege(
                f"role {quote_identifier(role)} may not run a statement of setup: {error.diag.message_primary}{after}",
                object=statement.object,
                remedy=f"as a superuser or the owner: {statement.sql}",
            )
            break
        except pg.ReadOnlySqlTransaction as error:
            problem = _read_only(conn, statement, error, url, after)
            break
        # Queries that waited for this statement run before the next attempt.
        time.sleep(0.5)
    raise problem


def _read_only(
    conn: Connection, statement: SetupStatement, error: psycopg.Error, url: SecretUrl, after: str
) -> SourceNotReady:
    """Return the error for a server that takes no changes, or none in this session."""
    message = url.redact(error.diag.message_primary or "")
    if is_standby(conn):
        return SourceNotReady(
            f"{message}, because the server is a standby{after}",
            object=statement.object,
            remedy=f"on the primary: {statement.sql}",
        )
    return SourceNotReady(
        f"{message}{after}; dbmazz sets default_transaction_read_only to off, but something between it and PostgreSQL, "
        "such as a pooler that shares sessions, does not keep this setting",
        object=statement.object,
        remedy=f"put PostgreSQL's own host and port into SOURCE_URL, or run: SET TRANSACTION READ WRITE; "
        f"{statement.sql}",
    )


def _table_is_locked(conn: Connection, statement: SetupStatement) -> SourceNotReady:
    """Return the error for a table that other sessions have locked, with their process ids."""
    holders = []
    if statement.table is not None:
        holders = conn.execute(
            """
            SELECT DISTINCT pid FROM pg_catalog.pg_locks
            WHERE relation = to_regclass(%s) AND granted AND pid IS NOT NULL AND pid <> pg_backend_pid()
            """,
            (statement.table.sql,),
        ).fetchall()
    who = f" by process {', '.join(str(pid) for (pid,) in holders)}" if holders else ""
    return SourceNotReady(
        f"{statement.object} is in use{who}, so that setup could not run: {statement.sql}",
        object=statement.object,
        remedy=f"end the long transaction that uses it, or run at a quieter time: {statement.sql}",
    )
