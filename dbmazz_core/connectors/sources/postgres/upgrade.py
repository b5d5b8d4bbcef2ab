"""Verify that pg_upgrade has made a server of the server that a checkpoint belongs to, and kept its slot.

pg_upgrade keeps logical slots from PostgreSQL 17 on, and only if they have confirmed all changes ("Upgrading a
PostgreSQL Cluster via pg_upgrade", "Prepare for publisher upgrades"). It creates them again, at positions of the new
cluster. It keeps the OIDs of databases and tables, and the commit log.
"""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.errors import WrongServer
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import TableRef


def checkpoint_after_upgrade(
    session: Session, checkpoint: Checkpoint, tables: Mapping[TableRef, TableToken]
) -> Checkpoint:
    """Return a checkpoint that continues on the upgraded server, at the position of the slot.

    Args:
        session: The upgraded server.
        checkpoint: The destination's checkpoint.
        tables: The tables that the destination follows.

    Raises:
        WrongServer: The server cannot be the upgraded one.
        SlotError: The slot is in use, or unusable.
    """
    identity = session.identity
    if checkpoint.system_identifier == identity.system_identifier:
        raise _not_upgraded(checkpoint, "it is the same cluster")
    if checkpoint.database_oid is None or checkpoint.database_oid != identity.database_oid:
        raise _not_upgraded(checkpoint, f"database {identity.database} has another OID than {checkpoint.database}")
    oids = {table.ref: table.oid for table in session.look.tables}
    for ref, token in tables.items():
        if oids.get(ref) != TableIdentity.from_token(token).oid:
            raise _not_upgraded(checkpoint, f"{ref} has another OID")
    if checkpoint.last is not None and not _has_committed(session, checkpoint.last.xid):
        raise _not_upgraded(checkpoint, f"transaction {checkpoint.last.xid} has not committed there")
    slot = session.verify_slot(None)
    if slot is None or slot.confirmed_flush_lsn is None:
        raise _not_upgraded(checkpoint, f"it has no replication slot {session.config.slot}")
    if slot.confirmed_flush_lsn < checkpoint.lsn:
        raise _not_upgraded(
            checkpoint, f"slot {slot.name} is at {slot.confirmed_flush_lsn}, before the checkpoint {checkpoint.lsn}"
        )
    return checkpoint.continued(identity, slot.confirmed_flush_lsn)


def tokens_after_upgrade(session: Session, tables: Mapping[TableRef, TableToken]) -> dict[TableRef, TableToken]:
    """Return the new tokens of tables that are the same as before the upgrade.

    pg_upgrade keeps OIDs, files and columns, also dropped ones, and writes all rows of the catalog anew.
    """
    today = session.catalog([TableIdentity.from_token(token).oid for token in tables.values()])
    return {
        ref: today[ref].token
        for ref, token in tables.items()
        if ref in today and _kept(TableIdentity.from_token(token)) == _kept(TableIdentity.from_token(today[ref].token))
    }


def _kept(table: TableIdentity) -> tuple[object, ...]:
    """Return the facts about a table that pg_upgrade keeps."""
    return (
        *(table.oid, table.storage, table.max_attnum, table.key_index, table.types, table.unpublished, table.redacted),
        {oid: storage.split(" ")[0] for oid, storage in table.partitions.items()},
        [(column.name, column.number) for column in table.columns],
    )


def _has_committed(session: Session, xid: int) -> bool:
    """Return whether a recent transaction has committed; also True if the server no longer knows."""
    with session.translated():
        row = session.connection.execute(
            "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::numeric::bigint"
        ).fetchone()
        assert row is not None
        following = int(row[0])
        full = following - (following - xid) % (1 << 32)
        if full >= following or full < 3:  # xids below 3 are not those of transactions
            return False
        status = session.connection.execute("SELECT pg_xact_status(%s::text::xid8)", (str(full),)).fetchone()
    return status is not None and status[0] in (None, "committed")


def _not_upgraded(checkpoint: Checkpoint, why: str) -> WrongServer:
    return WrongServer(
        "SOURCE_URL does not lead to the server that pg_upgrade made of the cluster with system identifier "
        f"{checkpoint.system_identifier}, or the slot was not kept: {why}",
        object=f"replication slot {checkpoint.slot}",
        remedy="correct SOURCE_URL, or re-snapshot all tables from this server: dbmazz snapshot --new-server",
    )
