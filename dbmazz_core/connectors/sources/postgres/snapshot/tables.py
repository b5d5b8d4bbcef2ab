"""Tables as of one position of the WAL, and whether they are still what they were there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Self

from dbmazz_core.connectors.sources.postgres.catalog.catalog_table import CatalogTable
from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.fingerprint import Fingerprint
from dbmazz_core.connectors.sources.postgres.snapshot.exported import ExportedSnapshot
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.settings.config import SnapshotConfig
from dbmazz_core.table_ref import TableRef


class TableSnapshot:
    """Tables as of an exported snapshot. Use as a context manager; the snapshot ends with it.

    Args:
        exported: The snapshot.
        tables: Those that may be read.
        published: How each was published before the snapshot was made. Published in another way since, changes behind
            the snapshot may not be in the stream.
        catalog: Looks tables up by their OIDs.
        fingerprints: Likewise.
        config: How rows are read.
    """

    def __init__(
        self,
        exported: ExportedSnapshot,
        tables: Collection[TableInfo],
        published: Mapping[TableRef, str],
        catalog: Callable[[Collection[int]], Mapping[TableRef, CatalogTable]],
        fingerprints: Callable[[Collection[int]], Mapping[int, Fingerprint]],
        config: SnapshotConfig,
    ) -> None:
        self._exported = exported
        self._config = config
        self._fingerprints = fingerprints
        self._tables = {table.ref: table for table in tables}
        oids = [table.oid for table in tables]
        # In this order: what has not changed between the snapshot and the copy's end, has not before the catalog.
        self._as_of = exported.fingerprints(oids) if oids else {}
        self._found = {
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
        """See `Snapshot.lsn`."""
        return self._exported.lsn

    def table(self, table: TableRef) -> CatalogTable | None:
        """See `Snapshot.table`."""
        return self._found.get(table)

    def rows(self, table: TableRef, *, keep_unreadable: bool) -> Iterator[CopiedRows]:
        """See `Snapshot.rows`."""
        return self._exported.rows(
            self._tables[table], self._found[table].schema, self._config, keep_unreadable=keep_unreadable
        )

    def is_unaltered(self, table: TableRef) -> bool:
        """See `Snapshot.is_unaltered`."""
        oid = self._tables[table].oid
        now = self._fingerprints([oid]).get(oid)
        return (
            now is not None
            and now.is_as(self._as_of.get(oid))
            and now.columns.keys() >= {*self._found[table].schema.names}
        )
