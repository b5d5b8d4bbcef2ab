"""Which publication a slot uses if the settings name none: that of its own name, or the one that it began with.

Before the default followed the slot, it was `dbmazz_pub` for every slot. A slot that began with that publication keeps
it. Logical decoding reads the catalog as of each change: a publication that is created now does not exist for the
changes that wait in the slot, which are an error then, and which PostgreSQL 18 leaves out with a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dbmazz_core.connectors.sources.postgres.catalog.publication_comment import destinations, is_created_by_dbmazz
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.publication_name import default_publication

#: The publication of every slot before the default followed the slot.
FORMER_DEFAULT = "dbmazz_pub"


def possible_names(config: SourceConfig) -> list[str]:
    """Return the names among which `chosen_name` chooses: one where the server need not be asked."""
    if config.publication is not None:
        return [config.publication]
    return list(dict.fromkeys([default_publication(config.slot), FORMER_DEFAULT]))


def chosen_name(config: SourceConfig, comments: Mapping[str, str | None], *, slot_exists: bool) -> str:
    """Return the name of the publication that a slot uses.

    A slot that exists without a publication of its own has begun with `dbmazz_pub`, or was created by hand; a
    publication that is older than the changes that wait in it is right for both. The comment names a slot also after
    the slot is lost (`publication_comment`). Then a publication of the slot's name that dbmazz did not create is
    another program's.

    Args:
        config: Settings of the source.
        comments: Those of `possible_names` that exist, with their comments.
        slot_exists: Whether the slot exists.
    """
    own, *former = possible_names(config)
    if not former or FORMER_DEFAULT not in comments:
        return own
    is_named = config.slot in destinations(comments[FORMER_DEFAULT])
    if own in comments and (is_created_by_dbmazz(comments[own]) or not is_named):
        return own
    return FORMER_DEFAULT if is_named or slot_exists else own


def with_publication_name(conn: Connection, config: SourceConfig) -> SourceConfig:
    """Return the settings with the name of the publication; ask the server if it depends on that.

    A look at the source finds the name without another query (`publication.read_chosen_publication`).
    """
    names, comments, slot_exists = possible_names(config), {}, False
    if len(names) > 1:
        rows = conn.execute(
            "SELECT pubname::text, obj_description(oid, 'pg_publication'), "
            "EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = %s) "
            "FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)",
            (config.slot, names),
        ).fetchall()
        comments = {name: comment for name, comment, _ in rows}
        slot_exists = any(exists for _, _, exists in rows)
    return replace(config, publication=chosen_name(config, comments, slot_exists=slot_exists))
