"""`PostgresSource`: the source as an object, usable with or without a destination."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Self

import psycopg

from dbmazz_core.connectors.sources.postgres import resuming
from dbmazz_core.connectors.sources.postgres.bounds import find_bound
from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable, verify_still_redacted
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.explanation import explain_at_bound, explain_description
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.redaction import verify_redacted
from dbmazz_core.connectors.sources.postgres.followed_tables import follow, start_stream
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.connectors.sources.postgres.session import Session, confirmed_lsn
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.connectors.sources.postgres.snapshot.tables import TableSnapshot
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.connectors.sources.postgres.types import TypePolicy
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.findings import CheckReport, SetupReport
from dbmazz_core.model.records import Begin, CdcRecord, Commit, Heartbeat, SchemaChange
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Reshape, Resnapshot
from dbmazz_core.model.source import Bound, FollowedTable, ResumePoint, SourceTable
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.stream import NewSchema, TableEvent
from dbmazz_core.model.table_description import ColumnDescription, TableDescription
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: How many seconds `stop` waits for the server to have taken the last acknowledgement.
CONFIRM_WAIT_S = 3.0
_EVERYTHING = 1 << 62


class PostgresSource:
    """Changes of PostgreSQL tables by logical replication. Implements `dbmazz_core.model.managed_source.ManagedSource`.

    >>> from dbmazz_core.settings.config import Settings
    >>> settings = Settings.from_env({"SOURCE_URL": "postgres://localhost/shop", "TABLES": "orders"})
    >>> with PostgresSource(settings.source) as source:  # doctest: +SKIP
    ...     source.validate()
    ...     source.start()
    ...     for record in source.records():
    ...         match record:
    ...             case Insert(table, columns, position):
    ...                 print(table, columns)
    ...             case Commit(_, end_lsn):
    ...                 source.confirm_lsn(end_lsn)

    A source connects when first needed. Only `confirm_lsn` may be called from other threads.

    Args:
        config: What to capture.
        messages: Whether `records` yields logical messages too.
        on_slot_wait: Called with a sentence while a slot's creation waits for open transactions.
        types: Which types the user has a choice of.
        snapshot: How rows are copied.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        messages: bool = True,
        on_slot_wait: Callable[[str], None] | None = None,
        types: TypePolicy | None = None,
        snapshot: SnapshotConfig | None = None,
    ) -> None:
        #: Where everything committed before it has been yielded by `batches`.
        self.end_lsn = INVALID_LSN
        self._session = Session(config, snapshot=snapshot, types=types, on_wait=on_slot_wait)
        self._messages = messages
        self._streamed = False
        self._stream: PostgresStream | None = None
        self._records: RecordStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.stop()
        else:
            self.close()

    @property
    def config(self) -> SourceConfig:
        """What is captured."""
        return self._session.config

    # -- set-up and checks

    def validate(self) -> CheckReport:
        """Check everything that capturing needs and change nothing; raise the first error found."""
        report = self.check()
        report.raise_first()
        return report

    def check(self) -> CheckReport:
        """Like `validate`, but errors are in the report."""
        return setup.check(self._session.connection, self.config)

    def setup(self) -> SetupReport:
        """Set replica identities and the publication as the settings want them. Idempotent; creates no slot."""
        return setup.prepare(self._session.connection, self.config)[0]

    def connect(self) -> None:
        """See `ManagedSource.connect`."""
        self._session.connection  # noqa: B018

    def look(self) -> Look:
        """See `Source.look`.

        Raises:
            UnsupportedServerVersion: Nothing else can be read then.
        """
        return self._session.take_look()

    def check_look(self, *, captured: Collection[TableRef] = ()) -> CheckReport:
        """See `ManagedSource.check_look`."""
        return setup.check_look(self._session.look.following(captured))

    def prepare(self, *, captured: Collection[TableRef] = ()) -> tuple[SetupReport, Look]:
        """See `ManagedSource.prepare`."""
        session = self._session
        report, session.look = setup.prepare(session.connection, self.config, captured=captured, look=session.look)
        return report, session.look

    def create_feed(self) -> str | None:
        """See `ManagedSource.create_feed`."""
        if self._session.verify_slot(None) is not None:
            return None
        with self.create_slot() as snapshot:
            return f"created replication slot {self.config.slot} at {snapshot.lsn}"

    def create_slot(self) -> ExportedSnapshot:
        """Create the slot; its exported snapshot shows the tables as of the slot's start."""
        return self._export_snapshot(temporary=False)

    def verify_feed(self) -> Lsn | None:
        """See `ManagedSource.verify_feed`."""
        return resuming.verify_usable(self._session)

    def teardown(self) -> list[str]:
        """Drop slot and publication; return sentences that say what was done."""
        return setup.teardown(self._session.connection, self.config)

    # -- tables

    def tables(self) -> list[TableInfo]:
        """Return the configured tables as the catalog has them."""
        return self._session.tables()

    def table_descriptions(self) -> list[TableDescription]:
        """See `ManagedSource.table_descriptions`."""
        return [
            TableDescription(
                table.ref,
                tuple(
                    ColumnDescription(column.name, column.type_name, not column.not_null, masks.get(column.name))
                    for column in table.columns
                    if choice.keeps(column.name)
                ),
                table.key,
            )
            for table in self.tables()
            for choice, masks in [(self._session.rules.choice(table.ref), self.config.masks.of(table.ref))]
        ]

    def column_names(self) -> dict[TableRef, tuple[str, ...]]:
        """See `Source.column_names`."""
        look, rules = self._session.look, self._session.rules
        publication = look.publication
        return {
            table.ref: tuple(
                name
                for name in (publication.columns_of(table) if publication else [c.name for c in table.columns])
                if rules.choice(table.ref).keeps(name)
            )
            for table in look.tables
        }

    def catalog(self, tables: Collection[int]) -> dict[TableRef, CatalogTable]:
        """See `Session.catalog`."""
        return self._session.catalog(tables)

    def describe_tables(self, tables: Collection[TableRef]) -> dict[TableRef, CatalogTable]:
        """See `Source.describe_tables`."""
        return self.catalog([table.oid for table in self._session.infos(tables)]) if tables else {}

    def explain(
        self, known: TableShape, seen: NewSchema | SourceTable, *, truncated_by: int = 0
    ) -> Reshape | Resnapshot:
        """See `Source.explain`."""
        if isinstance(seen, NewSchema):
            return explain_description(known, seen, self._session.describe, self._session.layouts)
        assert isinstance(seen, CatalogTable)
        return explain_at_bound(known, seen, truncated_by=truncated_by)

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """See `Source.verify_rules`."""
        (info,) = self._session.infos([table])
        self._session.rules.verify_recorded(
            TableSchema(table, recorded.columns, recorded.key, recorded.choice), [c.name for c in info.columns]
        )

    def verify_redacted(self, tables: Collection[TableRef], recorded: Mapping[TableRef, TableToken]) -> None:
        """See `Source.verify_redacted`."""
        redacted = _redacted(recorded)
        for info in self._session.infos(tables):
            if info.oid in redacted:
                copied_as, identity = redacted[info.oid]
                columns = {column.name: column.number for column in info.columns}
                names = {number: name for name, number in columns.items()}
                now = self._session.rules.redacted(info.ref, columns)
                verify_redacted(copied_as, identity.redacted or (), info.ref, names, now)

    def verify_redacted_in(self, table: SourceTable, recorded: Mapping[TableRef, TableToken]) -> None:
        """See `Source.verify_redacted_in`."""
        assert isinstance(table, CatalogTable)
        redacted = _redacted(recorded)
        if table.identity.oid in redacted:
            verify_still_redacted(*redacted[table.identity.oid], table)

    def names_today(self, recorded: Mapping[TableRef, TableToken]) -> dict[TableRef, TableRef]:
        """See `Source.names_today`."""
        names = {table.oid: table.ref for table in self._session.look.tables}
        oids = {ref: TableIdentity.from_token(token).oid for ref, token in recorded.items()}
        return {ref: names[oid] for ref, oid in oids.items() if oid in names}

    # -- positions

    @property
    def identity(self) -> SystemIdentity:
        """Cluster, timeline and database, and the flush LSN when first asked."""
        return self._session.identity

    def status(self) -> SourceStatus:
        """See `ManagedSource.status`."""
        slot, server_lsn = self.slot(), self.server_lsn()
        return SourceStatus(
            slot=self.config.slot,
            slot_exists=slot is not None,
            slot_active=bool(slot and slot.active),
            active_pid=slot.active_pid if slot else None,
            wal_status=slot.wal_status if slot else None,
            confirmed_lsn=slot.confirmed_flush_lsn if slot else None,
            server_lsn=server_lsn,
        )

    def slot(self) -> SlotState | None:
        """Return the replication slot, None if there is none."""
        return self._session.slot()

    def server_lsn(self) -> Lsn:
        """Return the server's WAL flush position now."""
        return self._session.server_lsn()

    position = server_lsn

    def reachable_lsn(self) -> Lsn:
        """Return the server's WAL flush position now, as a bound that the stream reaches at once on an idle server."""
        return self._session.reachable_lsn()

    def has_changes(self, *, timeout_s: float) -> bool:
        """See `ManagedSource.has_changes`."""
        connection = self._session.connection
        # The peek ends behind the first transaction that yields anything; before version 15 that may be a transaction
        # without changes for the publication, sent as an empty BEGIN and COMMIT.
        some = 1 if connection.info.server_version >= 150000 else 10_000
        with self._session.translated(), connection.transaction():
            connection.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}".encode())
            try:
                row = connection.execute(
                    "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, NULL, %s, "
                    "'proto_version', '1', 'publication_names', %s) "
                    "WHERE pg_catalog.get_byte(data, 0) IN (68, 73, 84, 85)",  # D, I, T, U
                    [self.config.slot, some, quote_identifier(self.config.publication)],
                ).fetchone()
            except psycopg.errors.QueryCanceled:
                return True
        return bool(row and row[0])

    def verify_origin(self, checkpoint: Checkpoint, *, destination: str) -> None:
        """See `Source.verify_origin`."""
        resuming.verify_origin(self._session, checkpoint, destination=destination)

    def verify_position(self, checkpoint: Checkpoint, *, and_feed: bool) -> None:
        """See `Source.verify_position`."""
        resuming.verify_position(self._session, checkpoint, and_slot=and_feed)

    def resume(self, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
        """See `Source.resume`."""
        return resuming.resume(self._session, checkpoint, stopped=stopped)

    # -- snapshots

    def snapshot(self, tables: Collection[TableRef], *, new_feed: bool) -> TableSnapshot:
        """See `Source.snapshot`: of the slot that is created, or of a temporary one."""
        session = self._session
        published = {ref: table.identity.published for ref, table in self.describe_tables(tables).items()}
        exported = self._export_snapshot(temporary=not new_feed)
        try:
            return TableSnapshot(
                exported,
                session.infos(tables),
                published,
                session.catalog,
                session.fingerprints,
                session.snapshot_config,
            )
        except BaseException:
            exported.close()
            raise

    def _export_snapshot(self, *, temporary: bool) -> ExportedSnapshot:
        session = self._session
        connection, server = session.connection, session.server
        return ExportedSnapshot.create(session.config, connection, server, temporary=temporary, on_wait=session.on_wait)

    # -- streaming into a destination

    def bound(self, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
        """See `Source.bound`."""
        return find_bound(self._session, start, followed)

    def stream(
        self,
        start: Lsn,
        bound: Bound,
        followed: Mapping[TableRef, FollowedTable],
        *,
        keep_unreadable: Callable[[TableRef], bool] | None = None,
    ) -> PostgresStream:
        """See `Source.stream`.

        Raises:
            ServerChanged: The stream comes from another server than everything else.
        """
        opened = follow(self._session, start, bound, followed, keep_unreadable=keep_unreadable, messages=self._messages)
        return self._begun(*opened)

    def _begun(self, stream: PostgresStream, records: RecordStream) -> PostgresStream:
        self._stream, self._records, self._streamed = stream, records, True
        return stream

    # -- streaming without a destination

    def start(self) -> None:
        """Set up what is missing, the slot too, and stream from the slot's confirmed LSN."""
        self.setup()
        lsn = confirmed_lsn(self._session.verify_slot(None))
        if lsn is None:
            with self.create_slot() as snapshot:
                lsn = snapshot.lsn
        self.start_replication_from(lsn)

    def start_replication_from(self, lsn: Lsn, *, upper_lsn: Lsn | None = None) -> PostgresStream:
        """Stream transactions that committed at or after `lsn`, of all configured tables.

        Args:
            lsn: Usually a position that your program has stored.
            upper_lsn: Transactions that commit at or after it are left for later.

        Raises:
            SlotAheadOfCheckpoint: The slot was confirmed beyond `lsn`: changes between are gone.
            SlotActive: Another process consumes the slot.
            ServerChanged: The stream comes from another server than everything else.
            ConfigError: The rules for columns do not fit the tables.
        """
        return self._begun(*start_stream(self._session, lsn, upper_lsn=upper_lsn, messages=self._messages))

    def batches(self, *, rows: int = 50_000, until: Lsn | None = None) -> Iterator[TableEvent]:
        """Yield change batches, truncations and new schemas as they come; those of one table are in stream order.

        `end_lsn` is where the last complete transaction yielded ends: confirm it once its changes are durable.

        Args:
            rows: Row changes after which a batch ends, at a transaction's end.
            until: End once every transaction committed before it was yielded; None: never.
        """
        stream = self._started()
        while until is None or self.end_lsn < until:
            part = stream.next(rows=rows, size=_EVERYTHING, timeout=1.0)
            if part is not None:
                yield from part.events
                if part.complete and part.end_lsn is not None:
                    self.end_lsn = max(self.end_lsn, part.end_lsn)

    def records(self, *, until: Lsn | None = None) -> Iterator[CdcRecord]:
        """Yield every change as a `CdcRecord`, in stream order. Called again, it goes on where it was left.

        Args:
            until: End once every transaction committed before it was yielded; None: never.
        """
        reader = self._started().reader
        assert self._records is not None

        def blocks() -> MessageBlock | None:
            block = reader.read(0.1)
            if block is None:
                reader.request_keepalive()
            return block

        return self._records.records(blocks, until)

    def peek(self, limit: int) -> Iterator[CdcRecord]:
        """See `ManagedSource.peek`."""
        lsn = confirmed_lsn(self._session.verify_slot(None))
        if lsn is None:
            self.check().raise_first()
            return
        self.start_replication_from(lsn)
        changes = 0
        for record in self.records(until=self.reachable_lsn()):
            if isinstance(record, Heartbeat):
                continue
            yield record
            if not isinstance(record, Begin | Commit | SchemaChange):
                changes += 1
                if changes >= limit:
                    return

    def confirm_lsn(self, lsn: Lsn) -> None:
        """Acknowledge that everything committed before `lsn` is durable: PostgreSQL may remove it. From any thread."""
        self._started().confirm(lsn)

    # -- ending

    def stop(self) -> None:
        """End the stream gracefully: the last acknowledgement arrives.

        With `cleanup_on_stop`, slot and publication are dropped.
        """
        self.end_stream()
        if self._streamed and self.config.cleanup_on_stop:
            self.teardown()
        self.close()

    def end_stream(self) -> None:
        """End the stream so that the last acknowledgement arrives. The source stays usable."""
        if self._stream is not None:
            self._await_confirmed(self._stream.reader.confirmed_lsn)
            self._stream.close()
            self._stream = None
        self._session.names = {}

    def close(self) -> None:
        """Close all connections at once. Changes that were not confirmed come again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._session.close()

    def _await_confirmed(self, lsn: Lsn) -> None:
        """Wait until the server has taken the acknowledgement; if it does not, the checkpoint still knows."""
        deadline = time.monotonic() + CONFIRM_WAIT_S
        while time.monotonic() < deadline:
            slot = self.slot()
            if slot is None or not slot.active or (slot.confirmed_flush_lsn or INVALID_LSN) >= lsn:
                return
            time.sleep(0.02)

    def _started(self) -> PostgresStream:
        if self._stream is None:
            raise RuntimeError("the source is not streaming: call start() or start_replication_from(lsn) first")
        return self._stream


def _redacted(recorded: Mapping[TableRef, TableToken]) -> dict[int, tuple[TableRef, TableIdentity]]:
    """Return tables that were copied with redacted columns, by OID: their names then, and what they were."""
    identities = ((ref, TableIdentity.from_token(token)) for ref, token in recorded.items())
    return {identity.oid: (ref, identity) for ref, identity in identities if identity.redacted}
