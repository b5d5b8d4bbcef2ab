"""Errors of a running server with details that only the server knows, read over a connection of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.connectors.sources.postgres.errors.lost_slots import slot_lost
from dbmazz_core.connectors.sources.postgres.errors.running import (
    no_free_slot,
    source_error,
    source_error_of,
)
from dbmazz_core.connectors.sources.postgres.server.blockers import table_locked, table_lockers
from dbmazz_core.connectors.sources.postgres.server.state import idle_slots, slot_state
from dbmazz_core.errors import NoFreeSlot, SlotLost, SourceError, TableLocked
from dbmazz_core.settings.secret_url import SecretUrl


@contextlib.contextmanager
def translate_errors(url: SecretUrl, *, slot: str = "", publication: str = "") -> Iterator[None]:
    """Raise every `psycopg.Error` of the block as a `SourceError`, with details of the server.

    Args:
        url: URL of the server.
        slot: The slot that the block works with, for the error.
        publication: The publication that the block works with, for the error.

    Raises:
        SourceError: In place of the `psycopg.Error`.
    """
    try:
        yield
    except psycopg.Error as error:
        raise with_details(source_error_of(error, url, slot=slot, publication=publication), url, slot) from None


def detailed_source_error(
    sqlstate: str | None, message: str, url: SecretUrl, *, slot: str = "", publication: str = ""
) -> SourceError:
    """Return the error for a message of the server, with details of the server. Arguments: see `source_error`."""
    return with_details(source_error(sqlstate, message, url, slot=slot, publication=publication), url, slot)


def with_details(error: SourceError, url: SecretUrl, slot: str) -> SourceError:
    """Add details of the server to an error: who locks the table, which slots are idle, or why the slot is lost.

    Returns:
        A new error; the same one where there are no details, or the server does not answer.
    """
    if not isinstance(error, TableLocked | NoFreeSlot | SlotLost):
        return error
    try:
        with connect(url) as connection:
            match error:
                case TableLocked():
                    return table_locked(table_lockers(connection), error.what)
                case NoFreeSlot():
                    return no_free_slot(*idle_slots(connection))
                case _:
                    state = slot_state(connection, slot)
                    return slot_lost(slot, reason=state.lost_reason) if state and state.is_lost else error
    except (SourceError, psycopg.Error):
        return error
