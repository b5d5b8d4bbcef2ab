"""Errors of a running server, with what only the server can tell about them: it is asked on a connection of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.connectors.sources.postgres.errors.running import (
    no_free_slot,
    source_error,
    source_error_of,
)
from dbmazz_core.connectors.sources.postgres.server.blockers import table_locked, table_lockers
from dbmazz_core.connectors.sources.postgres.server.state import idle_slots
from dbmazz_core.errors import NoFreeSlot, SourceError, TableLocked
from dbmazz_core.settings.secret_url import SecretUrl


@contextlib.contextmanager
def translate_errors(url: SecretUrl, *, slot: str = "", publication: str = "") -> Iterator[None]:
    """Turn every `psycopg.Error` of the block into a `SourceError`."""
    try:
        yield
    except psycopg.Error as error:
        raise with_details(source_error_of(error, url, slot=slot, publication=publication), url) from None


def detailed_source_error(
    sqlstate: str | None, message: str, url: SecretUrl, *, slot: str = "", publication: str = ""
) -> SourceError:
    """`source_error`, with what the server can tell about it."""
    return with_details(source_error(sqlstate, message, url, slot=slot, publication=publication), url)


def with_details(error: SourceError, url: SecretUrl) -> SourceError:
    """The error with what the server can tell about it; as it is where there is nothing, or it cannot be asked."""
    if not isinstance(error, TableLocked | NoFreeSlot):
        return error
    try:
        with connect(url) as connection:
            if isinstance(error, TableLocked):
                return table_locked(table_lockers(connection), error.what)
            return no_free_slot(*idle_slots(connection))
    except (SourceError, psycopg.Error):
        return error
