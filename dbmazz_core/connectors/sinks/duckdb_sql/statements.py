"""Run statements about one table that read a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.failures import destination_error
from dbmazz_core.connectors.sinks.duckdb_sql.names import other_cursor, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.sql import CARRIER, DERIVED, FRAME, query
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import TableSql
from dbmazz_core.connectors.sinks.duckdb_sql.values import arrow_table, needs_cast, unrepresentable_text
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.frame_columns import COMMIT_LSN, XID, old_column, origin_column, value_column
from dbmazz_core.model.schema import TableSchema

#: Qualifies temporary tables: without it, a temporary table would hide a user's table of the same name.
_TEMPORARY = "temp.main."


class Statements:
    """Runs statements about one table in an open transaction.

    Args:
        connection: The connection, in a transaction.
        path: The file, for messages.
        schema: The table.
        name: Quoted name of another table with the same columns; None: the table's own.

    Attributes:
        path: The file, for messages.
        sql: SQL fragments about the table.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema, *, name: str | None = None
    ) -> None:
        self._connection = connection
        self.path = path
        self.sql = TableSql(schema, name or qualified(connection, schema.table))

    def run(self, sql: str, frame: pl.DataFrame | None = None) -> int:
        """Run a statement that reads `frame`, and return the number of rows that it changed.

        Raises:
            BadValue: If DuckDB's type cannot hold a value of the frame.
            DestinationError: If DuckDB fails for another reason.
        """
        row = self.first_row(sql, frame)
        return int(row[0]) if row and isinstance(row[0], int) else 0

    def create_temporary(self, name: str, select: str, frame: pl.DataFrame | None = None) -> tuple[str, int]:
        """Create a temporary table from a query that reads `frame`.

        Returns:
            The table's qualified name, for other statements, and its number of rows.

        Raises:
            BadValue: If DuckDB's type cannot hold a value of the frame.
            DestinationError: If DuckDB fails for another reason.
        """
        rows = self.run(f"CREATE OR REPLACE TEMP TABLE {name} AS {select}", frame)
        return _TEMPORARY + name, rows

    def first_row(self, sql: str, frame: pl.DataFrame | None = None) -> tuple[Any, ...] | None:
        """Run a statement that reads `frame`, and return the first row of its result, None if it has none.

        Raises:
            BadValue: If DuckDB's type cannot hold a value of the frame.
            DestinationError: If DuckDB fails for another reason.
        """
        with self._translated(frame):
            return self._query(self._connection, sql, frame)

    def first_committed_row(self, sql: str, frame: pl.DataFrame) -> tuple[Any, ...] | None:
        """Run a query that reads `frame` on the committed data, and return the first row of its result.

        The query does not see the changes of the open transaction.

        Raises:
            DestinationError: If DuckDB fails.
        """
        with self._translated(None), other_cursor(self._connection) as cursor:
            return self._query(cursor, sql, frame)

    @contextmanager
    def _translated(self, frame: pl.DataFrame | None) -> Iterator[None]:
        """Raise BadValue or DestinationError for DuckDB's exceptions."""
        try:
            yield
        except duckdb.Error as error:
            if frame is not None:
                self._raise_bad_value(frame)
            raise destination_error(self.path, error, self.sql.schema.table) from error

    def _raise_bad_value(self, frame: pl.DataFrame) -> None:
        """Raise BadValue for the first value in the frame that DuckDB's type cannot hold, if the frame has one."""
        # A cursor has its own transaction: the failure has aborted the connection's.
        with other_cursor(self._connection) as cursor:
            for place, type in enumerate(self.sql.types):
                if needs_cast(type):
                    for name in (value_column, old_column, origin_column):
                        if name(place) in frame.columns:
                            self._verify_column(cursor, frame, place, name)

    def _verify_column(
        self, cursor: duckdb.DuckDBPyConnection, frame: pl.DataFrame, place: int, name: Callable[[int], str]
    ) -> None:
        """Raise BadValue for the first value in a column of the frame that DuckDB's type cannot hold.

        Args:
            cursor: A cursor without a transaction.
            frame: The frame.
            place: The table's column.
            name: Name of the frame's columns by place; the error names the row by its key columns of that name.
        """
        schema, copied = self.sql.schema, COMMIT_LSN not in frame.columns
        position = ["0", "0"] if copied else [f"{CARRIER}.{COMMIT_LSN}", f"{CARRIER}.{XID}"]
        keys = [key for key in sorted(self.sql.key) if name(key) in frame.columns]
        others = [*position, *(f"{CARRIER}.{name(key)}" for key in keys)]
        text = unrepresentable_text(f"{CARRIER}.{name(place)}", self.sql.types[place])
        found = self._query(
            cursor,
            f"SELECT {DERIVED}.* FROM (SELECT {text} AS _dbmazz_bad, {', '.join(others)} "
            f"FROM {FRAME} AS {CARRIER}) AS {DERIVED} WHERE {DERIVED}._dbmazz_bad IS NOT NULL LIMIT 1",
            frame,
        )
        if found is not None:
            value, lsn, xid, *values = found
            row = dict(zip(keys, values, strict=True)).get
            raise bad_value(schema, place, str(value), Lsn(lsn), int(xid), row=row, copied=copied)

    def _query(
        self, connection: duckdb.DuckDBPyConnection, sql: str, frame: pl.DataFrame | None
    ) -> tuple[Any, ...] | None:
        rows = query(connection, sql, None if frame is None else arrow_table(self.sql.schema, frame))
        return rows[0] if rows else None
