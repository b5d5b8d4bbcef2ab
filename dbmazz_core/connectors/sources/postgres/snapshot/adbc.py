"""Connections of ADBC that have imported an exported snapshot."""

from __future__ import annotations

import re
from collections.abc import Callable

import adbc_driver_postgresql.dbapi
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.connection import session_conninfo, settings_query
from dbmazz_core.connectors.sources.postgres.errors.connecting import recognized_connection_error
from dbmazz_core.connectors.sources.postgres.server.error_details import detailed_source_error
from dbmazz_core.connectors.sources.postgres.snapshot.silent_workers import Socket, network_sockets
from dbmazz_core.errors import ReplicationInterrupted, SourceError, SourceNotReady
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import TableRef

#: Types that snapshots receive in their binary form, and the Arrow types that ADBC delivers.
_TYPES = {
    "bool": pa.bool_(),
    "bytea": pa.binary(),
    "int8": pa.int64(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "text": pa.string(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bpchar": pa.string(),
    "varchar": pa.string(),
}
_TYPES_QUERY = "SELECT " + ", ".join(f"NULL::pg_catalog.{name}" for name in _TYPES)
#: Startup options under which ADBC recognizes types. When ADBC connects, it reads the names of receive functions as
#: text, which is another one with `quote_all_identifiers`, and where the search path leads to a function with such a
#: name. Not every pooler accepts options, so they are sent only where they are needed.
_OPTIONS = r"-c search_path= -c quote_all_identifiers=off -c default_transaction_isolation=read\ committed"

#: Classes of SQLSTATEs (manual, "PostgreSQL Error Codes") for which a query of a table fails, and not for the state of
#: the server: data and syntax, functions of others (in a row filter, or of a type), limits of a row's size, damaged
#: blocks.
_OF_THE_QUERY = ("0A", "21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0", "XX")
#: Messages without an SQLSTATE that are about the server, or somebody who canceled the query.
_OF_THE_SERVER = re.compile("cancel|conflict|memory|space|disk", re.IGNORECASE)


class SnapshotConnector:
    """Opens connections that have imported one exported snapshot.

    Args:
        url: URL of the server.
        server_version: `server_version_num`.
        snapshot_name: Name of the snapshot.
        connected: Called for each connection with its server process, and `network_sockets` before it was made.
        lock_timeout_s: `lock_timeout` of the connections, in seconds.

    Attributes:
        raw: Whether texts arrive as the database has them, in any encoding (a database in SQL_ASCII).
    """

    def __init__(
        self,
        url: SecretUrl,
        server_version: int,
        snapshot_name: str,
        connected: Callable[[int, set[Socket]], None],
        *,
        lock_timeout_s: int,
    ) -> None:
        self.raw = False
        self._url = url
        self._server_version = server_version
        self._snapshot_name = snapshot_name
        self._connected = connected
        self._needs_options = False
        self._lock_timeout_s = lock_timeout_s

    def connect(self) -> adbc_driver_postgresql.dbapi.Connection:
        """Return a new connection that has imported the snapshot.

        Raises:
            SourceNotReady: ADBC does not recognize types under the settings of the role.
            SourceError: The connection or the import failed.
        """
        if not self._needs_options and (connection := self._try(None)) is not None:
            return connection
        self._needs_options = True
        options = " ".join(filter(None, (self._url.parameters.get("options"), _OPTIONS)))
        if (connection := self._try(options)) is not None:
            return connection
        raise SourceNotReady(
            "the driver of the snapshot does not recognize PostgreSQL's types: quote_all_identifiers is on, or "
            "search_path leads to a function with the name of a type's receive function, and a pooler in SOURCE_URL "
            "ignores the options that would change both for this connection",
            object="SOURCE_URL",
            remedy="put PostgreSQL's own host and port into SOURCE_URL",
        )

    def _try(self, options: str | None) -> adbc_driver_postgresql.dbapi.Connection | None:
        """Return a new connection that has imported the snapshot; None if it does not recognize types.

        Args:
            options: Startup options; None: those of the URL.
        """
        overrides = {} if options is None else {"options": options}
        before = network_sockets()
        try:
            connection = adbc_driver_postgresql.dbapi.connect(
                session_conninfo(self._url, "dbmazz snapshot", **overrides), autocommit=False
            )
        except Exception as error:  # noqa: BLE001 - ADBC's classes say less than its message
            # A standby refuses serializable transactions, which a role or database can have as its default.
            if options is None and "serializable" in str(error):
                return None
            raise recognized_connection_error(str(error), self._url) or adbc_error(error, self._url, None) from None
        try:
            recognized = self._import(connection, before)
        except Exception as error:  # noqa: BLE001
            connection.close()
            raise adbc_error(error, self._url, None) from None
        if recognized:
            return connection
        connection.close()
        return None

    def _import(self, connection: adbc_driver_postgresql.dbapi.Connection, before: set[Socket]) -> bool:
        """Import the snapshot, and return whether the connection recognizes types."""
        with connection.cursor() as cursor:
            # SET TRANSACTION SNAPSHOT must come before the transaction's first query (manual, "SET TRANSACTION"). ADBC
            # 1.4 begins no other transaction after a rollback, so the types are asked for in this one.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            cursor.execute(f"SET TRANSACTION SNAPSHOT '{self._snapshot_name}'")
            cursor.execute(_TYPES_QUERY)
            if cursor.fetch_arrow_table().schema.types != [*_TYPES.values()]:
                return False
            version, timeout = self._server_version, self._lock_timeout_s
            cursor.execute(settings_query(version, text_form=True, raw=True, lock_timeout_s=timeout).decode())
            ((_, _, pid, *_),) = cursor.fetchall()
            self._connected(int(pid), before)
            cursor.execute("SELECT pg_catalog.current_setting('client_encoding') = 'SQL_ASCII'")
            (row,) = cursor.fetchall()
            self.raw = bool(row[0])
        return True


def adbc_error(
    error: Exception,
    url: SecretUrl,
    table: TableRef | None,
    connection: adbc_driver_postgresql.dbapi.Connection | None = None,
) -> Exception:
    """Return the error of this package for an error of ADBC; another error unchanged.

    Args:
        error: The error.
        url: URL of the server.
        table: The table that was read, if any.
        connection: The connection that read it.
    """
    if not isinstance(error, (adbc_driver_postgresql.dbapi.Error, OSError, pa.ArrowException)):
        return error
    if sqlstate := getattr(error, "sqlstate", None):
        found = detailed_source_error(sqlstate, str(error), url)
        if table is not None and type(found) is SourceError:
            if sqlstate.startswith(_OF_THE_QUERY):
                return _query_failed(table, found.what)
            found.what, found.object = f"copying {table}: {found.what}", str(table)
        return found
    # While a result is fetched, pyarrow raises without an SQLSTATE: OSError, also if the connection broke.
    text = url.redact(str(error))
    if table is not None and connection is not None and not _OF_THE_SERVER.search(text) and _has_failed(connection):
        message = text.partition("]: ")[2] or text
        return _query_failed(table, f"PostgreSQL reports: {re.sub(r'^[^ ]+: +', '', message.strip())}")
    return ReplicationInterrupted(
        f"copying {table or 'tables'} broke: {text}",
        object=str(table or "snapshot"),
        remedy="run again: tables that were copied completely are kept, the others are copied again",
    )


def _query_failed(table: TableRef, what: str) -> SourceError:
    """Return the error for a query that fails because of its table."""
    return SourceError(
        f"copying {table}: {what}",
        object=table,
        remedy="remove the cause, of which the server's log tells more, then re-snapshot the table: dbmazz snapshot "
        f"--tables '{table}'",
    )


def _has_failed(connection: adbc_driver_postgresql.dbapi.Connection) -> bool:
    """Return whether a statement has failed on a connection that works."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()
    except adbc_driver_postgresql.dbapi.Error as error:
        # in_failed_sql_transaction, or what newer versions of ADBC say before they ask the server
        return error.sqlstate == "25P02" or "in an error state" in str(error)
    return False
