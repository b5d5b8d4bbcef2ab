"""Applying one table's net effect with SQL, set by set; no Python per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import polars as pl

from dbmazz_core.batch import bad_value
from dbmazz_core.connectors.sinks.duckdb.failures import destination_error
from dbmazz_core.connectors.sinks.duckdb.values import alike, arrow_table, expression, misfit, needs_cast
from dbmazz_core.datatypes import Kind
from dbmazz_core.engine.effect import COMMIT_LSN, COUNT, ORIGIN, XID, Move, NetEffect, PartialUpdate
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import quote_identifier as quoted

#: Name by which statements read the frame; that of a local variable in `_query`.
_FRAME = "_dbmazz_frame"


class Applier:
    """Writes net effects of one table through an open transaction.

    Args:
        connection: With a transaction begun.
        path: The file, for messages.
        schema: The table.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema) -> None:
        self._connection = connection
        self._path = path
        self._schema = schema
        self._types = {column.name: column.type for column in schema.columns}
        self._table = schema.table.sql
        self._on_key = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in schema.key)

    def apply(self, effect: NetEffect) -> None:
        """Apply an effect, in the order that `NetEffect` gives."""
        if effect.truncated:
            with self._failures(None):
                self._connection.execute(f"DELETE FROM {self._table}")
        moved = [self._complete(move, number) for number, move in enumerate(effect.moves)]
        if effect.deletes is not None and len(effect.deletes):
            self._delete(effect.deletes)
        for update in effect.updates:
            self._update(update)
        if effect.removals is not None and len(effect.removals):
            self._remove(effect.removals)
        if effect.upserts is not None and len(effect.upserts):
            self._merge(effect.upserts)
        if effect.appends is not None and len(effect.appends):
            self.append(effect.appends)
        for name in moved:
            names = ", ".join(map(quoted, self._schema.names))
            self._connection.execute(f"INSERT INTO {self._table} ({names}) SELECT {names} FROM {name}")
            self._connection.execute(f"DROP TABLE {name}")

    def append(self, rows: pl.DataFrame) -> None:
        """INSERT whole rows."""
        names = ", ".join(map(quoted, self._schema.names))
        self._run(f"INSERT INTO {self._table} ({names}) FROM {self._source(self._schema.names)}", rows)

    def fill(self, value: pl.DataFrame) -> None:
        """Give a column the one value of the frame, in all rows."""
        name = quoted(value.columns[0])
        self._run(f"UPDATE {self._table} SET {name} = s.{name} FROM {self._source(value.columns)}", value)

    def _delete(self, rows: pl.DataFrame) -> None:
        self._run(f"DELETE FROM {self._table} t USING {self._source(self._schema.key)} WHERE {self._on_key}", rows)

    def _merge(self, rows: pl.DataFrame) -> None:
        names = self._schema.names
        if clinging := self._clinging(rows, names):
            # Deleted, they are not matched and inserted.
            source = self._source(names)
            self._run(f"DELETE FROM {self._table} t USING {source} WHERE {self._on_key} AND ({clinging})", rows)
        set_ = ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in names if n not in self._schema.key)
        matched = f"UPDATE SET {set_}" if set_ else "DO NOTHING"
        self._run(
            f"MERGE INTO {self._table} t USING {self._source(names)} ON {self._on_key} "
            f"WHEN MATCHED THEN {matched} "
            f"WHEN NOT MATCHED THEN INSERT ({', '.join(map(quoted, names))}) "
            f"VALUES ({', '.join('s.' + quoted(n) for n in names)})",
            rows,
        )

    def _update(self, update: PartialUpdate) -> None:
        """Set the values that were sent; every row has to be there, for it holds those that were not."""
        # With nothing to set, the key is set to itself: the count shows that the row is there.
        names = update.known or self._schema.key
        self._replace_clinging(update)
        set_ = ", ".join(f"{quoted(n)} = s.{quoted(n)}" for n in names)
        source = self._source((*self._schema.key, *update.known))
        found = self._run(f"UPDATE {self._table} t SET {set_} FROM {source} WHERE {self._on_key}", update.frame)
        if found != len(update.frame):
            self._missing(
                update.frame,
                f"SELECT s.{COMMIT_LSN}, s.{XID} FROM {self._source(self._schema.key, COMMIT_LSN, XID)} "
                f"ANTI JOIN {self._table} t ON {self._on_key} LIMIT 1",
            )

    def _clinging(self, rows: pl.DataFrame, names: Sequence[str]) -> str:
        """SQL for whether a row's value in the destination equals the new one but is written otherwise.

        DuckDB leaves such a value as it is (tried, 1.4 and 2.0: it compares with what is stored, also of a value that
        was set to NULL in between), and to it -0 equals 0, a month 30 days. Empty if no row can have one.
        """
        conditions = []
        for name in names:
            type, column = self._types[name], quoted(name)
            if type.is_nested or name in self._schema.key:
                continue  # lists are written anew whatever they hold
            if type.carrier.is_float() and (rows[name] == 0).any():
                # Not `s.{column} = 0`: pushed down to the frame, old pyarrow cannot filter its texts by it (tried, 18).
                conditions.append(f"t.{column} = 0 AND coalesce(s.{column}, 1) = 0 AND NOT {alike(name, type)}")
            elif type.kind is Kind.INTERVAL and rows[name].null_count() < len(rows):
                conditions.append(f"t.{column} = s.{column} AND NOT {alike(name, type)}")
        return " OR ".join(conditions)

    def _replace_clinging(self, update: PartialUpdate) -> None:
        """Delete rows of which `_clinging` is true and insert them again, with the values that were sent."""
        clinging = self._clinging(update.frame, update.known)
        if not clinging:
            return
        names = self._schema.names
        values = ", ".join(f"{'s' if n in update.known else 't'}.{quoted(n)} AS {quoted(n)}" for n in names)
        source = self._source((*self._schema.key, *update.known))
        self._run(
            f"CREATE OR REPLACE TEMP TABLE _dbmazz_clinging AS SELECT {values} FROM {self._table} t "
            f"JOIN {source} ON {self._on_key} WHERE {clinging}",
            update.frame,
        )
        with self._failures(None):
            self._connection.execute(f"DELETE FROM {self._table} t USING temp._dbmazz_clinging s WHERE {self._on_key}")
            columns = ", ".join(map(quoted, names))
            self._connection.execute(
                f"INSERT INTO {self._table} ({columns}) SELECT {columns} FROM temp._dbmazz_clinging"
            )
            self._connection.execute("DROP TABLE temp._dbmazz_clinging")

    def _complete(self, move: Move, number: int) -> str:
        """Fetch what a move lacks from the rows under their old keys, into a temporary table; its name."""
        name = f"temp._dbmazz_moved_{number}"
        values = ", ".join(
            f"t.{quoted(n)}" if n in move.unknown else f"{expression(n, self._types[n])} AS {quoted(n)}"
            for n in self._schema.names
        )
        on = " AND ".join(f"t.{quoted(n)} = {expression(ORIGIN + n, self._types[n])}" for n in self._schema.key)
        self._run(
            f"CREATE OR REPLACE TEMP TABLE {name.removeprefix('temp.')} AS "
            f"SELECT {values}, s.{COMMIT_LSN}, s.{XID}, t.rowid IS NULL AS _dbmazz_missing "
            f"FROM {_FRAME} s LEFT JOIN {self._table} t ON {on}",
            move.frame,
        )
        self._missing(None, f"SELECT {COMMIT_LSN}, {XID} FROM {name} WHERE _dbmazz_missing LIMIT 1")
        return name

    def _remove(self, rows: pl.DataFrame) -> None:
        """Remove exactly as many of equal rows as were counted."""
        names = self._schema.names
        conditions = [f"t.{quoted(n)} IS NOT DISTINCT FROM s.{quoted(n)}" for n in names]
        conditions += filter(None, (alike(n, self._types[n]) for n in names))
        equal = " AND ".join(conditions)
        self._run(
            f"DELETE FROM {self._table} WHERE rowid IN (SELECT id FROM ("
            f"SELECT t.rowid AS id, s.{COUNT} AS wanted, row_number() OVER (PARTITION BY s._dbmazz_row) AS found "
            f"FROM {self._table} t JOIN (SELECT *, row_number() OVER () AS _dbmazz_row "
            f"FROM {self._source(names, COUNT)}) s ON {equal}) WHERE found <= wanted)",
            rows,
        )

    def _source(self, names: Sequence[str], *others: str) -> str:
        """The frame as a subquery `s` in DuckDB's types."""
        values = [f"{expression(n, self._types[n], source='f')} AS {quoted(n)}" for n in names]
        return f"(SELECT {', '.join([*values, *others])} FROM {_FRAME} f) s"

    def _run(self, sql: str, frame: pl.DataFrame) -> int:
        """Run a statement that reads `frame`; the number of rows it changed."""
        with self._failures(frame):
            row = self._query(self._connection, sql, frame)
        return int(row[0]) if row and isinstance(row[0], int) else 0

    def _missing(self, frame: pl.DataFrame | None, sql: str) -> None:
        """Raise if the query finds a row."""
        with self._failures(None):
            row = self._query(self._connection, sql, frame)
        if row is None and frame is None:
            return
        where = f"transaction {row[1]} committed at {Lsn(row[0])}" if row else "this flush"
        table = self._schema.table
        raise UnknownValue(
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
            raise destination_error(self._path, error) from error

    def _explain(self, frame: pl.DataFrame) -> None:
        """Raise BadValue for the first value in the frame that DuckDB's type cannot hold, if there is one."""
        # A cursor of its own: the failure has aborted the transaction.
        with self._connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            for number, column in enumerate(self._schema.columns):
                if column.name not in frame.columns or not needs_cast(column.type):
                    continue
                value = misfit(f"s.{quoted(column.name)}", column.type)
                position = f"{COMMIT_LSN}, {XID}" if COMMIT_LSN in frame.columns else "0, 0"
                row = self._query(
                    cursor, f"SELECT {value} AS bad, {position} FROM {_FRAME} s WHERE bad IS NOT NULL LIMIT 1", frame
                )
                if row is not None:
                    raise bad_value(self._schema, number, str(row[0]), Lsn(row[1]), int(row[2]))

    def _query(
        self, connection: duckdb.DuckDBPyConnection, sql: str, frame: pl.DataFrame | None
    ) -> tuple[Any, ...] | None:
        """Run a statement that reads `frame`; its first row, if any."""
        # DuckDB finds it among the variables here. Registered, it would stay in memory until the transaction's end,
        # and with it all pieces of a large one: dropped views do (tried, 1.4 and 2.0).
        _dbmazz_frame = None if frame is None else arrow_table(self._schema, frame)
        # Read to the end: a result that is not blocks its connection (DuckDB 2.0).
        rows = connection.execute(sql).fetchall()
        return rows[0] if rows else None
