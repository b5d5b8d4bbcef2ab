"""`PostgresSource`: the PostgreSQL source for pipelines, and for programs without a destination."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from dbmazz_core.connectors.sources.postgres import resuming, upgrade
from dbmazz_core.connectors.sources.postgres.bounds import find_bound
from dbmazz_core.connectors.sources.postgres.catalog.captured_columns import (
    captured_column_names,
    describe_captured_columns,
)
from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.explanation import explain
from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.connectors.sources.postgres.catalog.redaction_checks import (
    verify_redacted_table,
    verify_redacted_tables,
)
from dbmazz_core.connectors.sources.postgres.catalog.relation_description import RelationDescription
from dbmazz_core.connectors.sources.postgres.quiet import is_quiet
from dbmazz_core.connectors.sources.postgres.server.feed_status import source_status, waiting_tables
from dbmazz_core.connectors.sources.postgres.server.state import SlotState
from dbmazz_core.connectors.sources.postgres.session import Session, confirmed_lsn
from dbmazz_core.connectors.sources.postgres.setup import claims
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.window_lock import lock_windows, window_lock_holder
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.connectors.sources.postgres.snapshot.tables import TableSnapshot, export_snapshot, snapshot_tables
from dbmazz_core.connectors.sources.postgres.types import TypePolicy
from dbmazz_core.forks import verify_can_run
from dbmazz_core.loading import load_polars
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import Checkpoint, SystemIdentity
from dbmazz_core.model.destination_identity import DestinationIdentity
from dbmazz_core.model.findings import CheckReport, SetupReport
from dbmazz_core.model.records import CdcRecord
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Reshape, Resnapshot
from dbmazz_core.model.source import Bound, FollowedTable, ResumePoint, SourceTable
from dbmazz_core.model.source_status import SourceStatus
from dbmazz_core.model.stream import NewSchema, StreamFormat, TableEvent
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
    from dbmazz_core.connectors.sources.postgres.stream import PostgresStream

#: A size in bytes that no batch reaches.
_NO_SIZE_LIMIT = 1 << 62


class PostgresSource:
    """The changes of PostgreSQL tables by logical replication, and their rows.

    Implements `dbmazz_core.model.managed_source.ManagedSource`. The source connects when it is first used. Only
    `confirm_lsn` may be called from other threads.

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

    Args:
        config: Settings of the source.
        messages: Whether `records` also yields logical messages.
        on_slot_wait: Called with a sentence while the creation of a slot waits for open transactions.
        types: The user's choices of types; None: those of `config`.
        snapshot: Settings of copies; None: the defaults.

    Raises:
        ConfigError: This process was forked from one that had used polars before.

    Attributes:
        end_lsn: `batches` has yielded all transactions that committed before this LSN.
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
        verify_can_run()
        self.end_lsn = INVALID_LSN
        self._session = Session(config, snapshot=snapshot, types=types, on_wait=on_slot_wait)
        self._messages = messages
        self._streamed = False
        self._stream: PostgresStream | None = None
        # The last look that was checked, with the tables that the destination held, and the findings.
        self._checked: tuple[Look, frozenset[TableRef], CheckReport] | None = None
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
        """Settings of the source. Once connected, the URL names the one server that the source is connected to.

        The publication has its name after a look, `setup` or `start`.
        """
        return self._session.config

    # -- setup and checks

    def validate(self) -> CheckReport:
        """Check all prerequisites of capturing, without changing anything; raise the first error found."""
        report = self.check()
        report.raise_first()
        return report

    def check(self) -> CheckReport:
        """Check all prerequisites of capturing, without changing anything, and return the findings."""
        return setup.check(self._session.connection, self.config)

    def setup(self) -> SetupReport:
        """Set replica identities and create or complete the publication. Idempotent; creates no slot."""
        return setup.prepare(self._session.connection, self._session.named_config)[0]

    def connect(self) -> None:
        """Connect, if no connection is open; raise ConnectionFailed if the server refuses or cannot be reached."""
        self._session.connection  # noqa: B018

    def lock_feed(self, *, timeout_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Let no other window or copy of the slot begin until the connections are closed, see `ManagedSource`."""
        with self._session.translated():
            lock_windows(self._session.connection, self.config.slot, timeout_s=timeout_s, stopped=stopped)

    def look(self) -> Look:
        """Read everything that check, setup and resume need from the catalog, and keep it as the last look.

        Raises:
            UnsupportedServerVersion: The server is too old.
        """
        return self._session.read_look()

    def check_look(self, *, captured: Collection[TableRef] = ()) -> CheckReport:
        """Return the findings in the last look; `captured` are the tables that the destination holds."""
        look, captured = self._session.look, frozenset(captured)
        if self._checked is None or self._checked[0] is not look or self._checked[1] != captured:
            self._checked = look, captured, setup.check_look(look.following(captured))
        return self._checked[2]

    def leave_out(self, tables: Collection[TableRef]) -> Look:
        """Take tables out of the last look: they are not set up, copied or streamed."""
        self._session.look = self._session.look.without(tables)
        return self._session.look

    def prepare(
        self, *, captured: Collection[TableRef] = (), isolates: Callable[[TableRef], bool] = lambda _: False
    ) -> tuple[SetupReport, Look]:
        """Set up the source like `setup`; return what was done, and a look at the result."""
        session = self._session
        report, session.look = setup.prepare(
            session.connection, self.config, captured=captured, look=session.look, isolates=isolates
        )
        return report, session.look

    def needs_setup(self) -> bool:
        """Return whether `prepare` would run statements, according to the last look."""
        return bool(self._session.look.statements())

    def create_feed(self) -> str | None:
        """Create the slot if it does not exist; return a sentence that says so, None if it exists."""
        if self._session.verify_slot(None) is not None:
            return None
        with self.create_slot() as snapshot:
            return f"created replication slot {self.config.slot} at {snapshot.lsn}"

    def create_slot(self) -> ExportedSnapshot:
        """Create the slot; return its exported snapshot, which shows the tables as of the start of the slot."""
        return export_snapshot(self._session, temporary=False)

    def usable_feed(self) -> Lsn | None:
        """Return the confirmed LSN of the slot, None if there is none; drop a slot that the server has invalidated."""
        return resuming.usable_slot(self._session)

    def verify_claim(self, destination: DestinationIdentity) -> None:
        """Raise SlotServesOther if the last look shows that the slot serves another destination."""
        claims.verify_claim(self._session.look, destination)

    def claim(self, destination: DestinationIdentity) -> None:
        """Remember at the source that the slot serves a destination, see `setup.claims.claim`."""
        claims.claim(self._session.connection, self._session.look, destination)

    def teardown(self, *, drop_publication: bool = False) -> list[str]:
        """Drop the slot, and the publication as `setup.prepare.teardown` says; return what was done."""
        return setup.teardown(self._session.connection, self.config, drop_publication=drop_publication)

    # -- tables

    def tables(self) -> list[TableInfo]:
        """Return the configured tables as the catalog has them now."""
        return self._session.tables()

    def table_descriptions(self, only: Collection[TableRef] | None = None) -> list[TableDescription]:
        """Return the configured tables, or only some, with the types and masks of their captured columns."""
        session = self._session
        tables = self.tables() if only is None else list(session.tables_named(only))
        return describe_captured_columns(tables, self.config, session.rules, session.unpublished_columns(tables))

    def unpublished_columns(self, tables: Collection[TableRef]) -> dict[TableRef, tuple[str, ...]]:
        """Return the columns of tables that the server does not send; tables without any are left out."""
        return self._session.unpublished_columns(self._session.tables_named(tables)) if tables else {}

    def stream_format(
        self, tables: Mapping[TableRef, TableSchema], keep_unreadable: Callable[[TableRef], bool] | None
    ) -> StreamFormat:
        """Return the format in which the server would send values, see `stream_format`."""
        load_polars()
        from dbmazz_core.connectors.sources.postgres.stream_format import stream_format

        infos = self._session.tables_named(tables)
        with self._session.translated():
            return stream_format(self._session, infos, tables, keep_unreadable)

    def column_names(self) -> dict[TableRef, tuple[str, ...]]:
        """Return the names of the captured columns of each table of the last look."""
        look = self._session.look
        return captured_column_names(look.tables, look.publication, self._session.rules)

    def catalog(self, tables: Collection[int]) -> dict[TableRef, CatalogTable]:
        """Return tables by OID as the catalog has them now, all as of one catalog snapshot."""
        return self._session.catalog(tables)

    def describe_tables(self, tables: Collection[TableRef]) -> dict[TableRef, CatalogTable]:
        """Return tables of the last look as the catalog has them now. Tables that cannot be captured are left out."""
        return self.catalog([table.oid for table in self._session.table_infos(tables)]) if tables else {}

    def are_unchanged(self, shapes: Mapping[TableRef, TableShape]) -> bool:
        """Return whether followed tables are as their shapes were recorded, see `Source.are_unchanged`."""
        recorded = {ref: shape.token and TableIdentity.from_token(shape.token) for ref, shape in shapes.items()}
        now = self.describe_tables(shapes)
        return all(ref in now and now[ref].identity == identity for ref, identity in recorded.items())

    def is_as_looked(self) -> bool:
        """Return whether a new look would find what the last one has found, see `Source.is_as_looked`."""
        return setup.read_look(self._session.connection, self.config).finds == self._session.look.finds

    def read_ahead(self, schemas: Sequence[NewSchema]) -> None:
        """Read the catalog once for the next calls of `explain`, see `Source.read_ahead`."""
        described = ((schema.description, schema.commit_lsn) for schema in schemas)
        self._session.read_ahead({d.relation: lsn for d, lsn in described if isinstance(d, RelationDescription)})

    def explain(
        self, known: TableShape, seen: NewSchema | SourceTable, *, truncated_by: int = 0
    ) -> Reshape | Resnapshot:
        """Explain how a table changed since the destination recorded its shape, see `Source.explain`."""
        committed = seen.commit_lsn if isinstance(seen, NewSchema) else INVALID_LSN
        session = self._session

        def catalog_table(oid: int) -> CatalogTable | None:
            return session.catalog_table(oid, committed)

        return explain(known, seen, catalog_table, session.layouts, last_truncate=truncated_by)

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """Raise ConfigError if a table was copied under other rules for its columns than the current rules."""
        (info,) = self._session.table_infos([table])
        self._session.rules.verify_recorded(
            TableSchema(table, recorded.columns, recorded.key, recorded.choice), [c.name for c in info.columns]
        )

    def verify_redacted(self, tables: Collection[TableRef], recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError if the current rules show a column that was redacted when its table was copied."""
        verify_redacted_tables(self._session.table_infos(tables), recorded, self._session.rules)

    def verify_redacted_in(self, table: SourceTable, recorded: Mapping[TableRef, TableToken]) -> None:
        """Raise ConfigError like `verify_redacted`, for one table that is about to be copied."""
        assert isinstance(table, CatalogTable)
        verify_redacted_table(table, recorded)

    def names_today(self, recorded: Mapping[TableRef, TableToken]) -> dict[TableRef, TableRef]:
        """Return the current names of tables by the names under which they were copied."""
        names = {table.oid: table.ref for table in self._session.look.tables}
        oids = {ref: TableIdentity.from_token(token).oid for ref, token in recorded.items()}
        return {ref: names[oid] for ref, oid in oids.items() if oid in names}

    # -- positions

    @property
    def identity(self) -> SystemIdentity:
        """The cluster, its timeline, the database, and the flush LSN when this was first read."""
        return self._session.identity

    def status(self) -> SourceStatus:
        """Return the state of the slot, and the server's position."""
        config = self._session.named_config
        with self._session.translated():
            holder = window_lock_holder(self._session.connection, config.slot)
        return source_status(config, self.slot(), self.server_lsn(), locked_by=holder and holder[0])

    def slot(self) -> SlotState | None:
        """Return the state of the replication slot, None if there is none."""
        return self._session.slot()

    def server_lsn(self) -> Lsn:
        """Return the server's WAL flush position now."""
        return self._session.server_lsn()

    position = server_lsn

    def reachable_lsn(self) -> Lsn:
        """Return the server's WAL flush position now, as a bound that the stream reaches without new writes."""
        return self._session.reachable_lsn()

    def waiting_tables(self, *, limit: int, timeout_s: float) -> frozenset[TableRef] | None:
        """Return the tables of which the slot has row changes to deliver, see `feed_status.waiting_tables`."""
        connection, config = self._session.connection, self._session.named_config
        with self._session.translated():
            return waiting_tables(connection, config.slot, config.publication_name, limit=limit, timeout_s=timeout_s)

    def verify_origin(self, checkpoint: Checkpoint, *, destination: str) -> None:
        """Raise WrongServer if the checkpoint is of another cluster or database."""
        resuming.verify_origin(self._session, checkpoint, destination=destination)

    def checkpoint_after_upgrade(self, checkpoint: Checkpoint, tables: Mapping[TableRef, TableToken]) -> Checkpoint:
        """Return the checkpoint on a server that pg_upgrade has upgraded, see `upgrade.checkpoint_after_upgrade`."""
        return upgrade.checkpoint_after_upgrade(self._session, checkpoint, tables)

    def tokens_after_upgrade(self, tables: Mapping[TableRef, TableToken]) -> dict[TableRef, TableToken]:
        """Return the new tokens of tables that are the same, see `upgrade.tokens_after_upgrade`."""
        return upgrade.tokens_after_upgrade(self._session, tables)

    def verify_position(self, checkpoint: Checkpoint, *, and_feed: bool) -> None:
        """Raise ServerBehindCheckpoint, or SlotError, if the stream cannot continue from the checkpoint."""
        resuming.verify_position(self._session, checkpoint, and_slot=and_feed)

    def mark_history(self) -> None:
        """Write a logical message in a transaction of its own, where the role and the server can."""
        resuming.mark_history(self._session)

    def resume(self, checkpoint: Checkpoint | None, *, stopped: Callable[[], bool]) -> ResumePoint:
        """Verify slot and history against the checkpoint; return where the stream resumes, see `Source.resume`."""
        return resuming.resume(self._session, checkpoint, stopped=stopped)

    # -- snapshots

    def snapshot(self, tables: Collection[TableRef], *, new_feed: bool, hurried: bool = False) -> TableSnapshot:
        """Return a snapshot of tables: that of the slot, which it creates if `new_feed`, or of a temporary slot."""
        return snapshot_tables(self._session, tables, temporary=not new_feed, hurried=hurried)

    # -- streaming into a destination

    def bound(self, start: Lsn, followed: Mapping[TableRef, FollowedTable]) -> Bound:
        """Return the upper LSN of a stream from `start`, and the tables as they are at that LSN."""
        return find_bound(self._session, start, followed)

    def is_quiet(self, start: Lsn, bound: Bound) -> bool:
        """Return whether a stream from `start` to the bound would bring nothing, see `quiet.is_quiet`."""
        quiet = is_quiet(self._session, start, bound)
        self._streamed |= quiet  # the window is complete without a stream
        return quiet

    def stream(
        self,
        start: Lsn,
        bound: Bound,
        followed: Mapping[TableRef, FollowedTable],
        *,
        keep_unreadable: Callable[[TableRef], bool] | None = None,
        watched: Mapping[TableRef, TableToken] | None = None,
        text_reason: str | None = None,
    ) -> PostgresStream:
        """Stream the changes of tables that a destination holds, see `Source.stream`.

        Raises:
            ServerChanged: The stream comes from another server than everything else.
        """
        load_polars()
        from dbmazz_core.connectors.sources.postgres.followed_tables import stream_followed_tables

        return self._keep(
            *stream_followed_tables(
                self._session,
                start,
                bound,
                followed,
                keep_unreadable=keep_unreadable,
                watched=watched or {},
                messages=self._messages,
                text_reason=text_reason,
            )
        )

    def _keep(self, stream: PostgresStream, records: RecordStream) -> PostgresStream:
        self._stream, self._records, self._streamed = stream, records, True
        return stream

    # -- streaming without a destination

    def start(self) -> None:
        """Set up the publication, the replica identities and the slot; stream from the confirmed LSN of the slot."""
        self.setup()
        lsn = confirmed_lsn(self._session.verify_slot(None))
        if lsn is None:
            with self.create_slot() as snapshot:
                lsn = snapshot.lsn
        self.start_replication_from(lsn)

    def start_replication_from(self, lsn: Lsn, *, upper_lsn: Lsn | None = None) -> PostgresStream:
        """Stream the transactions of all configured tables that committed at or after `lsn`.

        Args:
            lsn: A position that your program has stored.
            upper_lsn: Transactions that commit at or after it are left for later; None: no bound.

        Raises:
            SlotNotFound: The slot does not exist.
            SlotAheadOfCheckpoint: The slot was confirmed beyond `lsn`: the changes between are gone.
            SlotActive: Another process consumes the slot.
            ServerChanged: The stream comes from another server than everything else.
            ConfigError: The rules for columns do not fit the tables.
        """
        from dbmazz_core.connectors.sources.postgres.record_api import stream_configured_tables

        return self._keep(*stream_configured_tables(self._session, lsn, upper_lsn=upper_lsn, messages=self._messages))

    def batches(self, *, rows: int = 50_000, until: Lsn | None = None) -> Iterator[TableEvent]:
        """Yield change batches, truncations and new schemas. The events of one table come in stream order.

        The attribute `end_lsn` is the end of the last complete transaction that was yielded. Confirm it when its
        changes are durable.

        Args:
            rows: Number of row changes after which a batch ends, at the end of a transaction.
            until: The iterator ends when every transaction that committed before this LSN was yielded; None: never.
        """
        stream = self._started()
        while until is None or self.end_lsn < until:
            part = stream.next(rows=rows, size=_NO_SIZE_LIMIT, timeout=1.0)
            if part is not None:
                yield from part.events
                if part.complete and part.end_lsn is not None:
                    self.end_lsn = max(self.end_lsn, part.end_lsn)

    def records(self, *, until: Lsn | None = None) -> Iterator[CdcRecord]:
        """Return an iterator over all changes as `CdcRecord`, in stream order.

        Another call continues where the last iterator was left.

        Args:
            until: The iterator ends when every transaction that committed before this LSN was yielded; None: never.
        """
        from dbmazz_core.connectors.sources.postgres.record_api import read_records

        stream = self._started()
        assert self._records is not None
        return read_records(stream, self._records, until)

    def peek(self, limit: int) -> Iterator[CdcRecord]:
        """Yield the next changes, at most `limit`, with the records around them. Consumes nothing."""
        from dbmazz_core.connectors.sources.postgres.record_api import first_changes

        lsn = confirmed_lsn(self._session.verify_slot(None))
        if lsn is None:
            self.check().raise_first()
            return
        self.start_replication_from(lsn)
        yield from first_changes(self.records(until=self.reachable_lsn()), limit)

    def confirm_lsn(self, lsn: Lsn) -> None:
        """Acknowledge that transactions committed before `lsn` are durable: PostgreSQL may remove them. Thread-safe."""
        self._started().confirm(lsn)

    # -- ending

    def stop(self) -> None:
        """End the stream after its last acknowledgement has arrived, and close all connections.

        With `cleanup_on_stop`, the slot and the publication are dropped.
        """
        self.end_stream()
        if self._streamed and self.config.cleanup_on_stop:
            self.teardown()
        self.close()

    def end_stream(self) -> None:
        """End the stream after its last acknowledgement has arrived. The source stays usable."""
        if self._stream is not None:
            self._session.wait_until_confirmed(self._stream.reader.confirmed_lsn)
            self._stream.close()
            self._stream = None
        self._session.names = {}

    def close(self) -> None:
        """Close all connections at once. PostgreSQL sends changes that were not confirmed again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._session.close()

    def _started(self) -> PostgresStream:
        if self._stream is None:
            raise RuntimeError("the source is not streaming: call start() or start_replication_from(lsn) first")
        return self._stream
