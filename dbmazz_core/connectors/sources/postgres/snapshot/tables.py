"""The rows of tables as of an exported snapshot, and whether the tables are still unaltered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Self

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint
from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import SystemIdentity
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.settings.config import SnapshotConfig
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    from dbmazz_core.connectors.sources.postgres.snapshot.columns import ColumnOutput
    from dbmazz_core.connectors.sources.postgres.snapshot.resumable import PostgresResumableCopy


def snapshot_tables(
    session: Session, tables: Collection[TableRef], *, temporary: bool, hurried: bool = False
) -> TableSnapshot:
    """Export a snapshot and return the tables as of it.

    Args:
        session: The server.
        tables: Tables of the last look that may be read.
        temporary: See `export_snapshot`.
        hurried: Whether to wait only for a few seconds for open transactions and locks.
    """
    oids = [table.oid for table in session.table_infos(tables)] if tables else []
    # Read before the snapshot is exported, see `TableSnapshot`.
    published = {ref: table.identity.published for ref, table in (session.catalog(oids) if tables else {}).items()}
    exported = export_snapshot(session, temporary=temporary, hurried=hurried)
    try:
        return TableSnapshot(
            exported,
            session.table_infos(tables),
            published,
            session.catalog,
            session.fingerprints,
            lambda: session.identity,
            session.snapshot_config,
        )
    except BaseException:
        exported.close()
        raise


def export_snapshot(session: Session, *, temporary: bool, hurried: bool = False) -> ExportedSnapshot:
    """Create the configured slot, or a temporary slot, and return its exported snapshot."""
    return ExportedSnapshot.create(
        session.named_config,
        session.connection,
        session.server,
        temporary=temporary,
        hurried=hurried,
        on_wait=session.on_wait,
    )


class TableSnapshot:
    """Tables as of an exported snapshot. Use it as a context manager; the snapshot ends with it.

    Args:
        exported: The snapshot.
        tables: Tables that may be read.
        published: How each table was published before the snapshot was exported (`TableIdentity.published`). If a table
            is published in another way afterwards, changes after the snapshot may be missing from the stream.
        catalog: Reads tables by OID.
        fingerprints: Reads fingerprints by OID.
        identity: Returns the identity of the server.
        config: Settings of copies.
    """

    def __init__(
        self,
        exported: ExportedSnapshot,
        tables: Collection[TableInfo],
        published: Mapping[TableRef, str],
        catalog: Callable[[Collection[int]], Mapping[TableRef, CatalogTable]],
        fingerprints: Callable[[Collection[int]], Mapping[int, Fingerprint]],
        identity: Callable[[], SystemIdentity],
        config: SnapshotConfig,
    ) -> None:
        self._exported = exported
        self._identity = identity
        self._config = config
        self._fingerprints = fingerprints
        self._infos = {table.ref: table for table in tables}
        oids = [table.oid for table in tables]
        # The catalog is read after the fingerprints of the snapshot and before those of `altered`: if the two are
        # equal, nothing changed in between, and the catalog's tables are those of the snapshot.
        self._snapshot_fingerprints = exported.fingerprints(oids) if oids else {}
        self._tables = {
            ref: table
            for ref, table in (catalog(oids) if oids else {}).items()
            if table.identity.published == published.get(ref)
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._exported.close()

    @property
    def lsn(self) -> Lsn:
        """Position of the snapshot: it contains exactly the transactions whose commit record lies before."""
        return self._exported.lsn

    def table(self, table: TableRef) -> CatalogTable | None:
        """Return a table; None if it was dropped, or published in another way, since the snapshot was asked for."""
        return self._tables.get(table)

    def rows(self, table: TableRef, *, keep_unreadable: bool) -> Iterator[CopiedRows]:
        """Yield all captured rows of a table, see `Snapshot.rows`."""
        info, found = self._infos[table], self._tables[table]
        outputs = self._outputs(table)
        if outputs is None:
            return iter(())
        return self._exported.rows(
            info,
            found.schema,
            found.row_filter,
            outputs,
            self._config,
            keep_unreadable=keep_unreadable,
        )

    def resumable(self, table: TableRef) -> PostgresResumableCopy | None:
        """Return the copy of a table in parts, see `Snapshot.resumable`."""
        found, outputs = self._tables[table], self._outputs(table)
        # The mark has the table as the catalog has it. That must be the table of the snapshot.
        if outputs is None or self.altered([table]):
            return None

        def same(server: Server) -> Mapping[str, object]:
            from dbmazz_core.connectors.sources.postgres.snapshot.resumable import same_copy

            return same_copy(found.schema, found.token, self._identity(), server)

        info = self._infos[table]
        return self._exported.resumable(info, found.schema, found.row_filter, outputs, self._config, same)

    def _outputs(self, table: TableRef) -> list[ColumnOutput] | None:
        """Return the columns of a table; None if it, or a column, was dropped meanwhile, which `altered` tells."""
        outputs = self._column_outputs[self._infos[table].oid]
        has_all = {*self._tables[table].schema.names}.issubset(output.name for output in outputs)
        return outputs if has_all else None

    @cached_property
    def _column_outputs(self) -> dict[int, list[ColumnOutput]]:
        return self._exported.column_outputs([self._infos[ref].oid for ref in self._tables])

    def altered(self, tables: Collection[TableRef]) -> set[TableRef]:
        """Return the tables that no longer have the columns and the storage of the snapshot, see `Snapshot`."""
        oids = {table: self._infos[table].oid for table in tables}
        now = self._fingerprints([*oids.values()])
        return {table for table, oid in oids.items() if not self._is_unaltered(table, oid, now.get(oid))}

    def _is_unaltered(self, table: TableRef, oid: int, now: Fingerprint | None) -> bool:
        return (
            now is not None
            and now.is_unaltered_since(self._snapshot_fingerprints.get(oid))
            and now.columns.keys() >= {*self._tables[table].schema.names}
        )
