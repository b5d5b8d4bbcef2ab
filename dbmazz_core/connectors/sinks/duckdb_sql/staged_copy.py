"""Copies in pieces: each transaction makes some rows durable, together with the record of the parts that are complete.

The rows go to a table of their own (module `staging`), so that readers see the old rows until the copy is complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Self

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql import shapes
from dbmazz_core.connectors.sinks.duckdb_sql.appliers import applier_of
from dbmazz_core.connectors.sinks.duckdb_sql.copy_records import RecordedCopy, end_copies, read_copy, write_copy
from dbmazz_core.connectors.sinks.duckdb_sql.destination import Destination
from dbmazz_core.connectors.sinks.duckdb_sql.drift import DriftCheck
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import create_schema, verify_names
from dbmazz_core.connectors.sinks.duckdb_sql.ownership import Owners
from dbmazz_core.connectors.sinks.duckdb_sql.sql import SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.staging import Staging, drop_leftover
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.copy_progress import CopyProgress
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.sink import NoRoom

_KEPT = "_dbmazz_kept"


class DuckDBStagedCopy:
    """Implements `dbmazz_core.model.sink.StagedCopy`. No transaction may be open.

    Args:
        destination: The file, with the bookkeeping of this version.
        schema: The table that is copied.
        mode: Its mode.

    Raises:
        DestinationConflict: The slot must not write the table.
    """

    def __init__(self, destination: Destination, schema: TableSchema, mode: Mode) -> None:
        self._destination = destination
        self._connection = destination.connection
        self._schema = schema
        self._mode = mode
        self._columns = shapes.columns(schema, mode)
        self._staging: Staging | None = None
        self._progress: CopyProgress | None = None
        self._in_transaction = False
        self._wide_bytes = 0
        self._rows = 0
        verify_names(schema)
        with self._translated():
            Owners(self._connection, destination.feed, destination.path).verify(schema.table)
            create_schema(self._connection, schema.table.schema)
            self._find()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._rollback()

    @property
    def progress(self) -> CopyProgress | None:
        """See `StagedCopy.progress`."""
        return self._progress

    @property
    def rows(self) -> int:
        """See `StagedCopy.rows`."""
        return self._rows

    @property
    def staging(self) -> Staging:
        """The table with the rows."""
        assert self._staging is not None
        return self._staging

    def begin(self) -> None:
        """See `StagedCopy.begin`."""
        self.drop()
        with self._translated():
            drop_leftover(self._connection, self._schema.table.schema)
            self._staging = Staging.create(self._connection, self._destination.path, self._schema, self._columns)

    def keep(self, keys: Iterable[pl.DataFrame]) -> bool:
        """See `StagedCopy.keep`."""
        self._begin()
        statements, kept = self.staging.statements, 0
        sql = statements.sql
        with self._translated():
            select = f"SELECT {SOURCE}.* FROM {sql.source(sql.key)}"
            name = ""
            for frame in keys:
                if not name:
                    name, _ = statements.create_temporary(_KEPT, select, frame)
                else:
                    statements.run(f"INSERT INTO {name} {select}", frame)
                kept += len(frame)
            lost = f" WHERE NOT EXISTS (FROM {name} AS {SOURCE} WHERE {sql.on_key})" if name else ""
            statements.run(f"DELETE FROM {sql.target}{lost}")
            self._rows = self._count()
            if name:
                statements.run(f"DROP TABLE {name}")
        return self._rows == kept

    def append(self, rows: pl.DataFrame, lsn: Lsn) -> None:
        """See `StagedCopy.append`."""
        memory = self._destination.memory
        with self._translated():
            self._destination.make_room(rows)
        wide_bytes = self._wide_bytes + memory.wide_bytes(rows)
        if self._wide_bytes and not memory.has_room(wide_bytes):
            raise NoRoom(again=True)
        self._begin()
        self._wide_bytes = wide_bytes
        with self._translated():
            self._destination.observe(rows)
        applier = applier_of(self._mode, self.staging.statements, DriftCheck(False, False), lsn)
        applier.insert_snapshot(rows)
        self._rows += len(rows)

    def commit(self, progress: CopyProgress) -> None:
        """See `StagedCopy.commit`."""
        self._begin()
        with self._translated():
            copy = RecordedCopy(self.staging.table, self._mode, progress)
            write_copy(self._connection, self._schema.table, copy, slot=self._destination.feed)
            self._in_transaction = False  # even if COMMIT fails
            self._connection.execute("COMMIT")
        self._wide_bytes = 0

    def drop(self) -> None:
        """See `StagedCopy.drop`."""
        self._rollback()
        with self._translated():
            if self._staging is not None:
                self._staging.drop()
            end_copies(self._connection, [self._schema.table])
        self._staging, self._progress, self._rows = None, None, 0

    def _find(self) -> None:
        """Find the rows that an earlier copy has left."""
        copy = read_copy(self._connection, self._schema.table, slot=self._destination.feed)
        if copy is None or copy.mode is not self._mode:
            return
        found = shapes.read_columns(self._connection, copy.rows)
        if shapes.comparable(found) != shapes.comparable(self._columns):
            return
        self._staging = Staging(self._connection, self._destination.path, self._schema, copy.rows)
        self._rows = self._count()
        if self._rows == copy.progress.rows:
            self._progress = copy.progress

    def _count(self) -> int:
        row = self.staging.statements.first_row(f"SELECT count(*) FROM {self.staging.statements.sql.table}")
        return int(row[0]) if row else 0

    def _begin(self) -> None:
        if not self._in_transaction:
            with self._translated():
                self._connection.execute("BEGIN TRANSACTION")
            self._in_transaction = True

    def _rollback(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            with self._translated():
                try:
                    self._connection.execute("ROLLBACK")
                except (duckdb.FatalException, duckdb.TransactionException):
                    return  # DuckDB has ended the transaction by itself

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._destination.path)
