"""The upper LSN of a stream, and the tables that the catalog proves to be unchanged at this LSN."""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.source import Bound, FollowedTable
from dbmazz_core.table_ref import TableRef


def find_bound(session: Session, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
    """Return the upper LSN of a stream, and the tables as they are at this LSN.

    Args:
        session: The server.
        start: LSN at which the stream starts.
        followed: The tables that the stream follows.
    """
    recorded = recorded_identities(followed)
    oids = [table.oid for table in session.table_infos(followed)]
    lsn, tables = session.reachable_lsn(), session.catalog(oids)
    if not all(recorded.get(ref) == table.identity for ref, table in tables.items()):
        # A table changed since its identity was recorded. A table that the catalog shows alike before and after the
        # upper LSN was like that at the upper LSN.
        before = tables
        lsn, tables = session.reachable_lsn(), session.catalog(oids)
        tables = {
            ref: table for ref, table in tables.items() if ref in before and table.identity == before[ref].identity
        }
    same_keys = frozenset(
        ref for ref, table in tables.items() if ref in recorded and _has_same_key(recorded[ref], table)
    )
    session_end = _session_end(session, start, followed)
    if session_end is not None:
        return Bound(session_end, {}, same_keys, more=True)
    unchanged = all(ref in tables and recorded.get(ref) == tables[ref].identity for ref in followed)
    return Bound(lsn, tables, same_keys, unchanged=unchanged)


def recorded_identities(followed: Mapping[TableRef, FollowedTable]) -> dict[TableRef, TableIdentity]:
    """Return the recorded identities of followed tables. Tables without a recorded identity are left out."""
    tokens = {ref: table.shape.token for ref, table in followed.items()}
    return {ref: TableIdentity.from_token(token) for ref, token in tokens.items() if token is not None}


def _session_end(session: Session, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Lsn | None:
    """Return the LSN at which a replication session that starts at `start` must end and a new one start, or None.

    Up to PostgreSQL 14, a session that has decoded a table while it was not published never publishes this table, not
    even when it becomes a partition of a published table (pgoutput.c, rel_sync_cache_relation_cb). At the end of a
    window the catalog shows the new partition, and the root is re-snapshotted; but not if the copy of the root has
    already seen the partition. Therefore no session that starts before the copy of a partitioned table continues
    after it.
    """
    if session.connection.info.server_version >= 150000:
        return None
    roots = (table.ref for table in session.table_infos(followed) if table.is_partitioned)
    return max((lsn for ref in roots if (lsn := followed[ref].start) > start), default=None)


def _has_same_key(recorded: TableIdentity, table: CatalogTable) -> bool:
    """Return whether the key has the recorded index, and its columns the recorded names and versions."""
    versions = {(column.number, column.name, column.version) for column in recorded.columns}
    return recorded.key_index == table.identity.key_index and all(
        (column.number, column.name, column.version) in versions
        for column in table.identity.columns
        if column.name in table.schema.key
    )
