"""An exported snapshot with a known LSN: what a new slot gives, for copying tables."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Self

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints
from dbmazz_core.connectors.sources.postgres.catalog.publication import published_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection, Server, connect_to
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.server.blockers import (
    LOG_STANDBY_SNAPSHOT,
    slot_creation_blocked,
    slot_creation_blockers,
)
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.snapshot.workers import SnapshotWorkers

#: Creating a slot waits for open transactions; after that long, say which, and give up in the end.
SAY_AFTER_S = 2.0
GIVE_UP_AFTER_S = 60.0


class ExportedSnapshot:
    """All tables as of `lsn`: a transaction is in it exactly if its commit record lies before.

    Use as a context manager; the snapshot ends with it. Made by `PostgresSource.create_slot` and `export_snapshot`.

    Attributes:
        lsn: The slot's consistent point.
    """

    def __init__(
        self, connection: Connection, server: Server, config: SourceConfig, replication: ReplicationConnection
    ) -> None:
        self.lsn = Lsn(0)
        self._connection = connection
        self._server = server
        self._config = config
        self._replication = replication
        self._name = ""
        self._workers: SnapshotWorkers | None = None

    @classmethod
    def create(
        cls,
        config: SourceConfig,
        connection: Connection,
        server: Server,
        *,
        temporary: bool,
        on_wait: Callable[[str], None] | None = None,
    ) -> Self:
        """Create a slot and export its snapshot.

        Args:
            config: Names the slot.
            connection: An ordinary connection, for the catalog.
            server: The server that it leads to.
            temporary: A slot of another name that goes away with the snapshot, instead of the configured one.
            on_wait: Called with a sentence while the creation waits for open transactions.

        Raises:
            SlotCreationBlocked: If it waited for too long; names the transactions.
        """
        replication = ReplicationConnection(
            config.url,
            slot=config.slot,
            publication=config.publication,
            application_name="dbmazz snapshot",
            server=server,
        )
        snapshot = cls(connection, server, config, replication)

        def waiting(seconds: float) -> None:
            blockers = slot_creation_blockers(connection)
            if seconds >= GIVE_UP_AFTER_S:
                raise slot_creation_blocked(config.slot, blockers, seconds, standby=server.in_recovery)
            if on_wait is not None and blockers:
                on_wait(f"creating replication slot {config.slot} waits for {blockers[0]}")
            elif on_wait is not None and server.in_recovery:
                on_wait(
                    f"creating replication slot {config.slot} waits for the primary to log its open transactions; to "
                    f"have it do so now, on the primary: {LOG_STANDBY_SNAPSHOT}"
                )

        try:
            name = f"{config.slot[:40]}_copy_{os.getpid()}_{time.monotonic_ns() % 10**6}" if temporary else config.slot
            created = replication.create_slot(name, temporary=temporary, on_wait=waiting, wait_s=SAY_AFTER_S)
        except BaseException:
            replication.close()
            raise
        snapshot.lsn, snapshot._name = created.consistent_point, created.snapshot_name
        return snapshot

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the snapshot."""
        if self._workers is not None:
            self._workers.close()
        self._replication.close()

    def fingerprints(self, oids: Collection[int]) -> dict[int, Fingerprint]:
        """What tables were as of the snapshot. To be called before `frames`.

        Raises:
            SourceError: If reading fails.
        """
        config = self._config
        connection, _ = connect_to(self._server, config.url, application_name="dbmazz snapshot", text_form=True)
        with (
            connection,
            translate_errors(config.url, slot=config.slot, publication=config.publication),
        ):
            connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{self._name}'".encode())
            return read_fingerprints(connection, oids)

    def rows(
        self, table: TableInfo, schema: TableSchema, config: SnapshotConfig, *, keep_unreadable: bool
    ) -> Iterator[CopiedRows]:
        """All rows that are published of a table, in any order.

        Args:
            table: The table.
            schema: The columns that are wanted.
            config: How it is read.
            keep_unreadable: Whether texts that are no values are let through.

        Raises:
            SourceError: If reading fails.
            BadValue: If a text is none of its column's type.
        """
        # Loaded when rows are copied: ADBC takes a while.
        from dbmazz_core.connectors.sources.postgres.snapshot.workers import (
            PageRange,
            SnapshotWorkers,
            page_ranges,
            select_query,
        )

        if self._workers is None:
            # All of them are pinned before the first row is read; from then on the exporting connection may go. Another
            # server has no snapshot of that name.
            self._workers = SnapshotWorkers(
                self._config.url, self._replication.server_version, self._name, workers=config.parallel_workers
            )
        # Partitions are their root's rows; inheritance children are not their parent's.
        maskers = ColumnRules(self._config).maskers(table.ref)
        with translate_errors(self._config.url, slot=self._config.slot, publication=self._config.publication):
            query = select_query(self._connection, schema, only=not table.is_partitioned, maskers=maskers)
            published = published_tables(self._connection, self._config.publication, [table]).get(table.ref)
        ranges = (
            [PageRange(0, None)]
            if table.is_partitioned
            else page_ranges(table.pages, table.estimated_rows, config.chunk_size)
        )
        return self._workers.rows(
            schema,
            query.as_string(self._connection),
            ranges,
            maskers,
            row_filter=published.row_filter if published else None,
            keep_unreadable=keep_unreadable,
        )
