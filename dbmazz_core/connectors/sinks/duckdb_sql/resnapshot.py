"""Re-snapshot a table in a mode that keeps more than the source's rows: restore the rows that the snapshot lacks.

Mode `soft_delete` keeps rows that are marked as deleted; mode `changelog` keeps changes.
"""

from __future__ import annotations

import itertools

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import CHANGE, MARKS, SYNCED_AT, Columns, read_columns
from dbmazz_core.connectors.sinks.duckdb_sql.sql import SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import TableSql, frame_value
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, DELETED, OLD, value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef
from dbmazz_core.table_ref import quote_identifier as quoted

#: The saved copy of the replaced table, and its alias.
_SAVED, _ALIAS = "temp.main._dbmazz_before", "_dbmazz_b"


def save_table(connection: duckdb.DuckDBPyConnection, table: TableRef) -> None:
    """Save the rows of a table that is about to be replaced in a temporary table.

    Not by renaming the table: RENAME fails for a table with an index (tried, 1.4 and 2.0).
    """
    name, source = _SAVED.removeprefix("temp.main."), qualified(connection, table)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {source}")


def drop_saved(connection: duckdb.DuckDBPyConnection) -> None:
    """Drop the saved table."""
    connection.execute(f"DROP TABLE IF EXISTS {_SAVED}")


def restore_deleted_rows(statements: Statements, saved: Columns, snapshot_lsn: Lsn) -> None:
    """Insert saved rows that are not in the snapshot into a table in mode `soft_delete`, marked as deleted.

    Rows that were marked before keep their marks. Rows that were live get the snapshot's LSN: they were deleted at an
    unknown position before it. Columns match by name. A value that the column's new type cannot hold becomes NULL.

    Args:
        statements: The table, with the rows of the snapshot.
        saved: The columns of the saved table.
        snapshot_lsn: LSN of the snapshot.
    """
    types, sql = dict(saved), statements.sql
    if DELETED not in types:
        return  # somebody dropped the marks
    for name, type in MARKS:
        statements.run(f"ALTER TABLE {_SAVED} ADD COLUMN IF NOT EXISTS {name} {type}")
    marks = [name for name, _ in MARKS]
    values = [*_select_list(sql.schema, types), *(f"{_ALIAS}.{name} AS {name}" for name in marks)]
    rows = f"SELECT {', '.join(values)} FROM {_SAVED} AS {_ALIAS}"
    key = [sql.schema.names[place] for place in sql.key]
    if key and all(name in types for name in key):
        _restore_by_key(statements, types, rows, snapshot_lsn)
        return
    common = [place for place in sql.places if sql.schema.names[place] in types]
    if common:
        saved_values = ", ".join(map(frame_value, common))
        table_values = ", ".join(map(sql.table_value, common))
        deleted = (
            f"SELECT {saved_values} FROM ({rows} WHERE NOT {_ALIAS}.{DELETED}) AS {SOURCE} "
            f"EXCEPT ALL SELECT {table_values} FROM {sql.target}"
        )
        statements.run(
            f"INSERT INTO {sql.table} ({', '.join([sql.names(common), *marks])}) "
            f"SELECT {saved_values}, true, {int(snapshot_lsn)}, NULL, now() FROM ({deleted}) AS {SOURCE}"
        )
    statements.run(f"{_insert_into(sql)} {rows} WHERE {_ALIAS}.{DELETED}")


def _restore_by_key(statements: Statements, types: dict[str, str], rows: str, snapshot_lsn: Lsn) -> None:
    """Insert saved rows whose keys are not in the snapshot, marked as deleted.

    Args:
        statements: The table.
        types: Columns of the saved table with their types.
        rows: Query for the saved rows: the table's columns as `value_column`, and the marks.
        snapshot_lsn: LSN of the snapshot.
    """
    sql = statements.sql
    key = {sql.schema.names[place]: sql.types[place].duckdb for place in sql.key}
    if any(types[name] != type for name, type in key.items()):
        # The text of a key can depend on its type: DuckDB casts the number 2.0 to '2.0', PostgreSQL to '2'. So compare
        # the keys in the old type, too.
        same = " AND ".join(f"TRY_CAST({TARGET}.{quoted(n)} AS {types[n]}) = {_ALIAS}.{quoted(n)}" for n in key)
        statements.run(f"DELETE FROM {_SAVED} AS {_ALIAS} USING {sql.target} WHERE {same}")
    deleted = [
        f"{DELETED} = true",
        f"{COMMIT_LSN} = {int(snapshot_lsn)}",
        f"{COMMIT_TS} = NULL",
        f"{SYNCED_AT} = now()",
    ]
    statements.run(f"UPDATE {_SAVED} AS {_ALIAS} SET {', '.join(deleted)} WHERE NOT {_ALIAS}.{DELETED}")
    marks = ", ".join(f"{SOURCE}.{name}" for name, _ in MARKS)
    statements.run(
        f"{_insert_into(sql)} SELECT {sql.values()}, {marks} FROM ({rows}) AS {SOURCE} "
        f"ANTI JOIN {sql.target} ON {sql.on_key}"
    )


