"""The exported snapshot of a new replication slot, with a known LSN, from which tables are copied."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints
from dbmazz_core.connectors.sources.postgres.connection import LOCK_TIMEOUT_S, Connection, Server, connect_to
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
    from dbmazz_core.connectors.sources.postgres.snapshot.columns import ColumnOutput
    from dbmazz_core.connectors.sources.postgres.snapshot.resumable import PostgresResumableCopy
    from dbmazz_core.connectors.sources.postgres.snapshot.workers import PageRange, SnapshotWorkers, TableCopy

#: Seconds that the creation of a slot waits for open transactions before it reports them.
REPORT_WAIT_AFTER_S = 2.0
#: Seconds that the creation of a slot waits for open transactions before it gives up.
MAX_WAIT_S = 60.0
#: The same, where other tables wait.
HURRIED_WAIT_S = 5.0
#: Seconds that reading a table waits for its lock, where other tables wait.
_HURRIED_LOCK_TIMEOUT_S = 3


class ExportedSnapshot:
    """All tables as of one LSN: the snapshot contains exactly the transactions whose commit record lies before `lsn`.

    Use it as a context manager; the snapshot ends with it. `PostgresSource.create_slot` creates it.

    Attributes:
        lsn: The slot's consistent point.
    """

    def __init__(
        self,
        connection: Connection,
        server: Server,
        config: SourceConfig,
        replication: ReplicationConnection,
        *,
        lock_timeout_s: int,
    ) -> None:
        self.lsn = Lsn(0)
        self._connection = connection
        self._server = server
        self._config = config
        self._replication = replication
        self._name = ""
        self._workers: SnapshotWorkers | None = None
        self._lock_timeout_s = lock_timeout_s

    @classmethod
    def create(
        cls,
        config: SourceConfig,
        connection: Connection,
        server: Server,
        *,
        temporary: bool,
        hurried: bool = False,
        on_wait: Callable[[str], None] | None = None,
    ) -> Self:
        """Create a slot and export its snapshot.

        Args:
            config: Settings of the source, with the slot's name.
            connection: An ordinary connection, for the catalog.
            server: The server that `connection` leads to.
            temporary: Whether the slot is a temporary one of another name, which is dropped with the snapshot.
            hurried: Whether to wait only for a few seconds for open transactions and locks.
            on_wait: Called with a sentence while the creation waits for open transactions.

        Raises:
            SlotCreationBlocked: The creation waited for `MAX_WAIT_S`, or `HURRIED_WAIT_S`; the error names the open
                transactions.
        """
        replication = ReplicationConnection(
            config.url,
            slot=config.slot,
            publication=config.publication_name,
            application_name="dbmazz snapshot",
            server=server,
        )
        lock_timeout_s = _HURRIED_LOCK_TIMEOUT_S if hurried else LOCK_TIMEOUT_S
        snapshot = cls(connection, server, config, replication, lock_timeout_s=lock_timeout_s)
        longest = HURRIED_WAIT_S if hurried else MAX_WAIT_S

        def report(seconds: float) -> None:
            blockers = slot_creation_blockers(connection)
            if seconds >= longest:
                raise slot_creation_blocked(config.slot, blockers, seconds, standby=server.in_recovery)
            if on_wait is not None and blockers:
                on_wait(f"creating replication slot {config.slot} waits for {blockers[0]}")
            elif on_wait is not None and server.in_recovery:
                on_wait(
                    f"creating replication slot {config.slot} waits for the primary to log its open transactions; to "
                    f"log them now, run on the primary: {LOG_STANDBY_SNAPSHOT}"
                )

        try:
            name = f"{config.slot[:40]}_copy_{os.getpid()}_{time.monotonic_ns() % 10**6}" if temporary else config.slot
            created = replication.create_slot(name, temporary=temporary, on_wait=report, wait_s=REPORT_WAIT_AFTER_S)
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
        """Return the fingerprints of tables as of the snapshot, by OID. Call this before `rows`.

        Raises:
            SourceError: A query failed.
        """
        config = self._config
        connection, _ = connect_to(self._server, config.url, application_name="dbmazz snapshot", text_form=True)
        with (
            connection,
            translate_errors(config.url, slot=config.slot, publication=config.publication_name),
        ):
            connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{self._name}'".encode())
            return read_fingerprints(connection, oids)

    def column_outputs(self, tables: Collection[int]) -> dict[int, list[ColumnOutput]]:
        """Return the columns of tables with the output functions of their types, by OID of the table."""
        from dbmazz_core.connectors.sources.postgres.snapshot.columns import column_outputs

        with translate_errors(self._config.url, slot=self._config.slot, publication=self._config.publication_name):
            return column_outputs(self._connection, tables)

    def rows(
        self,
        table: TableInfo,
        schema: TableSchema,
        row_filter: str | None,
        outputs: Collection[ColumnOutput],
        config: SnapshotConfig,
        *,
        keep_unreadable: bool,
    ) -> Iterator[CopiedRows]:
        """Yield all published rows of a table, in any order.

        Args:
            table: The table.
            schema: The captured columns.
            row_filter: The publication's condition for rows.
            outputs: The table's columns as `column_outputs` returns them.
            config: Settings of copies.
            keep_unreadable: Whether texts that are no values of their column's type are yielded rather than raised.

        Raises:
            SourceError: A query failed.
            BadValue: A text is no value of its column's type.
        """
        copy = self._table_copy(table, schema, row_filter, outputs, keep_unreadable=keep_unreadable)
        return self._connected(config).rows(copy, _ranges(table, config))

    def resumable(
        self,
        table: TableInfo,
        schema: TableSchema,
        row_filter: str | None,
        outputs: Collection[ColumnOutput],
        config: SnapshotConfig,
        same: Callable[[Server], Mapping[str, object]],
    ) -> PostgresResumableCopy | None:
        """Return the copy of a table that another run can resume; None if the table is small, or has no plain key.

        Args:
            table, schema, row_filter, outputs, config: See `rows`.
            same: Returns what must be the same for a copy to be resumed, see `resumable.same_copy`.

        Raises:
            SourceError: A query failed.
        """
        from dbmazz_core.connectors.sources.postgres.snapshot.resumable import (
            MIN_RANGES,
            PostgresResumableCopy,
            has_plain_key,
            snapshot_xids,
        )

        ranges = _ranges(table, config)
        if len(ranges) < MIN_RANGES or not has_plain_key(schema):
            return None
        copy = self._table_copy(table, schema, row_filter, outputs, keep_unreadable=False)
        key = replace(schema, columns=tuple(schema.columns[place] for place in sorted(schema.key_places)))
        keys = self._table_copy(table, key, row_filter, outputs, keep_unreadable=False)
        workers = self._connected(config)
        xids = snapshot_xids(workers, table.ref)
        return PostgresResumableCopy(workers, copy, keys, ranges, self.lsn, xids, same(self._server))

    def _connected(self, config: SnapshotConfig) -> SnapshotWorkers:
        """Return the connections that read tables."""
        from dbmazz_core.connectors.sources.postgres.snapshot.workers import SnapshotWorkers

        if self._workers is None:
            # `config.url` names the exporting server; another server does not have the snapshot.
            self._workers = SnapshotWorkers(
                self._server,
                self._config.url,
                self._name,
                workers=config.workers,
                lock_timeout_s=self._lock_timeout_s,
            )
        return self._workers

    def _table_copy(
        self,
        table: TableInfo,
        schema: TableSchema,
        row_filter: str | None,
        outputs: Collection[ColumnOutput],
        *,
        keep_unreadable: bool,
    ) -> TableCopy:
        """Return how the rows of a table are read."""
        # Imported when rows are copied: a window without a copy needs no numpy.
        from dbmazz_core.connectors.sources.postgres.snapshot.columns import copied_columns, select_query
        from dbmazz_core.connectors.sources.postgres.snapshot.planning import path_to_plan
        from dbmazz_core.connectors.sources.postgres.snapshot.workers import PageRange, TableCopy, restrict

        # The rows of partitions belong to their root. The rows of inheritance children do not belong to their parent.
        maskers = ColumnRules(self._config).maskers(table.ref)
        # A row in quarantine is kept as PostgreSQL's texts.
        columns = copied_columns(outputs, schema, maskers, typed=not keep_unreadable)
        with translate_errors(self._config.url, slot=self._config.slot, publication=self._config.publication_name):
            query = select_query(columns, schema, only=not table.is_partitioned).as_string(self._connection)
            whole = restrict(query, PageRange(0, None), row_filter)
            planned_with = path_to_plan(self._connection, whole, table.ref, self._config.url)
        return TableCopy(schema, columns, query, row_filter, planned_with, keep_unreadable)


def _ranges(table: TableInfo, config: SnapshotConfig) -> list[PageRange]:
    """Return the ranges in which a table is read."""
    from dbmazz_core.connectors.sources.postgres.snapshot.workers import PageRange, page_ranges

    # A range is a condition on `ctid`, and only the privilege for the whole table includes system columns.
    if table.is_partitioned or not table.readable:
        return [PageRange(0, None)]
    return page_ranges(table.pages, table.estimated_rows, config.chunk_size)
