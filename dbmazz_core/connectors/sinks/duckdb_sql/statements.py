"""What the appliers share: SQL fragments about one table, and running statements that read a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.failures import destination_error
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.sql import FRAME, MADE, RAW, ROW, SOURCE, TARGET, query
from dbmazz_core.connectors.sinks.duckdb_sql.values import alike, arrow_table, expression, misfit, needs_cast
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.datatypes import Kind
from dbmazz_core.model.frame_columns import COMMIT_LSN, COUNT, XID, old_column, origin_column, value_column
from dbmazz_core.model.net_effect import Move, PartialUpdate
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import quote_identifier as quoted

#: Temporary tables are named so that they cannot hide a table of the user's.
_TEMPORARY = "temp.main."
#: In `Statements.take_equal`: whether a row goes.
GOES = "_dbmazz_goes"


class Statements:
    """Runs statements about one table in an open transaction. How names are told apart in them: see `sql`.

    Columns are given by their places in the schema.

    Args:
        connection: With a transaction begun.
        path: The file, for messages.
        schema: The table.

    Attributes:
        schema: The table.
        path: The file.
        table: Its quoted name.
        target: The same with its alias.
        places: Its own columns.
        key: Its key columns.
        on_key: Condition that the table's row has the key of the frame's.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema) -> None:
        self._connection = connection
        self._types = [column.type for column in schema.columns]
        self.path = path
        self.schema = schema
        self.table = qualified(connection, schema.table)
        self.target = f"{self.table} AS {TARGET}"
        self.places = range(len(schema.columns))
        self.key = schema.key_places
        self.on_key = " AND ".join(f"{self.stored(place)} = {sent(place)}" for place in self.key)

    # -- fragments

    def name(self, place: int) -> str:
        """The quoted name of a column, for the columns that a statement writes to."""
        return quoted(self.schema.names[place])

    def names(self, places: Iterable[int] | None = None) -> str:
        """Several; None: all."""
        return ", ".join(map(self.name, self.places if places is None else places))

    def stored(self, place: int) -> str:
        """A value of the table's row."""
        return f"{TARGET}.{self.name(place)}"

    def assignments(self, places: Iterable[int]) -> list[str]:
        """For SET: the frame's values for columns."""
        return [f"{self.name(place)} = {sent(place)}" for place in places]

    def source(self, places: Iterable[int], *others: str, origins: Iterable[int] = (), numbered: bool = False) -> str:
        """The frame as a subquery `SOURCE`: the table's columns in DuckDB's types, others as they are.

        Args:
            places: Columns.
            others: Names of other columns of the frame.
            origins: Columns of the keys under which rows were before.
            numbered: Whether its rows are told apart by a number, `ROW`, which says nothing of their order.
        """
        values = [self._value(value_column(place), place) for place in places]
        values += [self._value(origin_column(place), place) for place in origins]
        values += [f"{RAW}.{name} AS {name}" for name in others]
        values += [f"row_number() OVER () AS {ROW}"] if numbered else []
        return f"(SELECT {', '.join(values)} FROM {FRAME} AS {RAW}) AS {SOURCE}"

    def values(self) -> str:
        """All columns of `SOURCE`."""
        return ", ".join(map(sent, self.places))

    def in_type(self, column: str, place: int) -> str:
        """A value of the frame as it is, `RAW`, in the column's DuckDB type."""
        return expression(f"{RAW}.{column}", self._types[place])

    def _value(self, column: str, place: int) -> str:
        return f"{self.in_type(column, place)} AS {column}"

    def equal(self, places: Sequence[int]) -> str:
        """Condition that the table's row and the frame's are alike: NULL is like NULL, 0 is not like -0."""
        conditions = [f"{self.stored(place)} IS NOT DISTINCT FROM {sent(place)}" for place in places]
        conditions += filter(None, (self._alike(place) for place in places))
        return " AND ".join(conditions)

    def _alike(self, place: int) -> str | None:
        return alike(self.stored(place), sent(place), self._types[place])

    @property
    def row_id(self) -> str | None:
        """DuckDB's number of the table's row; None where a column of the table hides it, from every statement."""
        return None if any(fold(name) == "rowid" for name in self.schema.names) else f"{TARGET}.rowid"

    def matches(self, selected: str, *others: str, where: str) -> str:
        """A query for rows of the table that equal a row of the frame, in a table without a key.

        `GOES` is true for as many of each as the frame says, `COUNT`.

        Args:
            selected: What is selected beside `GOES`.
            others: Columns of the frame beside the table's.
            where: Which rows of the table count.
        """
        goes = f"row_number() OVER (PARTITION BY {SOURCE}.{ROW}) <= {SOURCE}.{COUNT}"
        return (
            f"SELECT {selected}, {goes} AS {GOES} FROM {self.target} "
            f"JOIN {self.source(self.places, COUNT, *others, numbered=True)} ON {self.equal(self.places)} WHERE {where}"
        )

    # -- statements

    def indistinct(self, rows: pl.DataFrame, places: Iterable[int]) -> str:
        """Condition that a value of the table equals that of the frame but is written otherwise.

        DuckDB leaves such a value as it is (tried, 1.4 and 2.0: it compares with what is stored, also of a value that
        was set to NULL in between), and to it -0 equals 0, a month 30 days. Empty if no row can have one.
        """
        conditions = []
        for place in places:
            type, stored, value = self._types[place], self.stored(place), sent(place)
            if type.is_nested or place in self.key:
                continue  # lists are written anew whatever they hold
            column = rows[value_column(place)]
            if type.carrier.is_float() and (column == 0).any():
                # Not `= 0` of the frame: pushed down to it, old pyarrow cannot filter its texts by it (tried, 18).
                conditions.append(f"{stored} = 0 AND coalesce({value}, 1) = 0 AND NOT {self._alike(place)}")
            elif type.kind is Kind.INTERVAL and column.null_count() < len(rows):
                conditions.append(f"{stored} = {value} AND NOT {self._alike(place)}")
        return " OR ".join(conditions)

    def replace_indistinct(self, update: PartialUpdate, *, besides: Sequence[str] = (), where: str = "true") -> None:
        """Delete rows of which `indistinct` is true and insert them again, with the values that were sent.

        Args:
            update: The update.
            besides: Columns of the table beside its own.
            where: Which rows of the table count.
        """
        indistinct = self.indistinct(update.frame, update.known)
        if not indistinct:
            return
        values = [
            f"{sent(place) if place in update.known else self.stored(place)} AS {value_column(place)}"
            for place in self.places
        ]
        values += [f"{TARGET}.{name} AS {name}" for name in besides]
        name = self.temporary(
            "_dbmazz_indistinct_updates",
            f"SELECT {', '.join(values)} FROM {self.target} JOIN {self.source((*self.key, *update.known))} "
            f"ON {self.on_key} WHERE {where} AND ({indistinct})",
            update.frame,
        )
        self.run(f"DELETE FROM {self.target} USING {name} AS {SOURCE} WHERE {self.on_key} AND {where}")
        columns = ", ".join([self.names(), *besides])
        values = [self.values(), *(f"{SOURCE}.{name}" for name in besides)]
        self.run(f"INSERT INTO {self.table} ({columns}) SELECT {', '.join(values)} FROM {name} AS {SOURCE}")
        self.run(f"DROP TABLE {name}")

    def take_equal(
        self, rows: pl.DataFrame, *others: str, besides: Sequence[str] = (), where: str = "true"
    ) -> tuple[str, int]:
        """Take all rows that equal one of the frame's out of a table without a key whose `row_id` is hidden.

        Equal rows cannot be told apart then: all of them are deleted, and those that stay have to be inserted again.

        Args:
            rows: The frame, with `COUNT`.
            others: Columns of it beside the table's.
            besides: Columns of the table beside its own: by places behind these.
            where: Which rows of the table count.

        Returns:
            A temporary table with the rows: columns by their places, the frame's others, `GOES`; and how many go.
        """
        stored = [self.stored(place) for place in self.places] + [f"{TARGET}.{name}" for name in besides]
        selected = [f"{value} AS {value_column(place)}" for place, value in enumerate(stored)]
        selected += [f"{SOURCE}.{name} AS {name}" for name in others]
        name = self.temporary("_dbmazz_equal_rows", self.matches(", ".join(selected), *others, where=where), rows)
        self.run(
            f"DELETE FROM {self.target} USING {self.source(self.places)} WHERE {self.equal(self.places)} AND {where}",
            rows,
        )
        found = self.first(f"SELECT count(*) FROM {name} AS {MADE} WHERE {MADE}.{GOES}")
        return name, int(found[0]) if found else 0

    def complete(self, move: Move, number: int, *, where: str = "true") -> str:
        """Fetch what a move lacks from the rows under their old keys, into a temporary table with the frame's other
        columns; its name.

        Args:
            move: The move.
            number: Tells the temporary tables of one effect apart.
            where: Which rows of the table count.

        Raises:
            UnknownValue: If there is not exactly one.
        """
        ours = {name(place) for name in (value_column, origin_column) for place in self.places}
        others = [name for name in move.frame.columns if name not in ours]
        sent_places = [place for place in self.places if place not in move.unknown]
        values = [
            f"{self.stored(place) if place in move.unknown else sent(place)} AS {value_column(place)}"
            for place in self.places
        ]
        values += [f"{SOURCE}.{name} AS {name}" for name in others]
        on = " AND ".join(f"{self.stored(place)} = {SOURCE}.{origin_column(place)}" for place in self.key)
        # A key that is equal to another one is not NULL.
        missing = f"{self.stored(self.key[0])} IS NULL AS _dbmazz_missing"
        found, name = self._temporary(
            f"_dbmazz_moved_{number}",
            f"SELECT {', '.join(values)}, {missing} FROM {self.source(sent_places, *others, origins=self.key)} "
            f"LEFT JOIN {self.target} ON {on} AND {where}",
            move.frame,
        )
        at = self.first(
            f"SELECT {MADE}.{COMMIT_LSN}, {MADE}.{XID} FROM {name} AS {MADE} WHERE {MADE}._dbmazz_missing LIMIT 1"
        )
        if at is not None or found != len(move.frame):
            raise self.unknown_value(at)
        return name

    def fill(self, value: pl.Series, place: int, lsn: Lsn, xid: int, assignments: str) -> int:
        """Give all rows a value in which the one of the series, `sent(place)`, takes part. It came by a transaction.
        How many rows there are."""
        frame = value.alias(value_column(place)).to_frame()
        frame = frame.with_columns(
            pl.lit(int(lsn), dtype=pl.UInt64).alias(COMMIT_LSN), pl.lit(xid, dtype=pl.UInt32).alias(XID)
        )
        return self.run(f"UPDATE {self.target} SET {assignments} FROM {self.source([place])}", frame)

    # -- running them

    def temporary(self, name: str, select: str, frame: pl.DataFrame | None = None) -> str:
        """Make a temporary table of a query that reads `frame`; its name for other statements."""
        return self._temporary(name, select, frame)[1]

    def _temporary(self, name: str, select: str, frame: pl.DataFrame | None) -> tuple[int, str]:
        return self.run(f"CREATE OR REPLACE TEMP TABLE {name} AS {select}", frame), _TEMPORARY + name

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
        position = ["0", "0"] if copied else [f"{RAW}.{COMMIT_LSN}", f"{RAW}.{XID}"]
        # A cursor of its own: the failure has aborted the transaction.
        with self._connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            for place, type in enumerate(self._types):
                for name in (value_column, old_column, origin_column):
                    if name(place) not in frame.columns or not needs_cast(type):
                        continue
                    value = misfit(f"{RAW}.{name(place)}", type)
                    keys = [key for key in sorted(self.key) if name(key) in frame.columns]
                    others = [*position, *(f"{RAW}.{name(key)}" for key in keys)]
                    found = self._query(
                        cursor,
                        f"SELECT {MADE}.* FROM (SELECT {value} AS _dbmazz_bad, {', '.join(others)} "
                        f"FROM {FRAME} AS {RAW}) AS {MADE} WHERE {MADE}._dbmazz_bad IS NOT NULL LIMIT 1",
                        frame,
                    )
                    if found is not None:
                        text, lsn, xid, *values = found
                        row = dict(zip(keys, values, strict=True)).get
                        raise bad_value(self.schema, place, str(text), Lsn(lsn), int(xid), row=row, copied=copied)

    def _query(
        self, connection: duckdb.DuckDBPyConnection, sql: str, frame: pl.DataFrame | None
    ) -> tuple[Any, ...] | None:
        rows = query(connection, sql, None if frame is None else arrow_table(self.schema, frame))
        return rows[0] if rows else None


def sent(place: int) -> str:
    """A value of the frame's row, in DuckDB's type."""
    return f"{SOURCE}.{value_column(place)}"
