"""Copies of large tables that another run can resume from a later snapshot.

The row versions of a table show which rows of an earlier snapshot are still those of the table. `xmin` is the
transaction that wrote a version. If it lies before the earlier snapshot's `xmin`, the transaction had ended before that
snapshot: if the version is visible in the later snapshot, it was visible in the earlier one, at the same place. All
other versions are read again. So no transaction is looked up, and a subtransaction needs no care: neither snapshot
lists those.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

import polars as pl

from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.snapshot.workers import (
    PageRange,
    SnapshotWorkers,
    TableCopy,
    unfinished_ranges,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import SystemIdentity
from dbmazz_core.model.copy_progress import CopyProgress, Part
from dbmazz_core.model.datatypes import Kind
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.table_ref import TableRef

#: A table with fewer ranges is copied in one transaction of the destination.
MIN_RANGES = 4
#: Types of key columns whose values are equal in the destination if, and only if, PostgreSQL sends the same value.
_PLAIN_KEYS = frozenset(
    (
        Kind.BOOLEAN,
        Kind.INT16,
        Kind.INT32,
        Kind.INT64,
        Kind.UINT32,
        Kind.STRING,
        Kind.BYTES,
        Kind.UUID,
        Kind.DATE,
        Kind.TIMESTAMP,
        Kind.TIMESTAMPTZ,
    )
)
#: Within so many transaction ids, the 32 bits of `xmin` tell which of two came first; half of it is left as a margin.
_COMPARABLE_XIDS = 1 << 30
_XID = 1 << 32


def snapshot_xids(workers: SnapshotWorkers, table: TableRef) -> tuple[int, int]:
    """Return `xmin` and `xmax` of the snapshot, with the epoch, for the copy of a table.

    Raises:
        SourceError: A connection, the import of the snapshot or the query failed.
    """
    text = workers.value("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text", table)
    xmin, xmax, _ = str(text).split(":")
    return int(xmin), int(xmax)


def has_plain_key(schema: TableSchema) -> bool:
    """Return whether a table has a key whose values are equal in the destination only if PostgreSQL's are the same."""
    return bool(schema.key) and all(schema.columns[place].type.kind in _PLAIN_KEYS for place in schema.key_places)


def same_copy(schema: TableSchema, token: TableToken, identity: SystemIdentity, server: Server) -> Mapping[str, object]:
    """Return what must be the same for a copy to be resumed, as JSON values.

    After a restart of the server, a copy starts over: the server may have been restored from a copy of its files, with
    another history at the same LSNs and transaction ids.

    Args:
        schema: The captured columns, and the key.
        token: The identity of the table: its storage, its columns, and how it is published.
        identity: The cluster and the database.
        server: The running server.
    """
    return {
        "dbmazz": metadata.version("dbmazz"),
        "server": [
            *(identity.system_identifier, identity.timeline, identity.database_oid),
            *(server.started, server.in_recovery),
        ],
        "table": [json.loads(token), [column.to_dict() for column in schema.columns], list(schema.key)],
    }


@dataclass(frozen=True, slots=True)
class PostgresResumableCopy:
    """Implements `dbmazz_core.model.source.ResumableCopy`.

    Attributes:
        workers: The connections.
        copy: How rows are read.
        keys: How the key columns are read, in the schema's order.
        ranges: All ranges of the table.
        lsn: LSN of the snapshot.
        xids: `xmin` and `xmax` of the snapshot, with the epoch.
        same: See `same_copy`.
    """

    workers: SnapshotWorkers
    copy: TableCopy
    keys: TableCopy
    ranges: Sequence[PageRange]
    lsn: Lsn
    xids: tuple[int, int]
    same: Mapping[str, object]

    @property
    def mark(self) -> str:
        """See `ResumableCopy.mark`."""
        return json.dumps({**self.same, "lsn": str(self.lsn), "xmin": self.xids[0]})

    def continues(self, progress: CopyProgress) -> bool:
        """See `ResumableCopy.continues`."""
        before, now = json.loads(progress.mark), json.loads(self.mark)
        lsn, xmin = Lsn.parse(before.pop("lsn")), int(before.pop("xmin"))
        del now["lsn"], now["xmin"]
        return before == now and lsn <= self.lsn and 0 <= self.xids[1] - xmin < _COMPARABLE_XIDS

    def parts(self, finished: Sequence[Part]) -> Sequence[Part]:
        """See `ResumableCopy.parts`."""
        return [(pages.first, pages.last) for pages in unfinished_ranges(self.ranges, _ranges(finished))]

    def kept_keys(self, progress: CopyProgress) -> Generator[pl.DataFrame]:
        """See `ResumableCopy.kept_keys`."""
        places = sorted(self.copy.schema.key_places)
        names = {value_column(number): value_column(place) for number, place in enumerate(places)}
        copy = _restricted(self.keys, f"NOT {_written_since(progress)}")
        for rows in self.workers.rows(copy, _ranges(progress.finished)):
            yield rows.frame.rename(names)

    def changed_rows(self, progress: CopyProgress) -> Generator[CopiedRows]:
        """See `ResumableCopy.changed_rows`."""
        return self.workers.rows(_restricted(self.copy, _written_since(progress)), _ranges(progress.finished))

    def rows(self, parts: Sequence[Part]) -> Generator[CopiedRows]:
        """See `ResumableCopy.rows`."""
        return self.workers.rows(self.copy, _ranges(parts), with_ends=True)


def _ranges(parts: Sequence[Part]) -> list[PageRange]:
    return [PageRange(first, last) for first, last in parts]


def _written_since(progress: CopyProgress) -> str:
    """Return the SQL condition that a row was written by a transaction that the earlier snapshot may not have seen.

    `age` counts from the newest transaction id, back to a row's 32 bits. The row of a much older transaction may look
    as if it were newer; it is read again then.
    """
    xmin = int(json.loads(progress.mark)["xmin"]) % _XID
    return f"(pg_catalog.age(xmin) OPERATOR(pg_catalog.<=) pg_catalog.age('{xmin}'::pg_catalog.xid))"


def _restricted(copy: TableCopy, condition: str) -> TableCopy:
    """Return a copy of the rows that fulfil another condition too."""
    return replace(copy, row_filter=f"({copy.row_filter}) AND {condition}" if copy.row_filter else condition)
