"""Where a stream ends, and what the catalog is certain to be there."""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.source import Bound, FollowedTable
from dbmazz_core.table_ref import TableRef


def find_bound(session: Session, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
    """Return the server's position, and the tables that are certain to be so there, see `Source.bound`."""
    known = identities(followed)
    oids = [table.oid for table in session.infos(followed)]
    lsn, now = session.reachable_lsn(), session.catalog(oids)
    if not all(known.get(ref) == table.identity for ref, table in now.items()):
        # A table changed since it was recorded. A table that is alike before and behind the bound is so at the bound.
        before = now
        lsn, now = session.reachable_lsn(), session.catalog(oids)
        now = {ref: table for ref, table in now.items() if ref in before and table.identity == before[ref].identity}
    same_keys = frozenset(ref for ref, table in now.items() if ref in known and _same_key(known[ref], table))
    earlier = _session_end(session, start, followed)
    return Bound(lsn, now, same_keys) if earlier is None else Bound(earlier, {}, same_keys, more=True)


def identities(followed: Mapping[TableRef, FollowedTable]) -> dict[TableRef, TableIdentity]:
    """Return what followed tables were when their shape was recorded, as far as that is known."""
    tokens = {ref: table.shape.token for ref, table in followed.items()}
    return {ref: TableIdentity.from_token(token) for ref, token in tokens.items() if token is not None}


def _session_end(session: Session, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Lsn | None:
    """Return where a replication session that begins at `start` has to end, and another one to begin; None: nowhere.

    Up to PostgreSQL 14, a session that has decoded a table while it was not published never publishes it, also when the
    table becomes a partition of a published one (pgoutput.c, rel_sync_cache_relation_cb). At the end of a window the
    new partition shows, and the root is re-snapshotted; not if the copy has seen the partition already. So no session
    that begins before a copy goes on behind it.
    """
    if session.connection.info.server_version >= 150000:
        return None
    roots = (table.ref for table in session.infos(followed) if table.is_partitioned)
    return max((lsn for ref in roots if (lsn := followed[ref].start) > start), default=None)


def _same_key(known: TableIdentity, now: CatalogTable) -> bool:
    """Return whether a table's key has had the same index, and its columns their names, since it was recorded."""
    versions = {(column.number, column.name, column.version) for column in known.columns}
    return known.key_index == now.identity.key_index and all(
        (column.number, column.name, column.version) in versions
        for column in now.identity.columns
        if column.name in now.schema.key
    )
