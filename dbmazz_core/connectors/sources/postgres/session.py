"""`Session`: the connection of a source to one server, and the last look at its catalog."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from dbmazz_core.connectors.sources.postgres.catalog.captured_columns import unpublished_columns
from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.column_choice import ColumnRules
from dbmazz_core.connectors.sources.postgres.catalog.column_facts import read_layouts
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint, read_fingerprints
from dbmazz_core.connectors.sources.postgres.catalog.publication import read_publication
from dbmazz_core.connectors.sources.postgres.catalog.publication_name import with_publication_name
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables, find_tables_by_name
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

#: Seconds to wait for the release of the slot: a walsender that lost its client holds its slot for a moment.
SLOT_RELEASE_WAIT_S = 5.0
#: Seconds to wait until the server has processed the last acknowledgement.
CONFIRM_WAIT_S = 3.0


class Session:
    """An ordinary connection to one server, opened when first used, with queries of the server's catalog and slot.

    All methods raise DbmazzError if the server cannot be reached or refuses.

    Args:
        config: Settings of the source.
        snapshot: Settings of copies; None: the defaults.
        types: The user's choices of types; None: those of `config`.
        on_wait: Called with a sentence while the session waits for open transactions.

    Attributes:
        config: The argument; once connected, its URL names the one server; it has the publication's name once that is
            known, see `named_config`.
        snapshot_config: Settings of copies.
        on_wait: The argument.
        types: Resolves the types of columns.
        rules: The rules for columns.
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
        self._names: dict[int, TableRef] = {}
        self._catalog_tables: dict[int, tuple[Lsn, CatalogTable | None]] = {}
        self._url, self._publication = config.url, config.publication
        self._look: Look | None = None
        self._infos: dict[TableRef, TableInfo] = {}
        self._connection: Connection | None = None
        self._server: Server | None = None

    @property
    def connection(self) -> Connection:
        """The ordinary connection, for catalog queries; opened if it is not open."""
        if self._connection is None or self._connection.closed:
            self._connection, self._server = connect_to(self._server, self.config.url, text_form=True)
            # The URL may name several servers. All other connections must lead to the same one.
            self.config = replace(self.config, url=self._server.url)
        return self._connection

    @property
    def server(self) -> Server:
        """The server that the first connection led to."""
        if self._server is None:
            self.connection  # noqa: B018 - connecting chooses the server
        assert self._server is not None
        return self._server

    def close(self) -> None:
        """Close the connection. A session that is used again may connect to another server."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._server, self._look = None, None
        self.config = replace(self.config, url=self._url, publication=self._publication)
        self._catalog_tables = {}
        self.__dict__.pop("identity", None)

    @property
    def names(self) -> dict[int, TableRef]:
        """By OID, the names under which the rules know the streamed tables, which may be renamed meanwhile."""
        return self._names

    @names.setter
    def names(self, names: dict[int, TableRef]) -> None:
        self._names, self._catalog_tables = names, {}

    @property
    def named_config(self) -> SourceConfig:
        """The settings with the publication's name, which stays the same until the session is closed.

        A look finds the name on its way; without one, the server is asked.
        """
        if self.config.publication is None:
            with self.translated():
                self._name_publication(with_publication_name(self.connection, self.config).publication_name)
        return self.config

    def _name_publication(self, name: str) -> None:
        if self.config.publication != name:
            self.config = replace(self.config, publication=name)
            self.rules = ColumnRules(self.config)

    # -- the last look

    def read_look(self) -> Look:
        """Read everything that check, setup and resume need from the catalog, and keep it."""
        self.look = setup.read_look(self.connection, self.config)
        return self.look

    @property
    def look(self) -> Look:
        """The last look at the catalog; read now if there is none yet."""
        return self._look or self.read_look()

    @look.setter
    def look(self, look: Look) -> None:
        self._look, self._infos = look, {table.ref: table for table in look.resolution.tables}
        self._name_publication(look.config.publication_name)

    def table_infos(self, tables: Collection[TableRef]) -> list[TableInfo]:
        """Return tables of the last look by name, also excluded ones. Tables that it did not find are left out."""
        if self._look is None:
            self.read_look()
        return [self._infos[ref] for ref in tables if ref in self._infos]

    # -- the catalog now

    def tables(self) -> list[TableInfo]:
        """Return the configured tables as the catalog has them now."""
        with self.translated():
            return find_tables(self.connection, self.config.tables)

    def tables_named(self, names: Collection[TableRef]) -> tuple[TableInfo, ...]:
        """Return tables as the catalog has them now. Tables that do not exist or cannot be captured are left out."""
        with self.translated():
            return find_tables_by_name(self.connection, names)

    def unpublished_columns(self, tables: Collection[TableInfo]) -> dict[TableRef, tuple[str, ...]]:
        """Return the columns that the server does not send, see `captured_columns.unpublished_columns`."""
        with self.translated():
            connection = self.connection
            only = [table.ref for table in tables]
            publication = read_publication(connection, self.named_config.publication_name, only=only)
        return unpublished_columns(tables, publication, self.rules, connection.info.server_version)

    def catalog(self, tables: Collection[int]) -> dict[TableRef, CatalogTable]:
        """Return tables as the catalog has them now, all as of one catalog snapshot.

        A table that was dropped, or cannot be captured, is left out.

        Args:
            tables: OIDs of the tables.
        """
        publication = self.named_config.publication_name
        with self.translated():
            return read_tables(self.connection, publication, tables, self.types, self.rules, self.names)

    def catalog_table(self, oid: int, committed: Lsn) -> CatalogTable | None:
        """Return a table as the catalog has it after a transaction; None if it was dropped, or cannot be captured.

        The catalog is read once for all transactions that had committed at that time: the stream describes a
        partitioned table before the changes of each of its partitions.

        Args:
            oid: OID of the table.
            committed: Commit LSN of the transaction.
        """
        read = self._catalog_tables.get(oid)
        if read is None or read[0] <= committed:
            # Before the catalog: a transaction that commits in between is not relied on.
            lsn = self.server_lsn()
            read = self._catalog_tables[oid] = lsn, next(iter(self.catalog([oid]).values()), None)
        return read[1]

    def read_ahead(self, tables: Mapping[int, Lsn]) -> None:
        """Read tables together for the next calls of `catalog_table`.

        Args:
            tables: By OID of the table, the commit LSN of the transaction.
        """
        known = self._catalog_tables
        missing = [oid for oid, committed in tables.items() if oid not in known or known[oid][0] <= committed]
        if len(missing) > 1:
            lsn = self.server_lsn()
            found = {table.identity.oid: table for table in self.catalog(missing).values()}
            known |= {oid: (lsn, found.get(oid)) for oid in missing}

    def fingerprints(self, oids: Collection[int]) -> dict[int, Fingerprint]:
        """Return the fingerprints of the tables with these OIDs."""
        with self.translated():
            return read_fingerprints(self.connection, oids)

    def layouts(self, types: Collection[int]) -> dict[int, str]:
        """Return the layouts of types by OID, see `CatalogTable.layouts`."""
        with self.translated():
            return read_layouts(self.connection, types)

    # -- positions and the slot

    @functools.cached_property
    def identity(self) -> SystemIdentity:
        """The cluster, its timeline, the database, and the flush LSN when this was first read."""
        with self.replication("dbmazz identify") as connection:
            identity = connection.identify_system()
        with self.translated():
            row = self.connection.execute(
                "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()"
            ).fetchone()
        return replace(identity, database_oid=row[0] if row else None)

    def slot(self) -> SlotState | None:
        """Return the replication slot, None if there is none."""
        with self.translated():
            return slot_state(self.connection, self.config.slot)

    def verify_slot(self, checkpoint_lsn: Lsn | None) -> SlotState | None:
        """Return the slot, verified against the checkpoint. Wait up to `SLOT_RELEASE_WAIT_S` for its release.

        Args:
            checkpoint_lsn: LSN of the checkpoint; None: there is none, and a missing slot is no error.

        Raises:
            SlotError: The slot is missing, past the checkpoint, in use, or unusable (see `setup.slots.verify_slot`).
        """
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
        """Return the server's WAL flush position now, as a bound that the stream reaches without new writes."""
        with self.translated():
            lsn = flush_lsn(self.connection)
            flush_partial_record(self.connection)
            return lsn

    def wait_until_confirmed(self, lsn: Lsn) -> None:
        """Wait up to `CONFIRM_WAIT_S` until the server has processed the acknowledgement of `lsn`.

        A lost acknowledgement loses no changes: the checkpoint has the position.
        """
        deadline = time.monotonic() + CONFIRM_WAIT_S
        while time.monotonic() < deadline:
            slot = self.slot()
            if slot is None or not slot.active or (slot.confirmed_flush_lsn or INVALID_LSN) >= lsn:
                return
            time.sleep(0.02)

    def replication(self, application_name: str) -> ReplicationConnection:
        """Return a replication connection to the same server, for commands that need no publication."""
        return ReplicationConnection(
            self.config.url,
            slot=self.config.slot,
            publication=self.config.publication or "",
            application_name=application_name,
            server=self.server,
        )

    def translated(self) -> AbstractContextManager[None]:
        """Return a context that raises the server's errors as errors of this package."""
        return translate_errors(self.config.url, slot=self.config.slot, publication=self.config.publication or "")


def confirmed_lsn(slot: SlotState | None) -> Lsn | None:
    """Return the confirmed LSN of a slot, `INVALID_LSN` if nothing was confirmed, None if there is no slot."""
    return None if slot is None else slot.confirmed_flush_lsn or INVALID_LSN
