"""Streams for programs without a destination: all configured tables, as change batches or as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dbmazz_core.connectors.sources.postgres.followed_tables import open_stream, verify_slot_exists
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.records import Begin, CdcRecord, Commit, Heartbeat, SchemaChange
from dbmazz_core.table_ref import TableRef

#: Seconds without a message after which `read_records` asks the server for its position.
_ASK_AFTER_S = 0.1


def stream_configured_tables(
    session: Session, start: Lsn, *, upper_lsn: Lsn | None = None, messages: bool = True
) -> tuple[PostgresStream, RecordStream]:
    """Start the stream of all configured tables as the catalog has them now.

    Args:
        session: The server.
        start: LSN at which the stream starts.
        upper_lsn: Transactions that commit at or after it are left for later; None: no bound.
        messages: Whether the server sends logical messages.

    Raises:
        SlotNotFound: The slot does not exist.
        SlotAheadOfCheckpoint: The slot is past `start`, so that changes are missing.
        ConfigError: The rules for columns do not fit the tables.
    """
    verify_slot_exists(session, start)
    session.named_config  # noqa: B018 - the rules name the publication
    infos = session.tables()
    names = {table.oid: table.ref for table in infos}
    keys: Mapping[TableRef, tuple[str, ...] | None] = {table.ref: table.key for table in infos}
    for problem in session.rules.problems(infos, infos):
        raise problem
    relations = Relations(
        captured=keys.__contains__,
        keys=keys,
        types=session.types,
        names=names,
        rules=session.rules,
        columns={table.ref: [column.name for column in table.columns] for table in infos},
        partitions={table.oid: () for table in infos if table.is_partitioned},
    )
    session.names = names
    return open_stream(session, relations, start, {}, upper_lsn, messages=messages)


def read_records(stream: PostgresStream, records: RecordStream, until: Lsn | None) -> Iterator[CdcRecord]:
    """Return an iterator over the records of a stream, in stream order.

    Args:
        stream: The running stream.
        records: The stream's decoder. Another call with the same decoder continues where the last one ended.
        until: The iterator ends when every transaction that committed before this LSN was yielded; None: never.
    """

    def next_block() -> MessageBlock | None:
        block = stream.reader.read(_ASK_AFTER_S)
        if block is None:
            stream.reader.request_keepalive()
        else:
            stream.positions.verify(block)
        return block

    return records.records(next_block, until)


def first_changes(records: Iterable[CdcRecord], limit: int) -> Iterator[CdcRecord]:
    """Yield records until `limit` changes were yielded. BEGIN, COMMIT and schema changes do not count.

    Heartbeats are left out.
    """
    changes = 0
    for record in records:
        if isinstance(record, Heartbeat):
            continue
        yield record
        if not isinstance(record, Begin | Commit | SchemaChange):
            changes += 1
            if changes >= limit:
                return
