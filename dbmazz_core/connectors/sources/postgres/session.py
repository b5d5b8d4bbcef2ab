"""`Session`: the one server that a source speaks with, and what was last read from it."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints, read_layouts
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables
from dbmazz_core.connectors.sources.postgres.catalog.source_table import read_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection, Server, connect_to
from dbmazz_core.connectors.sources.postgres.replication.connection import ReplicationConnection
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.server.state import SlotState, flush_lsn, flush_partial_record, slot_state
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.look import Look
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_slot
from dbmazz_core.connectors.sources.postgres.types import CatalogTypes, TypePolicy
from dbmazz_core.errors import SlotActive
from dbmazz_core.lsn import INVALID_LSN, Lsn
from dbmazz_core.model.checkpoint import SystemIdentity
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig
from dbmazz_core.table_ref import TableRef

#: A walsender that lost its client holds its slot for a moment; a run that follows another waits so many seconds.
SLOT_RELEASE_WAIT_S = 5.0


class Session:
    """An ordinary connection to one server, opened when first used, and reads of that server's catalog and slot.

    All methods raise DbmazzError where the server cannot be reached or refuses.

    Args:
        config: What is captured.
        snapshot: How rows are copied.
        types: Which types the user has a choice of.
        on_wait: Called with a sentence while the session waits for open transactions.

    Attributes:
        config: Like the argument; its URL names the one server, once a connection was made.
        types: Tells the types of columns.
        rules: Which columns are captured, and how they are masked.
        names: By OID: the names that the rules know streamed tables by, if they are renamed meanwhile.
    """

    def __init__(
        self,
        config: SourceConfig,
        *,
        snapshot: SnapshotConfig | None = None,
        types: TypePolicy | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        self.config = config
        self.snapshot_config = snapshot or SnapshotConfig()
        self.on_wait = on_wait
        policy = types or TypePolicy(config.numeric_as.value, lambda table, name: name in config.as_text.of(table))
        self.types = CatalogTypes(lambda: self.connection, policy, failures=self.translated)
        self.rules = ColumnRules(config)
        self.names: dict[int, TableRef] = {}
        self._url = config.url
        self._look: Look | None = None
        self._connection: Connection | None = None
        self._server: Server | None = None

    @property
    def connection(self) -> Connection:
        """An ordinary connection, for catalog queries."""
        if self._connection is None or self._connection.closed:
            self._connection, self._server = connect_to(self._server, self.config.url, text_form=True)
            # The URL may name several servers: everything else connects to the same one.
            self.config = replace(self.config, url=self._server.url)
        return self._connection

    @property
    def server(self) -> Server:
        """The one server that the first connection led to."""
        if self._server is None:
            self.connection  # noqa: B018 - it settles the server
        assert self._server is not None
        return self._server

    def close(self) -> None:
        """Close the connection. A session that is used again may speak with another server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._server, self.config, self._look = None, replace(self.config, url=self._url), None
        self.__dict__.pop("identity", None)

    # -- the last look

    def take_look(self) -> Look:
        """Read everything that check, set-up and resume have to know."""
        self._look = setup.look_at(self.connection, self.config)
        return self._look

    @property
    def look(self) -> Look:
        """The last look; the first one, if there is none yet."""
        return self._look or self.take_look()

    @look.setter
    def look(self, look: Look) -> None:
        self._look = look

    def infos(self, tables: Collection[TableRef]) -> list[TableInfo]:
        """Return tables of the last look."""
        found = {table.ref: table for table in self.look.tables}
        return [found[ref] for ref in tables if ref in found]

    # -- the catalog now

    def tables(self) -> list[TableInfo]:
        """Return the configured tables as the catalog has them."""
        with self.translated():
            return find_tables(self.connection, self.config.tables)

    def catalog(self, tables: Collection[int]) -> dict[TableRef, CatalogTable]:
        """Return tables as the catalog has them, all as of one moment.

        A table that was dropped, or cannot be captured, is left out.

        Args:
            tables: Their OIDs, whatever they are called.
        """
        with self.translated():
            return read_tables(self.connection, self.config.publication, tables, self.types, self.rules, self.names)

    def describe(self, oid: int) -> CatalogTable | None:
        """Return a table by its OID; None if it was dropped, or cannot be captured any more."""
        return next(iter(self.catalog([oid]).values()), None)

    def fingerprints(self, oids: Collection[int]) -> dict[int, Fingerprint]:
        """Return the fingerprints of the tables with these OIDs."""
        with self.translated():
            return read_fingerprints(self.connection, oids)

    def layouts(self, types: Collection[int]) -> dict[int, str]:
        """Return layouts of types by OID, see `CatalogTable.layouts`."""
        with self.translated():
            return read_layouts(self.connection, types)

    # -- positions and the slot

    @functools.cached_property
    def identity(self) -> SystemIdentity:
        """Cluster, timeline and database, and the flush LSN when first asked."""
        with self.replication("dbmazz identify") as connection:
            return connection.identify_system()

    def slot(self) -> SlotState | None:
        """Return the replication slot, None if there is none."""
        with self.translated():
            return slot_state(self.connection, self.config.slot)

    def verify_slot(self, checkpoint_lsn: Lsn | None) -> SlotState | None:
        """Return the slot, verified against the checkpoint; wait a moment for a slot that is just being released."""
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

    def server_lsn(self) -> Lsn:
        """Return the server's WAL flush position now."""
        with self.translated():
            return flush_lsn(self.connection)

    def reachable_lsn(self) -> Lsn:
        """Return the server's WAL flush position now, as a bound that the stream reaches at once on an idle server."""
        with self.translated():
            lsn = flush_lsn(self.connection)
            flush_partial_record(self.connection)
            return lsn

    def replication(self, application_name: str) -> ReplicationConnection:
        """Return a replication connection to the same server."""
        return ReplicationConnection(
            self.config.url,
            slot=self.config.slot,
            publication=self.config.publication,
            application_name=application_name,
            server=self.server,
        )

    def translated(self) -> AbstractContextManager[None]:
        """Return a context in which the server's errors become ours."""
        return translate_errors(self.config.url, slot=self.config.slot, publication=self.config.publication)


def confirmed_lsn(slot: SlotState | None) -> Lsn | None:
    """Return the confirmed LSN of a slot; None if there is no slot."""
    return None if slot is None else slot.confirmed_flush_lsn or INVALID_LSN
