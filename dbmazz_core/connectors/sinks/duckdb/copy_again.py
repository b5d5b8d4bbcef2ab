"""Copying a table again in a mode that keeps more than the source's rows: what was kept is carried over."""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb.names import qualified
from dbmazz_core.connectors.sinks.duckdb.shapes import CHANGE, MARKS, SYNCED_AT, Columns
from dbmazz_core.connectors.sinks.duckdb.statements import Statements
from dbmazz_core.engine.changelog import OLD
from dbmazz_core.engine.effect import COMMIT_LSN, COMMIT_TS, DELETED
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.lsn import Lsn
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import TableRef
from dbmazz_core.tables import quote_identifier as quoted

#: The table as it was before.
_BEFORE = "temp.main._dbmazz_before"


def set_aside(connection: duckdb.DuckDBPyConnection, table: TableRef) -> None:
    """Keep a copy of a table that is going to be replaced, until the copy is complete.

    Not by renaming: that fails where somebody has made an index (tried, 1.4 and 2.0).
    """
    name, source = _BEFORE.removeprefix("temp.main."), qualified(connection, table)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {source}")


def forget(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop what was set aside."""
    connection.execute(f"DROP TABLE IF EXISTS {_BEFORE}")


def carry_marked(statements: Statements, before: Columns, snapshot_lsn: Lsn) -> None:
    """Add to a table that was copied again the rows that were set aside and are not in the copy, marked as deleted.

    Those that had been marked keep their marks; those that went without our seeing it get the snapshot's LSN. Columns
    are found by name; a value that does not fit its column's new type is NULL.

    Args:
        statements: Of the table, which holds the copied rows.
        before: The columns it had.
        snapshot_lsn: The copy's.
    """
    had, do = dict(before), statements
    if DELETED not in had:
        return  # somebody dropped the marks
    for name, type in MARKS:
        do.run(f"ALTER TABLE {_BEFORE} ADD COLUMN IF NOT EXISTS {name} {type}")
    own, marks = ", ".join(map(quoted, do.names)), ", ".join(name for name, _ in MARKS)
    rows = f"SELECT {_values(do.schema, had)}, {marks} FROM {_BEFORE} b"
    gone = [f"{DELETED} = true", f"{COMMIT_LSN} = {int(snapshot_lsn)}", f"{COMMIT_TS} = NULL", f"{SYNCED_AT} = now()"]
    into = f"INSERT INTO {do.table} ({own}, {marks})"
    if do.key and all(name in had for name in do.key):
        types = {column.name: column.type.duckdb for column in do.schema.columns}
        if any(had[name] != types[name] for name in do.key):
            # A key of another type may have been written in another way: DuckDB casts 2.0 to '2.0', PostgreSQL to '2'.
            old = " AND ".join(f"TRY_CAST(t.{quoted(name)} AS {had[name]}) = b.{quoted(name)}" for name in do.key)
            do.run(f"DELETE FROM {_BEFORE} b USING {do.table} t WHERE {old}")
        do.run(f"UPDATE {_BEFORE} SET {', '.join(gone)} WHERE NOT {DELETED}")
        on = " AND ".join(f"t.{quoted(name)} = b.{quoted(name)}" for name in do.key)
        do.run(f"{into} SELECT {own}, {marks} FROM ({rows}) b ANTI JOIN {do.table} t ON {on}")
        return
    common = ", ".join(quoted(name) for name in do.names if name in had)
    if common:
        do.run(
            f"INSERT INTO {do.table} ({common}, {marks}) "
            f"SELECT {common}, true, {int(snapshot_lsn)}, NULL, now() FROM ("
            f"SELECT {common} FROM ({rows} WHERE NOT {DELETED}) EXCEPT ALL SELECT {common} FROM {do.table})"
        )
    do.run(f"{into} {rows} WHERE {DELETED}")


def carry_history(statements: Statements, before: Columns) -> None:
    """Bring the changes that were set aside into a changelog that was made anew, since its columns are others.

    Columns are found by name; a value that does not fit its column's new type is NULL.
    """
    had, do = dict(before), statements
    meta = [name for name, _ in CHANGE if name in had]
    own = [name for name in do.names if name in had]
    old = [OLD + name for name in do.names if OLD + name in had]
    columns = ", ".join([*meta, *map(quoted, own), *map(quoted, old)])
    types = {column.name: column.type.duckdb for column in do.schema.columns}
    values = [*meta, *(_value(had[n], types[n], n) for n in own)]
    values += [_value(had[n], types[n.removeprefix(OLD)], n) for n in old]
    if columns:
        do.run(f"INSERT INTO {do.table} ({columns}) SELECT {', '.join(values)} FROM {_BEFORE} b")


def verify_later(statements: Statements, snapshot_lsn: Lsn) -> None:
    """Make sure that a copy comes behind the changes that a changelog holds.

    Raises:
        DestinationConflict: If it would not: the server was set back.
    """
    do = statements
    row = do.first(f"SELECT max({COMMIT_LSN}) FROM {do.table}")
    if row is None or row[0] is None or row[0] < snapshot_lsn:
        return
    table = do.schema.table
    raise DestinationConflict(
        f"the changelog {table} in {do.path} holds changes up to {Lsn(row[0])}, and the table would be copied as of "
        f"{snapshot_lsn}, before them: PostgreSQL was restored from an older state",
        object=str(table),
        remedy=f"put the history aside: CREATE TABLE <name> AS FROM {table.sql}; DROP TABLE {table.sql}; in DuckDB, "
        f"then dbmazz snapshot --tables '{table}'",
    )


def _values(schema: TableSchema, had: dict[str, str]) -> str:
    """The table's columns from what it was before, each in its type of today."""
    values = []
    for column in schema.columns:
        name, type = column.name, column.type.duckdb
        value = _value(had[name], type, name) if name in had else f"NULL::{type}"
        values.append(f"{value} AS {quoted(name)}")
    return ", ".join(values)


def _value(had: str, type: str, name: str) -> str:
    column = f"b.{quoted(name)}"
    return column if had == type else f"TRY_CAST({column} AS {type})"
