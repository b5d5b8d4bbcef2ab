"""Run a statement that changes the source's catalog, or say why PostgreSQL refuses it."""

from __future__ import annotations

import time

import psycopg
from psycopg import errors as pg

from dbmazz_core.connectors.sources.postgres.connection import Connection, is_standby
from dbmazz_core.connectors.sources.postgres.server.blockers import lock_holders
from dbmazz_core.connectors.sources.postgres.setup.event_triggers import event_triggers, without_triggers
from dbmazz_core.connectors.sources.postgres.setup.statements import SetupStatement
from dbmazz_core.errors import MissingPrivilege, SourceError, SourceNotReady, TableLocked
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier

_ATTEMPTS = 3
#: Seconds. ALTER TABLE waits for running queries of the table, and all later queries of the table wait for ALTER TABLE.
_LOCK_TIMEOUT_S = 3
#: Seconds, where other tables wait. More than deadlock_timeout (1 s by default), after which PostgreSQL ends an
#: autovacuum that a statement waits for.
_SHORT_LOCK_TIMEOUT_S = 2
#: Precedes each statement, in its transaction: event triggers run with the settings of the role and the database, as
#: they do for everybody else. The statements themselves have only qualified names.
_SETTINGS_OF_THE_ROLE = "SET LOCAL search_path TO DEFAULT; SET LOCAL row_security TO DEFAULT; "
#: Raised where another session changes the same objects. "tuple concurrently updated" is an internal error.
CONCURRENT_CHANGES = (pg.DuplicateObject, pg.UniqueViolation, pg.UndefinedObject, pg.InternalError_)


def run_statement(
    conn: Connection, statement: SetupStatement, url: SecretUrl, role: str, *, done: str = "", hurried: bool = False
) -> None:
    """Run a statement, up to `_ATTEMPTS` times if it does not get its locks.

    Args:
        conn: A connection made by `connect`.
        statement: The statement.
        url: URL of the server.
        role: The role that is connected.
        done: What was changed before, for the error.
        hurried: Whether to try only once, with a shorter `lock_timeout`: other tables wait.

    Raises:
        SourceNotReady: The server refuses the statement: other sessions hold locks on the table, an event trigger
            fails, the server takes no changes, or for another reason.
        MissingPrivilege: The role may not run the statement.
        psycopg.Error: The connection broke; one of `CONCURRENT_CHANGES`.
    """
    timeout = _SHORT_LOCK_TIMEOUT_S if hurried else _LOCK_TIMEOUT_S
    conn.execute(f"SET lock_timeout = '{timeout}s'".encode())
    for attempt in range(1 if hurried else _ATTEMPTS):
        if attempt:
            # Queries that waited for this statement run before the next attempt.
            time.sleep(0.5)
        try:
            conn.execute((_SETTINGS_OF_THE_ROLE + statement.sql).encode())
            return
        except pg.LockNotAvailable as error:
            problem: SourceError = (
                _refused(conn, statement, error, url) if error.diag.context else _table_is_locked(conn, statement)
            )
        except pg.OperationalError as error:
            if not _is_about_the_statement(error):
                raise
            problem = _refused(conn, statement, error, url)
            break
        except psycopg.Error as error:
            problem = _problem(conn, statement, error, url, role)
            break
    if done:
        problem.what += f" ({done})"
    raise problem


def _is_about_the_statement(error: psycopg.Error) -> bool:
    """Return whether the connection is still there: 08 is a broken connection, 57P a server that ends sessions."""
    return error.sqlstate is not None and not error.sqlstate.startswith(("08", "57P"))


def _problem(
    conn: Connection, statement: SetupStatement, error: psycopg.Error, url: SecretUrl, role: str
) -> SourceError:
    """Return the error for a statement that the server refuses; raise one of `CONCURRENT_CHANGES`."""
    if error.diag.context:  # a function's error, whatever its SQLSTATE
        return _refused(conn, statement, error, url)
    match error:
        case pg.InsufficientPrivilege():
            message = url.redact(error.diag.message_primary or "")
            return MissingPrivilege(
                f"role {quote_identifier(role)} may not run a statement of setup: {message}",
                object=statement.object,
                tables=statement.captured,
                remedy=f"as a superuser or the owner: {statement.sql}",
            )
        case pg.ReadOnlySqlTransaction():
            return _read_only(conn, statement, error, url)
        case _ if isinstance(error, CONCURRENT_CHANGES):
            raise error
        case _:
            return _refused(conn, statement, error, url)


def _refused(conn: Connection, statement: SetupStatement, error: psycopg.Error, url: SecretUrl) -> SourceNotReady:
    """Return the error for a statement that fails in an event trigger, or for a reason that is not known."""
    where = "; ".join((error.diag.context or "").splitlines())
    reason = ": ".join(filter(None, (error.diag.message_primary or str(error), error.diag.message_detail)))
    what = f"PostgreSQL refuses {statement.sql} with: {url.redact(reason)} (SQLSTATE {error.sqlstate})"
    # A function in a procedural language adds the context.
    triggers = event_triggers(conn, statement.commands) if where else []
    if not triggers:
        remedy = f"find the cause in the message and the server's log, then run it again, or by hand: {statement.sql}"
    else:
        names = ", ".join(map(str, triggers))
        remedy = (
            f"have the event trigger{'s' if len(triggers) > 1 else ''} that fire{'' if len(triggers) > 1 else 's'} at "
            f"this command accept it, {names}; or, as a superuser, run it without: "
            f"{without_triggers(triggers, statement.sql)}"
        )
    what = f"{what}, in {url.redact(where)}" if where else what
    return SourceNotReady(what, object=statement.object, remedy=remedy, tables=statement.captured)


def _read_only(conn: Connection, statement: SetupStatement, error: psycopg.Error, url: SecretUrl) -> SourceNotReady:
    """Return the error for a server that takes no changes, or none in this session."""
    message = url.redact(error.diag.message_primary or "")
    if is_standby(conn):
        return SourceNotReady(
            f"{message}, because the server is a standby",
            object=statement.object,
            remedy=f"on the primary: {statement.sql}",
        )
    return SourceNotReady(
        f"{message}; dbmazz sets default_transaction_read_only to off, but something between it and PostgreSQL, "
        "such as a pooler that shares sessions, does not keep this setting",
        object=statement.object,
        remedy="put PostgreSQL's own host and port into SOURCE_URL, or run: SET TRANSACTION READ WRITE; "
        f"{statement.sql}",
    )


def _table_is_locked(conn: Connection, statement: SetupStatement) -> SourceNotReady:
    """Return the error for tables that other sessions use, with the oldest transaction among them.

    ALTER TABLE conflicts with every use of a table, ALTER and CREATE PUBLICATION with VACUUM, ANALYZE and some DDL.
    """
    holders = lock_holders(conn, statement.locked, any_lock=statement.table is not None)
    tables = list(dict.fromkeys(table for table, _ in holders))
    users = list({(user.pid, user.gid): user for _, user in holders}.values())
    others = f" and {len(users) - 1} more" if len(users) > 1 else ""
    who = f" by {users[0]}{others}" if users else ""
    end = f"wait until it has ended, or end it: {users[0].remedy}" if users else "end the long transaction that uses it"
    names = ", ".join(map(str, tables)) or statement.object
    return TableLocked(
        f"{names} {'are' if len(tables) > 1 else 'is'} in use{who}, so that setup could not run: {statement.sql}",
        object=names,
        remedy=f"{end.removesuffix(';')}; or run at a quieter time: {statement.sql}",
        tables=statement.captured if statement.table is not None else tables,
    )
