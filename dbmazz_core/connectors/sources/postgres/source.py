"""`PostgresSource`: the source as an object, usable with or without a sink."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Self

import psycopg

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import (
    Fingerprint,
    read_fingerprints,
    read_layouts,
)
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables
from dbmazz_core.connectors.sources.postgres.catalog.source_table import read_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection, Server, connect_to
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.connectors.sources.postgres.parser.records import RecordStream
from dbmazz_core.connectors.sources.postgres.parser.relations import Relations
from dbmazz_core.connectors.sources.postgres.replay import wait_for_replay
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.replication.reader import StreamReader
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.server.state import (
    SlotState,
    flush_lsn,
    flush_partial_record,
    slot_state,
)
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_history, verify_slot
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.connectors.sources.postgres.snapshot.tables import TableSnapshot
from dbmazz_core.connectors.sources.postgres.stream import PostgresStream
from dbmazz_core.connectors.sources.postgres.stream_start import start_verified_stream, verify_not_promoted
from dbmazz_core.connectors.sources.postgres.types import CatalogTypes, TypePolicy
from dbmazz_core.errors import SlotActive, SlotNotFound
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import SystemIdentity
from dbmazz_core.model.findings import CheckReport, SetupReport
from dbmazz_core.model.hidden import verify_hidden
from dbmazz_core.model.identity import SourceTable, TableIdentity
from dbmazz_core.model.records import CdcRecord, CommittedTransaction
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import Bound, TableEvent
from dbmazz_core.model.table_description import ColumnDescription, TableDescription
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig
from dbmazz_core.table_ref import TableRef, quote_identifier

#: A walsender that lost its client holds its slot for a moment; a run that follows another waits that long.
SLOT_RELEASE_WAIT_S = 5.0
#: How long `stop` waits for the server to have taken the last acknowledgement.
CONFIRM_WAIT_S = 3.0
_EVERYTHING = 1 << 62


class PostgresSource:
    """Changes of PostgreSQL tables by logical replication.

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

    Connects when first needed. Not for use by several threads, but for `confirm_lsn`.

    Args:
        config: What to capture.
        messages: Whether `records` yields logical messages too.
        on_slot_wait: Called with a sentence while a slot's creation waits for open transactions.
        types: What becomes of types where there is a choice.
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
        self.config = config
        self._snapshot_config = snapshot or SnapshotConfig()
        self._url = config.url
        self.end_lsn = INVALID_LSN
        self._messages = messages
        self._on_slot_wait = on_slot_wait
        policy = types or TypePolicy(config.numeric_as.value, lambda table, name: name in config.as_text.of(table))
        self._types = CatalogTypes(lambda: self.connection, policy, failures=self._translated)
        self._rules = ColumnRules(config)
        # By OID, as the stream knows them: what the rules call them, if they are renamed meanwhile.
        self._names: dict[int, TableRef] = {}
        self._look: Look | None = None
        self._streamed = False
        self._control: Connection | None = None
        self._server: Server | None = None
        self._stream: PostgresStream | None = None
        self._records: RecordStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if exc[0] is None:
            self.stop()
        else:
            self.close()

    # -- before streaming

    @property
    def connection(self) -> Connection:
        """An ordinary connection, for catalog queries."""
        if self._control is None or self._control.closed:
            self._control, self._server = connect_to(self._server, self.config.url, text_form=True)
            # Whatever else the URL names: everything comes from this one.
            self.config = replace(self.config, url=self._server.url)
        return self._control

    @property
    def server(self) -> Server:
        """The one server that this source speaks with: where its first connection led."""
        if self._server is None:
            self.connection  # noqa: B018 - it settles the server
        assert self._server is not None
        return self._server

    def validate(self) -> CheckReport:
        """Check everything that capturing needs and change nothing; raises the first error found."""
        report = self.check()
        report.raise_first()
        return report

    def check(self) -> CheckReport:
        """Like `validate`, but errors are in the report."""
        return setup.check(self.connection, self.config)

    def setup(self) -> SetupReport:
        """Make replica identities and the publication what they have to be. Idempotent; makes no slot."""
        return setup.prepare(self.connection, self.config)[0]

    def connect(self) -> None:
        """Connect, unless it is: raises what a server that cannot be reached, or refuses the login, has to say."""
        self.connection  # noqa: B018

    def look(self) -> Look:
        """Everything that check, set-up and resuming have to know of the source, read once.

        Other methods that are given names of tables take them from the last look.

        Raises:
            UnsupportedServerVersion: Nothing else can be looked at then.
        """
        self._look = setup.look_at(self.connection, self.config)
        return self._look

    def check_look(self, *, captured: Collection[TableRef] = ()) -> CheckReport:
        """What `check` finds in the last look.

        Args:
            captured: Tables that the destination already holds and follows.
        """
        return setup.check_look(self._looked().following(captured))

    def prepare(self, *, captured: Collection[TableRef] = ()) -> tuple[SetupReport, Look]:
        """Like `setup`, which has nothing to do where the last look needs nothing; and a look at what it is then."""
        report, self._look = setup.prepare(self.connection, self.config, captured=captured, look=self._looked())
        return report, self._look

    def _looked(self) -> Look:
        return self._look or self.look()

    def _infos(self, tables: Collection[TableRef]) -> list[TableInfo]:
        """Tables of the last look."""
        found = {table.ref: table for table in self._looked().tables}
        return [found[ref] for ref in tables if ref in found]

    @functools.cached_property
    def identity(self) -> SystemIdentity:
        """Cluster, timeline and database, and the flush LSN when first asked."""
        with self._replication("dbmazz identify") as connection:
            return connection.identify_system()

    def tables(self) -> list[TableInfo]:
        """The configured tables as the catalog has them."""
        with self._translated():
            return find_tables(self.connection, self.config.tables)

    def table_descriptions(self) -> list[TableDescription]:
        """The configured tables, each with the columns that are captured."""
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
            for choice, masks in [(self._rules.choice(table.ref), self.config.masks.of(table.ref))]
        ]

    def column_names(self) -> dict[TableRef, tuple[str, ...]]:
        """The columns of each table that are captured, or will be once the publication has the table."""
        look = self._looked()
        publication = look.publication
        return {
            table.ref: tuple(
                name
                for name in (publication.columns_of(table) if publication else [c.name for c in table.columns])
                if self._rules.choice(table.ref).keeps(name)
            )
            for table in look.tables
        }

    def catalog(self, tables: Collection[int]) -> dict[TableRef, SourceTable]:
        """Tables as the catalog has them now: what is captured of them, and what they are.

        All of it as of one moment. A table that is gone, or cannot be captured, is left out.

        Args:
            tables: Their OIDs, whatever they are called.
        """
        with self._translated():
            return read_tables(self.connection, self.config.publication, tables, self._types, self._rules, self._names)

    def describe_tables(self, tables: Collection[TableRef]) -> dict[TableRef, SourceTable]:
        """Tables as the catalog has them now, see `catalog`."""
        return self.catalog([table.oid for table in self._infos(tables)]) if tables else {}

    def fingerprints(self, oids: Collection[int]) -> dict[int, Fingerprint]:
        """What the tables with these OIDs are."""
        with self._translated():
            return read_fingerprints(self.connection, oids)

    def layouts(self, types: Collection[int]) -> dict[int, str]:
        """Layouts of types by OID, see `SourceTable.layouts`."""
        with self._translated():
            return read_layouts(self.connection, types)

    def describe(self, oid: int) -> SourceTable | None:
        """A table by its OID, as the catalog has it now; None if it is gone, or cannot be captured any more."""
        return next(iter(self.catalog([oid]).values()), None)

    def verify_rules(self, table: TableRef, recorded: TableSchema) -> None:
        """Raise ConfigError if a table was copied under other rules for its columns than today's.

        Args:
            table: The table.
            recorded: As it was copied.
        """
        (info,) = self._infos([table])
        self._rules.verify_recorded(replace(recorded, table=table), [column.name for column in info.columns])

    def verify_hidden(self, table: TableRef, copied_as: TableRef, identity: TableIdentity) -> None:
        """Raise ConfigError if today's rules show a column that was hidden when a table was copied.

        Args:
            table: The table.
            copied_as: What it was called when it was copied.
            identity: What it was.
        """
        (info,) = self._infos([table])
        columns = {column.name: column.number for column in info.columns}
        captured = {number: name for name, number in columns.items()}
        hidden = self._rules.hidden(table, columns)
        verify_hidden(copied_as, identity.hidden or (), table, captured, hidden)

    def slot(self) -> SlotState | None:
        """The replication slot, None if there is none."""
        with self._translated():
            return slot_state(self.connection, self.config.slot)

    def server_lsn(self) -> Lsn:
        """The server's WAL flush position now."""
        with self._translated():
            return flush_lsn(self.connection)

    def reachable_lsn(self) -> Lsn:
        """The server's WAL flush position now, as a bound: the stream comes to it at once, if nothing else happens."""
        with self._translated():
            lsn = flush_lsn(self.connection)
            flush_partial_record(self.connection)
            return lsn

    def has_changes(self, *, timeout_s: float) -> bool:
        """Whether a transaction with changes waits in the slot; yes if the server needs longer than that to look."""
        # The peek ends behind the first transaction that yields anything; before version 15 that may be one without
        # changes for the publication, sent as an empty BEGIN and COMMIT.
        some = 1 if self.connection.info.server_version >= 150000 else 10_000
        with self._translated(), self.connection.transaction():
            self.connection.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}".encode())
            try:
                row = self.connection.execute(
                    "SELECT count(*) FROM pg_catalog.pg_logical_slot_peek_binary_changes(%s, NULL, %s, "
                    "'proto_version', '1', 'publication_names', %s) "
                    "WHERE pg_catalog.get_byte(data, 0) IN (68, 73, 84, 85)",  # D, I, T, U
                    [self.config.slot, some, quote_identifier(self.config.publication)],
                ).fetchone()
            except psycopg.errors.QueryCanceled:
                return True
        return bool(row and row[0])

    def verify_slot(self, checkpoint_lsn: Lsn | None) -> SlotState | None:
        """The slot, checked against the checkpoint; waits a moment for one that is just being released."""
        deadline = time.monotonic() + SLOT_RELEASE_WAIT_S
        while True:
            state = self.slot()
            try:
                verify_slot(state, self.config, checkpoint_lsn, database=self.connection.info.dbname)
            except SlotActive:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
            else:
                return state

    def verify_history(self, lsn: Lsn, timeline: int) -> None:
        """Raise ServerBehindCheckpoint unless the server's WAL leads to this position and on from there."""
        identity = self.identity
        left: dict[int, Lsn] = {}
        if identity.timeline > max(timeline, 1):
            with self._replication("dbmazz identify") as connection:
                left = connection.timeline_history(identity.timeline)
        verify_history(lsn, timeline, self.server_lsn(), identity.timeline, left)

    def verify_replay(
        self, last: CommittedTransaction, slot: SlotState, checkpoint: Lsn, stopped: Callable[[], bool]
    ) -> bool:
        """Make sure that the server's history has the last transaction that was applied.

        It costs something only where the slot is not past it: after a crash, or where the server was put back.

        Args:
            last: The transaction.
            slot: The slot.
            checkpoint: The destination's.
            stopped: Whether to give up.

        Returns:
            False if it was given up.

        Raises:
            HistoryDiverged: If it has not.
        """
        if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
            return True
        reader, slot = self._stream_from(last.commit_lsn, checkpoint=checkpoint)
        try:
            if (slot.confirmed_flush_lsn or INVALID_LSN) > last.commit_lsn:
                return True  # moved past it just now, and not past the checkpoint
            return wait_for_replay(reader, last, slot=self.config.slot, stopped=stopped)
        finally:
            reader.close()

    def create_slot(self) -> ExportedSnapshot:
        """Create the slot; its exported snapshot shows the tables as of the slot's start."""
        return ExportedSnapshot.create(
            self.config, self.connection, self.server, temporary=False, on_wait=self._on_slot_wait
        )

    def snapshot(self, tables: Collection[TableRef], *, new_slot: bool) -> TableSnapshot:
        """Tables as of one position, see `Source.snapshot`: of the slot, which is created, or of a temporary one."""
        published = {ref: table.identity.published for ref, table in self.describe_tables(tables).items()}
        exported = ExportedSnapshot.create(
            self.config, self.connection, self.server, temporary=not new_slot, on_wait=self._on_slot_wait
        )
        try:
            return TableSnapshot(
                exported, self._infos(tables), published, self.catalog, self.fingerprints, self._snapshot_config
            )
        except BaseException:
            exported.close()
            raise

    def bound(self, tables: Collection[TableRef], known: Mapping[TableRef, TableIdentity]) -> Bound:
        """Where the server is now, and the tables that are known to be so there, see `Source.bound`."""
        oids = [table.oid for table in self._infos(tables)]
        lsn, now = self.reachable_lsn(), self.catalog(oids)
        if not all(ref in known and known[ref].is_as(table.identity) for ref, table in now.items()):
            # Not as they have been all the while. What is alike before and behind the bound, is so at it.
            before = now
            lsn, now = self.reachable_lsn(), self.catalog(oids)
            now = {ref: table for ref, table in now.items() if ref in before and table.identity == before[ref].identity}
        return Bound(
            lsn, now, frozenset(ref for ref, table in now.items() if ref in known and _same_key(known[ref], table))
        )

    def stream_end(self, lsn: Lsn, copies: Mapping[TableRef, Lsn]) -> Lsn | None:
        """Where a stream that begins at `lsn` has to end, and another one to begin, see `Source.stream_end`.

        To PostgreSQL 14 a table that it has decoded while it was not published stays so for the rest of the session,
        also when it becomes a partition of one that is (pgoutput.c, rel_sync_cache_relation_cb). At the end of a window
        that shows, and the root is copied anew; not if the copy has seen the partition already. So no session that
        begins before a copy goes on behind it.
        """
        if self.connection.info.server_version >= 150000:
            return None
        roots = (table.ref for table in self._infos(copies) if table.is_partitioned)
        behind = (copies[ref] for ref in roots if copies[ref] > lsn)
        return max(behind, default=None)

    def teardown(self) -> list[str]:
        """Drop slot and publication; says what it did."""
        return setup.teardown(self.connection, self.config)

    # -- streaming

    def start(self) -> None:
        """Set up what is missing, the slot too, and stream from the slot's confirmed LSN."""
        self.setup()
        state = self.verify_slot(None)
        if state is None:
            with self.create_slot() as snapshot:
                lsn = snapshot.lsn
        else:
            lsn = state.confirmed_flush_lsn or INVALID_LSN
        self.start_replication_from(lsn)

    def start_replication_from(
        self,
        lsn: Lsn,
        *,
        upper_lsn: Lsn | None = None,
        tables: Collection[TableRef] | None = None,
        table_start: Mapping[TableRef, Lsn] | None = None,
        schemas: Mapping[TableRef, TableSchema] | None = None,
        identities: Mapping[TableRef, TableIdentity] | None = None,
        same_keys: Collection[TableRef] = (),
        lenient: Callable[[TableRef], bool] | None = None,
    ) -> PostgresStream:
        """Stream transactions committed at or after `lsn`.

        Args:
            lsn: Usually a checkpoint.
            upper_lsn: Transactions committed at or after it are left for later.
            tables: The captured tables, of the last look; by default all that are configured now.
            table_start: Tables whose changes start later, because their snapshot is newer.
            schemas: The tables to stream, as they were when they were copied; by default all that are configured.
            identities: What these were, so that they are followed under their name whatever they are called now.
            same_keys: Those of `schemas` whose key has been the same columns, under the same names, since they were
                recorded and until the upper LSN.
            lenient: Of which tables the change batches keep bad values apart, see `RowImages.unreadable`.

        Raises:
            SlotAheadOfCheckpoint: If the slot was confirmed beyond `lsn`: the changes between are gone.
            SlotActive: If another process consumes the slot.
            ServerChanged: If the stream comes from another server than everything else.
            ConfigError: If the rules for columns do not fit the tables.
        """
        state = self.verify_slot(lsn)
        if state is None:
            raise SlotNotFound(
                f"replication slot {self.config.slot} does not exist",
                object=self.config.slot,
                remedy="create it: dbmazz setup",
            )
        infos = self.tables() if tables is None else self._infos(tables)
        for problem in self._rules.problems(infos):
            raise problem
        keys: dict[TableRef, tuple[str, ...] | None] = {table.ref: table.key for table in infos}
        names = {table.oid: table.ref for table in infos}
        if schemas is not None:
            # The catalog has the key of today. Where it had another one, or none, changes of that time may still be to
            # come, and under REPLICA IDENTITY FULL they do not say; without a key they are right whatever it was.
            known = identities or {}
            names = {identity.oid: ref for ref, identity in known.items()}
            keys = {
                table.ref: table.key
                if table.key == schemas[table.ref].key and (table.ref not in known or table.ref in same_keys)
                else None
                for table in infos
                if table.ref in schemas
            }
        self._names = names
        relations = Relations(
            captured=keys.__contains__,
            keys=keys,
            types=self._types,
            names=names,
            keep_names=schemas is not None,
            rules=self._rules,
            recorded=schemas,
            columns={table.ref: [column.name for column in table.columns] for table in infos},
            lenient=lenient,
            partitions={table.oid: () for table in infos if table.is_partitioned}
            | {identity.oid: identity.partitions for identity in (identities or {}).values() if identity.partitions},
        )
        self._records = RecordStream(relations, lsn, dict(table_start or {}))
        reader, _ = self._stream_from(lsn)
        reader.start_acknowledging(lsn)
        self._streamed = True
        self._stream = PostgresStream(
            reader,
            relations,
            start_lsn=lsn,
            table_start=table_start,
            upper_lsn=upper_lsn,
            verify=self._verify_not_promoted if self.server.in_recovery else None,
        )
        return self._stream

    def _verify_not_promoted(self) -> None:
        with self._translated():
            verify_not_promoted(self.connection, self.server)

    def _stream_from(self, lsn: Lsn, *, checkpoint: Lsn | None = None) -> tuple[StreamReader, SlotState]:
        """See `start_verified_stream`."""
        messages = self._messages and self.connection.info.server_version >= 140000
        with self._translated():
            return start_verified_stream(
                self.config, self.connection, self.server, lsn, checkpoint=checkpoint, messages=messages
            )

    def batches(self, *, rows: int = 50_000, until: Lsn | None = None) -> Iterator[TableEvent]:
        """Change batches, truncations and new schemas as they come; those of one table are in stream order.

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
        """Every change as a `CdcRecord`, in stream order. Called again, it goes on where it was left.

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

    def confirm_lsn(self, lsn: Lsn) -> None:
        """Acknowledge that everything committed before `lsn` is durable: PostgreSQL may forget it. From any thread."""
        self._started().confirm(lsn)

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
        self._names = {}

    def close(self) -> None:
        """Close all connections at once. What was not confirmed comes again."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._control is not None:
            self._control.close()
            self._control = None
        # Used again, it is another run, which may speak with another server.
        self._server, self.config, self._look = None, replace(self.config, url=self._url), None
        self.__dict__.pop("identity", None)

    def _await_confirmed(self, lsn: Lsn) -> None:
        """Wait until the server has taken the acknowledgement; if it does not, the checkpoint still knows."""
        deadline = time.monotonic() + CONFIRM_WAIT_S
        while time.monotonic() < deadline:
            state = self.slot()
            if state is None or not state.active or (state.confirmed_flush_lsn or INVALID_LSN) >= lsn:
                return
            time.sleep(0.02)

    def _started(self) -> PostgresStream:
        if self._stream is None:
            raise RuntimeError("the source is not streaming: call start() or start_replication_from(lsn) first")
        return self._stream

    def _replication(self, application_name: str) -> ReplicationConnection:
        return ReplicationConnection(
            self.config.url,
            slot=self.config.slot,
            publication=self.config.publication,
            application_name=application_name,
            server=self.server,
        )

    def _translated(self) -> AbstractContextManager[None]:
        return translate_errors(self.config.url, slot=self.config.slot, publication=self.config.publication)


def _same_key(known: TableIdentity, now: SourceTable) -> bool:
    """Whether a table's key has been of the same index, and its columns have had their names, all the while."""
    versions = {(column.number, column.name, column.version) for column in known.columns}
    return known.key_index == now.identity.key_index and all(
        (column.number, column.name, column.version) in versions
        for column in now.identity.columns
        if column.name in now.schema.key
    )
