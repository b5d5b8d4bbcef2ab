"""The state of the replication slot for `status`, and what the slot has to deliver."""

from __future__ import annotations

import struct

import psycopg

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: Messages of empty transactions that are looked at before version 15.
_EMPTY_MESSAGES = 10_000
#: An OID in a message.
_OID = struct.Struct(">I")
#: Bytes of two names with their terminators (NAMEDATALEN each).
_TWO_NAMES_BYTES = 128
#: Milliseconds for which a window may ask whether it needs a stream.
_QUIET_TIMEOUT_MS = 2000


def source_status(
    config: SourceConfig, slot: SlotState | None, server_lsn: Lsn, *, locked_by: int | None = None
) -> SourceStatus:
    """Return the status of a source.

    Args:
        config: Settings of the source, with the name of the publication.
        slot: State of the slot; None if it does not exist.
        server_lsn: The server's WAL flush position.
        locked_by: The server process that holds the lock on the slot's windows.
    """
    return SourceStatus(
        slot=config.slot,
        publication=config.publication_name,
        slot_exists=slot is not None,
        slot_active=bool(slot and slot.active),
        active_pid=slot.active_pid if slot else None,
        wal_status=slot.wal_status if slot else None,
        confirmed_lsn=slot.confirmed_flush_lsn if slot else None,
        server_lsn=server_lsn,
        restart_lsn=slot.restart_lsn if slot else None,
        locked_by=locked_by,
    )


def slot_is_quiet(connection: Connection, slot: str, publication: str, upto: Lsn) -> bool:
    """Return whether no transaction up to an LSN has anything for a publication; False if the server cannot tell soon.

    Transactional and other logical messages count, as they do in the stream. The slot does not move.

    Args:
        connection: An ordinary connection.
        slot: Name of the slot.
        publication: Name of the publication.
        upto: Transactions that commit at or before it count.
    """
    message_limit = 1 if connection.info.server_version >= 150000 else _EMPTY_MESSAGES
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = {_QUIET_TIMEOUT_MS}")
            row = connection.execute(
                "SELECT count(*), count(*) FILTER (WHERE pg_catalog.get_byte(data, 0) NOT IN (66, 67, 79)) "  # B, C, O
                "FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, %s::pg_lsn, %s, "
                "'proto_version', '1', 'publication_names', %s, 'messages', 'true')",
                [slot, str(upto), message_limit, quote_identifier(publication)],
            ).fetchone()
    except psycopg.Error:
        if connection.closed:
            raise
        return False  # the stream meets the same error, and explains it
    return row is not None and row[0] < message_limit and row[1] == 0


def waiting_tables(
    connection: Connection, slot: str, publication: str, *, limit: int, timeout_s: float
) -> frozenset[TableRef] | None:
    """Return the tables of which a slot has row changes to deliver. The slot does not move.

    Args:
        connection: An ordinary connection.
        slot: Name of the slot.
        publication: Name of the publication.
        limit: Messages after which the server ends at the next transaction. Before version 15, a transaction without
            changes for the publication counts as well: it is sent as an empty BEGIN and COMMIT.
        timeout_s: Seconds that the server may take. If it takes longer, the result is None.
    """
    message_limit = limit if connection.info.server_version >= 150000 else max(limit, _EMPTY_MESSAGES)
    with connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}".encode())
        try:
            rows = connection.execute(
                "SELECT DISTINCT pg_catalog.get_byte(data, 0), substr(data, 2, CASE pg_catalog.get_byte(data, 0) "
                "WHEN 82 THEN 4 + %s WHEN 84 THEN length(data) ELSE 4 END) "  # R, T
                "FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, NULL, %s, "
                "'proto_version', '1', 'publication_names', %s) "
                "WHERE pg_catalog.get_byte(data, 0) IN (68, 73, 82, 84, 85)",  # D, I, R, T, U
                [_TWO_NAMES_BYTES, slot, message_limit, quote_identifier(publication)],
            ).fetchall()
        except psycopg.errors.QueryCanceled:
            return None
    # The server describes each relation ahead of its first change: its OID, and the names of schema and table. It also
    # describes the partition that a change of a partitioned table went to.
    names: dict[int, TableRef] = {}
    changed: set[int] = set()
    for kind, body in rows:
        if kind == ord("R"):
            (oid,), (schema, table, _) = _OID.unpack_from(body), bytes(body[4:]).split(b"\0", 2)
            encoding = connection.info.encoding
            names[oid] = TableRef(schema.decode(encoding, "replace"), table.decode(encoding, "replace"))
        elif kind == ord("T"):  # the number of tables, options, and an OID of each
            changed.update(oid for (oid,) in _OID.iter_unpack(body[5:]))
        else:
            changed.update(_OID.unpack(body))
    return frozenset(ref for oid, ref in names.items() if oid in changed)
