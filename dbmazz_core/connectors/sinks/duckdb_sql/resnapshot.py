"""Copying a table again in a mode that keeps more than the source's rows: what was kept is carried over."""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import CHANGE, MARKS, SYNCED_AT, Columns
from dbmazz_core.connectors.sinks.duckdb_sql.sql import SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements, sent
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, DELETED, OLD, value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef
from dbmazz_core.table_ref import quote_identifier as quoted

#: The table as it was before.
_BEFORE, _B = "temp.main._dbmazz_before", "_dbmazz_b"


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
    names = [name for name, _ in MARKS]
    values = [*_values(do.schema, had), *(f"{_B}.{name} AS {name}" for name in names)]
    rows = f"SELECT {', '.join(values)} FROM {_BEFORE} AS {_B}"
    gone = [f"{DELETED} = true", f"{COMMIT_LSN} = {int(snapshot_lsn)}", f"{COMMIT_TS} = NULL", f"{SYNCED_AT} = now()"]
    into = f"INSERT INTO {do.table} ({', '.join([do.names(), *names])})"
    key = [do.schema.names[place] for place in do.key]
    if key and all(name in had for name in key):
        types = {name: do.schema.columns[place].type.duckdb for name, place in zip(key, do.key, strict=True)}
        if any(had[name] != types[name] for name in key):
            # A key of another type may have been written in another way: DuckDB casts 2.0 to '2.0', PostgreSQL to '2'.
            old = " AND ".join(f"TRY_CAST({TARGET}.{quoted(n)} AS {had[n]}) = {_B}.{quoted(n)}" for n in key)
            do.run(f"DELETE FROM {_BEFORE} AS {_B} USING {do.target} WHERE {old}")
        do.run(f"UPDATE {_BEFORE} AS {_B} SET {', '.join(gone)} WHERE NOT {_B}.{DELETED}")
        marks = ", ".join(f"{SOURCE}.{name}" for name in names)
        do.run(f"{into} SELECT {do.values()}, {marks} FROM ({rows}) AS {SOURCE} ANTI JOIN {do.target} ON {do.on_key}")
        return
    common = [place for place in do.places if do.schema.names[place] in had]
    if common:
        had_there, is_there = (", ".join(map(value, common)) for value in (sent, do.stored))
        lost = (
            f"SELECT {had_there} FROM ({rows} WHERE NOT {_B}.{DELETED}) AS {SOURCE} "
            f"EXCEPT ALL SELECT {is_there} FROM {do.target}"
        )
        do.run(
            f"INSERT INTO {do.table} ({', '.join([do.names(common), *names])}) "
            f"SELECT {had_there}, true, {int(snapshot_lsn)}, NULL, now() FROM ({lost}) AS {SOURCE}"
        )
    do.run(f"{into} {rows} WHERE {_B}.{DELETED}")


def carry_history(statements: Statements, before: Columns) -> None:
    """Bring the changes that were set aside into a changelog that was made anew, since its columns are others.

    Columns are found by name; a value that does not fit its column's new type is NULL.
    """
    had, do = dict(before), statements
    types = {name: column.type.duckdb for name, column in zip(do.schema.names, do.schema.columns, strict=True)}
    types |= {OLD + name: type for name, type in types.items()}
    values = {name: f"{_B}.{name}" for name, _ in CHANGE if name in had}
    values |= {quoted(name): _value(had[name], type, name) for name, type in types.items() if name in had}
    if values:
        do.run(
            f"INSERT INTO {do.table} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {_BEFORE} AS {_B}"
        )


def verify_later(statements: Statements, snapshot_lsn: Lsn) -> None:
    """Make sure that a copy comes behind the changes that a changelog holds.

    Raises:
        DestinationConflict: If it would not: the server was set back.
    """
    do = statements
    row = do.first(f"SELECT max({TARGET}.{COMMIT_LSN}) FROM {do.target}")
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


def _values(schema: TableSchema, had: dict[str, str]) -> list[str]:
    """The table's columns, by their places, from what it was before, each in its type of today."""
    values = []
    for place, column in enumerate(schema.columns):
        name, type = column.name, column.type.duckdb
        value = _value(had[name], type, name) if name in had else f"NULL::{type}"
        values.append(f"{value} AS {value_column(place)}")
    return values


def _value(had: str, type: str, name: str) -> str:
    return _cast(f"{_B}.{quoted(name)}", had, type)


def _cast(value: str, had: str, type: str, level: int = 0) -> str:
    """A value in another type, NULL if it does not fit."""
    if had == type:
        return value
    if had.endswith("[]") and type.endswith("[]"):
        element = f"_dbmazz_e{level}"
        return f"list_transform({value}, lambda {element}: {_cast(element, had[:-2], type[:-2], level + 1)})"
    cast = f"TRY_CAST({value} AS {type})"
    if had == "VARCHAR" and type in ("FLOAT", "DOUBLE"):
        # DuckDB reads a number that is too large as infinity (tried, 1.4 and 2.0).
        return f"CASE WHEN NOT isinf({cast}) OR contains(lower({value}), 'inf') THEN {cast} END"
    return cast