def _insert_into(sql: TableSql) -> str:
    """Return INSERT INTO with the table's columns and the marks."""
    return f"INSERT INTO {sql.table} ({', '.join([sql.names(), *(name for name, _ in MARKS)])})"


def restore_changes(statements: Statements, saved: Columns) -> None:
    """Insert the saved changes into a changelog that was created again because its columns are different now.

    Columns are matched by name; a value that the column's new type cannot hold becomes NULL.

    Args:
        statements: The changelog.
        saved: The columns of the saved table.
    """
    saved_types, sql = dict(saved), statements.sql
    types = {name: type.duckdb for name, type in zip(sql.schema.names, sql.types, strict=True)}
    types |= {OLD + name: type for name, type in types.items()}
    values = {name: f"{_ALIAS}.{name}" for name, _ in CHANGE if name in saved_types}
    values |= {
        quoted(name): _saved_value(name, saved_types[name], type) for name, type in types.items() if name in saved_types
    }
    if values:
        statements.run(
            f"INSERT INTO {sql.table} ({', '.join(values)}) "
            f"SELECT {', '.join(values.values())} FROM {_SAVED} AS {_ALIAS}"
        )


def is_later(statements: Statements, snapshot_lsn: Lsn) -> bool:
    """Return whether a snapshot is later than all changes in a changelog.

    If not, the server was restored from an older state, or the tables have moved to another server.
    """
    sql = statements.sql
    row = statements.first_row(f"SELECT max({TARGET}.{COMMIT_LSN}) FROM {sql.target}")
    return row is None or row[0] is None or bool(row[0] < snapshot_lsn)


def set_changes_aside(connection: duckdb.DuckDBPyConnection, table: TableRef) -> TableRef:
    """Copy a changelog to a new table, and return the name of that table.

    LSNs order the changes of one server's history. Changes of another history, with other LSNs, need another table.
    """
    for number in itertools.count(1):
        aside = TableRef(table.schema, f"{table.name}_before_{number}")
        if not read_columns(connection, aside):
            break
    connection.execute(f"CREATE TABLE {qualified(connection, aside)} AS FROM {qualified(connection, table)}")
    return aside


def _select_list(schema: TableSchema, saved_types: dict[str, str]) -> list[str]:
    """Return the SELECT list that reads the table's columns from the saved table, in their types of today."""
    values = []
    for place, column in enumerate(schema.columns):
        name, type = column.name, column.type.duckdb
        value = _saved_value(name, saved_types[name], type) if name in saved_types else f"NULL::{type}"
        values.append(f"{value} AS {value_column(place)}")
    return values


def _saved_value(name: str, saved_type: str, type: str) -> str:
    """Return a column of the saved table, cast to another type; NULL if the type cannot hold the value."""
    return _cast(f"{_ALIAS}.{quoted(name)}", saved_type, type)


def _cast(value: str, saved_type: str, type: str, level: int = 0) -> str:
    """Return a cast that gives NULL if the type cannot hold the value; `level`: the number of lambdas around it."""
    if saved_type == type:
        return value
    if saved_type.endswith("[]") and type.endswith("[]"):
        element = f"_dbmazz_e{level}"
        cast = _cast(element, saved_type[:-2], type[:-2], level + 1)
        return f"list_transform({value}, lambda {element}: {cast})"
    cast = f"TRY_CAST({value} AS {type})"
    if saved_type == "VARCHAR" and type in ("FLOAT", "DOUBLE"):
        # DuckDB casts a number that is too large to infinity (tried, 1.4 and 2.0).
        return f"CASE WHEN NOT isinf({cast}) OR contains(lower({value}), 'inf') THEN {cast} END"
    return cast
