"""Find a search path under which PostgreSQL can plan the query that reads a table.

The planner evaluates expressions of a table's indexes, extended statistics and the like, and looks into the SQL
functions in them. Such a function may use unqualified names, which dbmazz's empty `search_path` does not resolve.
"""

from __future__ import annotations

import psycopg

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import TableRef, quote_identifier, quote_literal

#: A condition that is always true. PostgreSQL evaluates it when it executes the query, before it reads a row, so that
#: values get their text under the empty path, as in the stream (the names in the text of `regclass` depend on it).
EMPTY_PATH_CONDITION = "(SELECT pg_catalog.set_config('search_path', '', true)) IS NOT NULL"


def set_path(path: str) -> str:
    """Return the query that sets a `search_path`, in this transaction, for the planner of the next query."""
    return f"SELECT pg_catalog.set_config('search_path', {quote_literal(path)}, true)"


def path_to_plan(connection: Connection, query: str, table: TableRef, url: SecretUrl) -> str | None:
    """Return the `search_path` of the role if a query can be planned only with it; None: the empty path will do.

    Args:
        connection: An ordinary connection, in autocommit mode, with an empty `search_path`.
        query: A SELECT whose names are all qualified.
        table: The table that it reads.
        url: URL of the server.

    Raises:
        SourceNotReady: The query can be planned with neither path.
        psycopg.Error: Another error of the server.
    """
    explain = f"EXPLAIN {query}".encode()
    try:
        connection.execute(explain)
    except psycopg.Error as error:
        if not _is_about_names(error):
            raise
    else:
        return None
    try:
        with connection.transaction():
            connection.execute("SET LOCAL search_path TO DEFAULT")
            row = connection.execute(
                "SELECT current_setting('search_path'), (current_schemas(true))[1] = 'pg_catalog'"
            ).fetchone()
            connection.execute(explain)
    except psycopg.Error as error:
        if not _is_about_names(error):
            raise
        raise _cannot_plan(connection, error, table, url) from None
    assert row is not None
    path, is_safe = row
    if not is_safe:
        raise _shadowed(connection, table, path)
    return str(path)


def _is_about_names(error: psycopg.Error) -> bool:
    """Return whether a function has a name that may have another meaning under another `search_path`."""
    # The context is that of the function. Class 42, syntax error or access rule violation, without
    # insufficient_privilege, and 3F, invalid schema name.
    about_names = (error.sqlstate or "").startswith(("42", "3F")) and error.sqlstate != "42501"
    return about_names and error.diag.context is not None


def _cannot_plan(connection: Connection, error: psycopg.Error, table: TableRef, url: SecretUrl) -> SourceNotReady:
    where = "; ".join((error.diag.context or "").splitlines())
    return SourceNotReady(
        f"PostgreSQL cannot plan a query of {table}: {url.redact(error.diag.message_primary or str(error))}"
        f"{f', in {url.redact(where)}' if where else ''}; an expression of the table, such as an index's, calls a "
        "function that has names without a schema",
        object=table,
        remedy="qualify the names in the function, or put their schemas into the search_path of the role: "
        f"{_alter_role(connection)} ...;",
    )


def _shadowed(connection: Connection, table: TableRef, path: str) -> SourceNotReady:
    """Return the error for a path with which operators of other schemas could replace PostgreSQL's (CVE-2018-1058)."""
    return SourceNotReady(
        f"PostgreSQL can plan a query of {table} only with the role's search_path, {path}, because an expression of "
        "the table, such as an index's, calls a function that has names without a schema; dbmazz uses no path in which "
        "another schema comes before pg_catalog",
        object=table,
        remedy="qualify the names in the function, or set a search_path without pg_catalog, which then comes first: "
        f"{_alter_role(connection)} ...;",
    )


def _alter_role(connection: Connection) -> str:
    row = connection.execute("SELECT current_user::text, current_database()::text").fetchone()
    role, database = map(quote_identifier, row or ("", ""))
    return f"ALTER ROLE {role} IN DATABASE {database} SET search_path ="
