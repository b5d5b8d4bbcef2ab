"""Load the rows of a snapshot into a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import shapes
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema

#: Creates or replaces a table; returns the columns of the replaced table whose deleted rows come back, if any.
Creation = Callable[[], shapes.Columns | None]


class LoadingTransaction(Protocol):
    """The part of a transaction that loads a table."""

    @property
    def is_staging(self) -> bool:
        """Whether the rows go to another table, and no transaction is open (module `staging`)."""

    def load(self, schema: TableSchema, mode: Mode, snapshot_lsn: Lsn, rows: pl.DataFrame) -> None:
        """Insert rows of a snapshot into a table."""

    def finish_staging(self, creation: Creation) -> shapes.Columns | None:
        """Begin the transaction again, and let the other table take the place of the created table."""

    def restore_deleted_rows(self, schema: TableSchema, saved: shapes.Columns, snapshot_lsn: Lsn) -> None:
        """Insert the deleted rows of the table that a re-snapshot replaced."""


class Loader:
    """Implements `dbmazz_core.model.sink.Loader`.

    Args:
        transaction: The transaction that has created the table.
        schema: The table.
        snapshot_lsn: LSN of the snapshot.
        mode: The table's mode.
        creation: Creates the table again, in a new transaction.
        saved: Columns of the replaced table whose deleted rows `finish` restores; None: it restores no rows.
    """

    def __init__(
        self,
        transaction: LoadingTransaction,
        schema: TableSchema,
        snapshot_lsn: Lsn,
        mode: Mode,
        creation: Creation,
        saved: shapes.Columns | None,
    ) -> None:
        self._transaction = transaction
        self._schema = schema
        self._snapshot_lsn = snapshot_lsn
        self._mode = mode
        self._creation = creation
        self._saved = saved

    def append(self, rows: pl.DataFrame) -> None:
        """See `dbmazz_core.model.sink.Loader.append`."""
        self._transaction.load(self._schema, self._mode, self._snapshot_lsn, rows)

    def finish(self) -> None:
        """See `dbmazz_core.model.sink.Loader.finish`."""
        if self._transaction.is_staging:
            self._saved = self._transaction.finish_staging(self._creation)
        if self._saved is not None:
            self._transaction.restore_deleted_rows(self._schema, self._saved, self._snapshot_lsn)
