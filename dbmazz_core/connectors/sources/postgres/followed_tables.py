"""Stream the tables that a destination holds, each with its recorded columns, key and rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbmazz_core.connectors.sources.postgres.bounds import recorded_identities
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.connection import verify_not_promoted
from dbmazz_core.connectors.sources.postgres.parser.positions import StreamPositions
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.connectors.sources.postgres.stream_format import stream_format
from dbmazz_core.connectors.sources.postgres.stream_start import start_verified_stream
from dbmazz_core.errors import SlotNotFound
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.source import Bound, FollowedTable
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import TableRef


def stream_followed_tables(
    session: Session,
    start: Lsn,
    bound: Bound,
    followed: Mapping[TableRef, FollowedTable],
    *,
    keep_unreadable: Callable[[TableRef], bool] | None = None,
    watched: Mapping[TableRef, TableToken] | None = None,
    messages: bool = True,
    text_reason: str | None = None,
) -> tuple[PostgresStream, RecordStream]:
    """Start the stream of tables that a destination holds.

    Args:
        session: The server.
        start: LSN of the checkpoint.
        bound: Where the stream ends.
        followed: The tables, by their names of the last look.
        keep_unreadable: Tables whose batches keep unreadable values apart, see `RowImages.unreadable`; None: none.
        watched: Tables that are not followed, with their tokens: the stream tells whether they have changes.
        messages: Whether the server sends logical messages.
        text_reason: Why values must come as text; None: as `stream_format` decides.

    Raises:
        SlotNotFound: The slot does not exist.
        SlotAheadOfCheckpoint: The slot is past `start`, so that changes are missing.
        ConfigError: The rules for columns do not fit the tables.
    """
    verify_slot_exists(session, start)
    infos = session.table_infos(followed)
    for problem in session.rules.problems(infos, session.look.resolution.tables):
        raise problem
    recorded = recorded_identities(followed)
    schemas = {ref: table.shape.schema for ref, table in followed.items()}
    # The catalog has the current key. If a table had another key, or none, changes of that time may still be in the
    # stream, and under REPLICA IDENTITY FULL the stream does not name the key. Without a key such changes are applied
    # correctly whatever the key was.
    keys = {
        table.ref: table.key
        if table.key == schemas[table.ref].key and (table.ref not in recorded or table.ref in bound.same_keys)
        else None
        for table in infos
    }
    names = {identity.oid: ref for ref, identity in recorded.items()}
    relations = Relations(
        captured=keys.__contains__,
        keys=keys,
        types=session.types,
        names=names,
        keep_names=True,
        rules=session.rules,
        recorded=schemas,
        columns={table.ref: [column.name for column in table.columns] for table in infos},
        keep_unreadable=keep_unreadable,
        partitions={table.oid: () for table in infos if table.is_partitioned}
        | {identity.oid: identity.partitions for identity in recorded.values() if identity.partitions},
        watched={TableIdentity.from_token(token).oid: ref for ref, token in (watched or {}).items()},
        format=StreamFormat(text_reason) if text_reason else stream_format(session, infos, schemas, keep_unreadable),
    )
    session.names = names
    starts = {ref: table.start for ref, table in followed.items()}
    upper_lsn = None if bound.is_open else bound.lsn
    return open_stream(session, relations, start, starts, upper_lsn, messages=messages, known=bound.lsn)


def open_stream(
    session: Session,
    relations: Relations,
    start: Lsn,
    table_start: Mapping[TableRef, Lsn],
    upper_lsn: Lsn | None,
    *,
    messages: bool,
    known: Lsn = INVALID_LSN,
) -> tuple[PostgresStream, RecordStream]:
    """Start a stream at `start` that decodes the given relations.

    Args:
        session: The server.
        relations: The relations.
        start: LSN at which the stream starts.
        table_start: Later start LSNs, of tables whose snapshot is newer.
        upper_lsn: Transactions that commit at or after it are left for the next stream; None: no bound.
        messages: Whether the server sends logical messages, if its version can (PostgreSQL 14).
        known: A position that the server is known to have reached.

    Returns:
        The stream as change batches, and as records.
    """
    records = RecordStream(relations, start, dict(table_start))
    with session.translated():
        reader, _ = start_verified_stream(
            session.named_config,
            session.connection,
            session.server,
            start,
            messages=messages and session.connection.info.server_version >= 140000,
            binary=relations.format.is_binary,
        )
    reader.confirm(start)

    def verify() -> None:
        with session.translated():
            verify_not_promoted(session.connection, session.server)

    stream = PostgresStream(
        reader,
        relations,
        start_lsn=start,
        positions=StreamPositions(session.server_lsn, known),
        table_start=table_start,
        upper_lsn=upper_lsn,
        verify=verify if session.server.in_recovery else None,
    )
    return stream, records


def verify_slot_exists(session: Session, start: Lsn) -> None:
    """Verify that the slot exists and that a stream from `start` misses no changes.

    Raises:
        SlotNotFound: The slot does not exist.
        SlotError: The slot is past `start`, in use, or unusable (see `setup.slots.verify_slot`).
    """
    if session.verify_slot(start) is None:
        raise SlotNotFound(
            f"replication slot {session.config.slot} does not exist",
            object=session.config.slot,
            remedy="create it: dbmazz setup",
        )
