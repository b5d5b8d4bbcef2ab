"""Which destination a slot serves, as the comment on the publication remembers it (`catalog.publication_comment`)."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.catalog.publication import read_publication
from dbmazz_core.connectors.sources.postgres.catalog.publication_comment import (
    CREATED_BY_DBMAZZ,
    destinations,
    with_destination,
    without_slot,
)
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.run_statement import run_statement
from dbmazz_core.connectors.sources.postgres.setup.setup_lock import setup_lock
from dbmazz_core.connectors.sources.postgres.setup.statements import comment_on_publication
from dbmazz_core.errors import SlotServesOther
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.settings.config import SourceConfig


def verify_claim(look: Look, destination: DestinationIdentity) -> None:
    """Verify that the slot does not serve another destination, as far as the source remembers.

    Raises:
        SlotServesOther: The slot exists, and serves another destination.
    """
    if look.slot is None or look.publication is None:
        return
    slot = look.config.slot
    known = destinations(look.publication.comment).get(slot)
    if known is None or known.is_same(destination):
        return
    raise SlotServesOther(
        f"replication slot {slot} serves {known.location}; this run writes to {destination.location}, which would "
        "move the slot on, and the other destination would lose changes",
        object=f"replication slot {slot}",
        remedy="set SINK_URL to that file; or give this destination a slot of its own (SOURCE_SLOT_NAME); or, if the "
        "other destination is gone, run `dbmazz snapshot --take-over`, which copies all tables into this one",
    )


def claim(conn: Connection, look: Look, destination: DestinationIdentity) -> None:
    """Remember that the slot serves a destination.

    A publication that dbmazz did not create, or that the role may not alter, stays as it is, and so does a standby.

    Raises:
        SourceNotReady: The server refuses the statement.
    """
    config = look.config
    if look.facts.in_recovery or not _is_ours(look, destination):
        return
    with translate_errors(config.url, slot=config.slot, publication=config.publication_name), setup_lock(conn, config):
        publication = read_publication(conn, config.publication_name, only=())
        if publication is None or not publication.created_by_dbmazz:
            return
        comment = with_destination(publication.comment or CREATED_BY_DBMAZZ, config.slot, destination)
        run_statement(conn, comment_on_publication(config.publication_name, comment), config.url, look.facts.role)


def release(conn: Connection, config: SourceConfig, role: str) -> None:
    """Forget which destination a slot that was dropped has served, so that a new slot gets a publication of its own.

    Args:
        conn: A connection to a server that is no standby.
        config: Settings of the source, with the name of the publication.
        role: The current role.

    Raises:
        SourceNotReady: The server refuses the statement.
    """
    with setup_lock(conn, config):
        publication = read_publication(conn, config.publication_name, only=())
        if publication is None or not publication.owned or config.slot not in destinations(publication.comment):
            return
        comment = without_slot(publication.comment or CREATED_BY_DBMAZZ, config.slot)
        run_statement(conn, comment_on_publication(publication.name, comment), config.url, role)


def _is_ours(look: Look, destination: DestinationIdentity) -> bool:
    """Return whether the comment can be changed, and must be."""
    publication = look.publication
    if publication is None or not publication.created_by_dbmazz or not publication.owned:
        return False
    return destinations(publication.comment).get(look.config.slot) != destination
