"""Which tables a stream follows: under which names, keys and rules their relations are decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dbmazz_core.connectors.sources.postgres.bounds import identities
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.connectors.sources.postgres.stream_start import start_verified_stream, verify_not_promoted
from dbmazz_core.errors import SlotNotFound
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.source import Bound, FollowedTable
from dbmazz_core.table_ref import TableRef


def start_stream(
    session: Session,
    start: Lsn,
    *,
    upper_lsn: Lsn | None = None,
    keep_unreadable: Callable[[TableRef], bool] | None = None,
    messages: bool = True,
) -> tuple[PostgresStream, RecordStream]:
    """Stream all configured tables as they are now, for a program without a destination."""
    verify_slot_exists(session, start)
    infos = session.tables()
    names = {table.oid: table.ref for table in infos}
    keys: Mapping[TableRef, tuple[str, ...] | None] = {table.ref: table.key for table in infos}
    for problem in session.rules.problems(infos):
        raise problem
    relations = Relations(
        captured=keys.__contains__,
        keys=keys,
        types=session.types,
        names=names,
        rules=session.rules,
        columns={table.ref: [column.name for column in table.columns] for table in infos},
        keep_unreadable=keep_unreadable,
        partitions={table.oid: () for table in infos if table.is_partitioned},
    )
    session.names = names
    return _open(session, relations, start, {}, upper_lsn, messages=messages)


def follow(
    session: Session,
    start: Lsn,
    bound: Bound,
    followed: Mapping[TableRef, FollowedTable],
    *,
    keep_unreadable: Callable[[TableRef], bool] | None = None,
    messages: bool = True,
) -> tuple[PostgresStream, RecordStream]:
    """Stream tables that a destination holds, see `Source.stream`."""
    verify_slot_exists(session, start)
    infos = session.infos(followed)
    for problem in session.rules.problems(infos):
        raise problem
    known = identities(followed)
    schemas = {ref: table.shape.schema for ref, table in followed.items()}
    # The catalog has the key of today. Where a table had another key, or none, changes of that time may still be to
    # come, and under REPLICA IDENTITY FULL they do not name it; without a key they are right whatever it was.
    keys = {
        table.ref: table.key
        if table.key == schemas[table.ref].key and (table.ref not in known or table.ref in bound.same_keys)
        else None
        for table in infos
    }
    names = {identity.oid: ref for ref, identity in known.items()}
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
        | {identity.oid: identity.partitions for identity in known.values() if identity.partitions},
    )
    session.names = names
    starts = {ref: table.start for ref, table in followed.items()}
    return _open(session, relations, start, starts, bound.lsn, messages=messages)


def _open(
    session: Session,
    relations: Relations,
    start: Lsn,
    table_start: Mapping[TableRef, Lsn],
    upper_lsn: Lsn | None,
    *,
    messages: bool,
) -> tuple[PostgresStream, RecordStream]:
    records = RecordStream(relations, start, dict(table_start))
    with session.translated():
        reader, _ = start_verified_stream(
            session.config,
            session.connection,
            session.server,
            start,
            messages=messages and session.connection.info.server_version >= 140000,
        )
    reader.start_acknowledging(start)

    def verify() -> None:
        with session.translated():
            verify_not_promoted(session.connection, session.server)

    stream = PostgresStream(
        reader,
        relations,
        start_lsn=start,
        table_start=table_start,
        upper_lsn=upper_lsn,
        verify=verify if session.server.in_recovery else None,
    )
    return stream, records


def verify_slot_exists(session: Session, start: Lsn) -> None:
    """Raise if the slot does not exist, or cannot begin a stream at `start`."""
    if session.verify_slot(start) is None:
        raise SlotNotFound(
            f"replication slot {session.config.slot} does not exist",
            object=session.config.slot,
            remedy="create it: dbmazz setup",
        )
