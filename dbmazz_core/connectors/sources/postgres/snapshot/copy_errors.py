"""Errors of copies as errors of this package."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.server.error_details import detailed_source_error
from dbmazz_core.connectors.sources.postgres.snapshot.copy_connection import CopyFailed
from dbmazz_core.errors import ReplicationInterrupted, SourceError
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import TableRef

#: Classes of SQLSTATEs (manual, "PostgreSQL Error Codes") for which a query of a table fails, and not for the state of
#: the server: data and syntax, functions of others (in a row filter, or of a type), limits of a row's size, damaged
#: blocks.
_OF_THE_QUERY = ("0A", "21", "22", "23", "2F", "38", "39", "42", "44", "54", "P0", "XX")


def copy_error(error: CopyFailed, url: SecretUrl, table: TableRef | None) -> SourceError:
    """Return the error of this package for a copy that failed.

    Args:
        error: The failure.
        url: URL of the server.
        table: The table that was read, if any.
    """
    if error.sqlstate is None:
        return ReplicationInterrupted(
            f"copying {table or 'tables'} broke: {url.redact(error.message.strip())}",
            object=str(table or "snapshot"),
            remedy="run again: tables that were copied completely are kept, and the copy of a large table resumes",
        )
    found = detailed_source_error(error.sqlstate, error.message, url)
    if table is None or type(found) is not SourceError:
        return found
    if error.sqlstate.startswith(_OF_THE_QUERY):
        return SourceError(
            f"copying {table}: {found.what}",
            object=table,
            remedy="remove the cause, of which the server's log tells more, then re-snapshot the table: "
            f"dbmazz snapshot --tables '{table}'",
        )
    found.what, found.object = f"copying {table}: {found.what}", str(table)
    return found
