"""Copies of tables that are not complete, in `_dbmazz.copies`: the table that holds their rows, and their progress."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.model.copy_progress import CopyProgress
from dbmazz_core.model.policies import Mode
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class RecordedCopy:
    """A copy that is not complete.

    Attributes:
        rows: The table that holds its rows.
        mode: The mode for which they were written.
        progress: How far it has come.
    """

    rows: TableRef
    mode: Mode
    progress: CopyProgress


def read_copy(connection: duckdb.DuckDBPyConnection, table: TableRef, *, slot: str) -> RecordedCopy | None:
    """Return the copy of a table that a slot has begun; None if there is none."""
    row = connection.execute(
        "SELECT rows_in, mode, mark, finished, row_count FROM _dbmazz.copies "
        "WHERE slot = ? AND schema_name = ? AND table_name = ?",
        [slot, table.schema, table.name],
    ).fetchone()
    if row is None:
        return None
    rows_in, mode, mark, finished, count = row
    parts = tuple((first, last) for first, last in json.loads(finished))
    return RecordedCopy(TableRef(table.schema, rows_in), Mode(mode), CopyProgress(mark, parts, count))


def read_names(connection: duckdb.DuckDBPyConnection, schema: str) -> set[str]:
    """Return the names of the tables of a schema that hold the rows of copies."""
    rows = connection.execute("SELECT rows_in FROM _dbmazz.copies WHERE schema_name = ?", [schema]).fetchall()
    return {str(name) for (name,) in rows}


def write_copy(connection: duckdb.DuckDBPyConnection, table: TableRef, copy: RecordedCopy, *, slot: str) -> None:
    """Record the progress of a copy of a table that a slot has begun, in place of what is recorded."""
    connection.execute(
        "DELETE FROM _dbmazz.copies WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )
    connection.execute(
        "INSERT INTO _dbmazz.copies (slot, schema_name, table_name, rows_in, mode, mark, finished, row_count, "
        "updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, now())",
        [
            *(slot, table.schema, table.name, copy.rows.name, copy.mode.value),
            *(copy.progress.mark, json.dumps(copy.progress.finished), copy.progress.rows),
        ],
    )


def end_copies(
    connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], *, keep: TableRef | None = None
) -> None:
    """Delete what is recorded of copies of tables, and drop the tables that hold their rows.

    Args:
        connection: The file.
        tables: The copied tables.
        keep: A table that is not dropped.
    """
    for table in tables:
        rows = connection.execute(
            "DELETE FROM _dbmazz.copies WHERE schema_name = ? AND table_name = ? RETURNING rows_in",
            [table.schema, table.name],
        ).fetchall()
        for (name,) in rows:
            if (rows_in := TableRef(table.schema, str(name))) != keep:
                connection.execute(f"DROP TABLE IF EXISTS {qualified(connection, rows_in)}")
