"""What the appliers share: SQL fragments about one table, and running statements that read a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import polars as pl

from dbmazz_core.bad_value import bad_value
from dbmazz_core.connectors.sinks.duckdb.failures import destination_error
from dbmazz_core.connectors.sinks.duckdb.names import qualified
from dbmazz_core.connectors.sinks.duckdb.values import alike, arrow_table, expression, misfit, needs_cast
from dbmazz_core.datatypes import Kind
from dbmazz_core.engine.changelog import OLD
from dbmazz_core.engine.effect import COMMIT_LSN, ORIGIN, XID, Move, PartialUpdate
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import quote_identifier as quoted

#: Name by which statements read the frame; that of a local variable in `_query`.
FRAME = "_dbmazz_frame"


class Statements:
    """Runs statements about one table in an open transaction.

    In their SQL `t` is the table and `s` the frame in DuckDB's types.

    Args:
        connection: With a transaction begun.
        path: The file, for messages.
        schema: The table.

    Attributes:
        schema: The table.
        path: The file.
        table: Its quoted name.
        names: Its own columns.
        key: Its key columns.
        on_key: Condition that `t` has the key of `s`.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema) -> None:
        self._connection = connection
        self._types = {column.name: column.type for column in schema.columns}
        self.path = path
        self.schema = schema
        self.table = qualified(connection, schema.table)
        self.names = schema.names
        self.key = schema.key
        self.on_key = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in schema.key)

    def source(self, names: Sequence[str], *others: str) -> str:
        """The frame as a subquery `s`: own columns in DuckDB's types, others as they are."""
        values = [f"{expression(n, self._types[n], source='f')} AS {quoted(n)}" for n in names]
        return f"(SELECT {', '.join([*values, *others])} FROM {FRAME} f) s"

    def value(self, name: str, *, prefix: str = "") -> str:
        """A value of `s`, where `s` is the frame itself, in its column's DuckDB type."""
        return expression(prefix + name, self._types[name])

    def equal(self, names: Sequence[str]) -> str:
        """Condition that rows of `t` and `s` are alike in these columns: NULL is like NULL, 0 is not like -0."""
        conditions = [f"t.{quoted(n)} IS NOT DISTINCT FROM s.{quoted(n)}" for n in names]
        conditions += filter(None, (alike(n, self._types[n]) for n in names))
        return " AND ".join(conditions)

    def clinging(self, rows: pl.DataFrame, names: Sequence[str]) -> str:
        """Condition that a value of `t` equals that of `s` but is written otherwise.

        DuckDB leaves such a value as it is (tried, 1.4 and 2.0: it compares with what is stored, also of a value that
        was set to NULL in between), and to it -0 equals 0, a month 30 days. Empty if no row can have one.
        """
        conditions = []
        for name in names:
            type, column = self._types[name], quoted(name)
            if type.is_nested or name in self.key:
                continue  # lists are written anew whatever they hold
            if type.carrier.is_float() and (rows[name] == 0).any():
                # Not `s.{column} = 0`: pushed down to the frame, old pyarrow cannot filter its texts by it (tried, 18).
                conditions.append(f"t.{column} = 0 AND coalesce(s.{column}, 1) = 0 AND NOT {alike(name, type)}")
            elif type.kind is Kind.INTERVAL and rows[name].null_count() < len(rows):
                conditions.append(f"t.{column} = s.{column} AND NOT {alike(name, type)}")
        return " OR ".join(conditions)

    def replace_clinging(self, update: PartialUpdate, *, besides: Sequence[str] = (), where: str = "true") -> None:
        """Delete rows of which `clinging` is true and insert them again, with the values that were sent.

        Args:
            update: The update.
            besides: Columns of the table beside its own.
            where: Which rows of `t` count.
        """
        clinging = self.clinging(update.frame, update.known)
        if not clinging:
            return
        values = [f"{'s' if n in update.known else 't'}.{quoted(n)} AS {quoted(n)}" for n in self.names]
        values += [f"t.{name}" for name in besides]
        columns = ", ".join([*map(quoted, self.names), *besides])
        self.run(
            f"CREATE OR REPLACE TEMP TABLE _dbmazz_clinging AS SELECT {', '.join(values)} FROM {self.table} t "
            f"JOIN {self.source((*self.key, *update.known))} ON {self.on_key} WHERE {where} AND ({clinging})",
            update.frame,
        )
        self.run(f"DELETE FROM {self.table} t USING temp.main._dbmazz_clinging s WHERE {self.on_key} AND {where}")
        self.run(f"INSERT INTO {self.table} ({columns}) SELECT {columns} FROM temp.main._dbmazz_clinging")
        self.run("DROP TABLE temp.main._dbmazz_clinging")

    def fill(self, value: pl.Series, lsn: Lsn, xid: int, assignments: str) -> int:
        """Give all rows the one value of the series, `s` and its name in what is assigned. It came by a transaction.
        How many rows there are."""
        frame = value.to_frame().with_columns(
            pl.lit(int(lsn), dtype=pl.UInt64).alias(COMMIT_LSN), pl.lit(xid, dtype=pl.UInt32).alias(XID)
        )
        return self.run(f"UPDATE {self.table} t SET {assignments} FROM {self.source([value.name])}", frame)

    def run(self, sql: str, frame: pl.DataFrame | None = None) -> int:
        """Run a statement that reads `frame`; the number of rows it changed."""
        row = self.first(sql, frame)
        return int(row[0]) if row and isinstance(row[0], int) else 0

    def first(self, sql: str, frame: pl.DataFrame | None = None) -> tuple[Any, ...] | None:
        """Run a statement that reads `frame`; its first row, if any.

        Raises:
            BadValue: If DuckDB's type cannot hold a value.
            DestinationError: If DuckDB fails otherwise.
        """
        with self._failures(frame):
            return self._query(self._connection, sql, frame)

    def committed(self, sql: str, frame: pl.DataFrame) -> tuple[Any, ...] | None:
        """The same, but of what is committed: without what the open transaction has done."""
        with self._connection.cursor() as cursor, self._failures(None):
            cursor.execute("SET TimeZone = 'UTC'")
            return self._query(cursor, sql, frame)

    def complete(self, move: Move, number: int, *, where: str = "true") -> str:
        """Fetch what a move lacks from the rows under their old keys, into a temporary table with the frame's other
        columns; its name.

        Args:
            move: The move.
            number: Tells the temporary tables of one effect apart.
            where: Which rows of `t` count.

        Raises:
            UnknownValue: If there is not exactly one.
        """
        name = f"_dbmazz_moved_{number}"
        own = {*self.names, *(ORIGIN + key for key in self.key)}
        others = [f"s.{column}" for column in move.frame.columns if column not in own]
        values = ", ".join(
            f"t.{quoted(n)}" if n in move.unknown else f"{self.value(n)} AS {quoted(n)}" for n in self.names
        )
        on = " AND ".join(f"t.{quoted(n)} = {self.value(n, prefix=ORIGIN)}" for n in self.key)
        found = self.run(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {', '.join([values, *others])}, "
            f"t.rowid IS NULL AS _dbmazz_missing FROM {FRAME} s LEFT JOIN {self.table} t ON {on} AND {where}",
            move.frame,
        )
        at = self.first(f"SELECT {COMMIT_LSN}, {XID} FROM temp.main.{name} WHERE _dbmazz_missing LIMIT 1")
        if at is not None or found != len(move.frame):
            raise self.unknown_value(at)
        return f"temp.main.{name}"

    def unknown_value(self, at: tuple[Any, ...] | None) -> UnknownValue:
        """The error for a row that should hold values which PostgreSQL left out.

        Args:
            at: Commit LSN and transaction of the change, if they are known.
        """
        where = f"transaction {at[1]} committed at {Lsn(at[0])}" if at else "this flush"
        table = self.schema.table
        return UnknownValue(
            f"{table}: {where} updates a row that the destination does not hold exactly once, and PostgreSQL left out "
            "its unchanged TOAST values; nothing of this flush was applied",
            object=str(table),
            remedy=f"copy the table anew: dbmazz snapshot --tables '{table}'; or have whole rows sent from now on: "
            f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL;",
        )

    @contextmanager
    def _failures(self, frame: pl.DataFrame | None) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            if frame is not None:
                self._explain(frame)
            raise destination_error(self.path, error, self.schema.table) from error

    def _explain(self, frame: pl.DataFrame) -> None:
        """Raise BadValue for the first value in the frame that DuckDB's type cannot hold, if there is one."""
        copied = COMMIT_LSN not in frame.columns
        position = ["0", "0"] if copied else [COMMIT_LSN, XID]
        # A cursor of its own: the failure has aborted the transaction.
        with self._connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            for number, column in enumerate(self.schema.columns):
                for prefix in ("", OLD, ORIGIN):
                    name = prefix + column.name
                    if name not in frame.columns or not needs_cast(column.type):
                        continue
                    value = misfit(f"s.{quoted(name)}", column.type)
                    keys = [n for n, key in enumerate(self.names) if key in self.key and prefix + key in frame.columns]
                    others = [*position, *(f"s.{quoted(prefix + self.names[key])}" for key in keys)]
                    found = self._query(
                        cursor,
                        f"SELECT {value} AS bad, {', '.join(others)} FROM {FRAME} s WHERE bad IS NOT NULL LIMIT 1",
                        frame,
                    )
                    if found is not None:
                        text, lsn, xid, *values = found
                        row = dict(zip(keys, values, strict=True)).get
                        raise bad_value(self.schema, number, str(text), Lsn(lsn), int(xid), row=row, copied=copied)

    def _query(
        self, connection: duckdb.DuckDBPyConnection, sql: str, frame: pl.DataFrame | None
    ) -> tuple[Any, ...] | None:
        # DuckDB finds it among the variables here. Registered, it would stay in memory until the transaction's end,
        # and with it all pieces of a large one: dropped views do (tried, 1.4 and 2.0).
        _dbmazz_frame = None if frame is None else arrow_table(self.schema, frame)
        # Read to the end: a result that is not blocks its connection (DuckDB 2.0).
        rows = connection.execute(sql).fetchall()
        return rows[0] if rows else None
