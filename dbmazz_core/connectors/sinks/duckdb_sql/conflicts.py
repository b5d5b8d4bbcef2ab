"""Errors for tables that were changed by hand in DuckDB, and for indexes that prevent a change."""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql import shapes
from dbmazz_core.errors import DestinationConflict, DestinationOutOfMemory
from dbmazz_core.table_ref import TableRef, quote_identifier


def columns_changed(table: TableRef, path: str, expected: shapes.Columns, found: shapes.Columns) -> DestinationConflict:
    """Return the error for a table that was dropped or whose columns are not the recorded ones.

    Args:
        table: The table.
        path: The file, for messages.
        expected: The columns according to the bookkeeping.
        found: The columns that the table has; empty if it does not exist.
    """
    expected, found = ([*own, *of_dbmazz] for own, of_dbmazz in map(shapes.comparable, (expected, found)))
    if not found:
        change = "does not exist any more"
    else:
        missing = [f"{name} {type}" for name, type in expected if (name, type) not in found]
        added = [f"{name} {type}" for name, type in found if (name, type) not in expected]
        lists = (("it lacks", missing), ("it also has", added))
        parts = [f"{text}: {', '.join(columns)}" for text, columns in lists if columns]
        change = "was changed by hand; " + ("; ".join(parts) or "the order of its columns is different")
    return DestinationConflict(
        f"table {table} in {path} {change}",
        object=table,
        remedy=f"undo the change in DuckDB, or re-snapshot the table: dbmazz snapshot --tables '{table}'",
    )


def unrecorded_table(table: TableRef, path: str) -> DestinationConflict:
    """Return the error for a captured table that the bookkeeping does not contain."""
    return DestinationConflict(
        f"dbmazz's bookkeeping in {path} does not contain the table {table} any more",
        object=table,
        remedy=f"re-snapshot the table: dbmazz snapshot --tables '{table}'",
    )


def too_many_wide_rows(table: TableRef, path: str) -> DestinationOutOfMemory:
    """Return the error for wide rows that DuckDB cannot commit at once, where a copy of the table is no way out."""
    return DestinationOutOfMemory(
        f"a single transaction of dbmazz would write more wide rows into {table} in {path} than DuckDB's memory holds",
        object=table,
        remedy=f"raise SINK_MEMORY_LIMIT, then re-snapshot the table: dbmazz snapshot --tables '{table}'",
    )


def has_indexes_or_constraints(connection: duckdb.DuckDBPyConnection, table: TableRef) -> bool:
    """Return whether a table has indexes or constraints; dbmazz creates none."""
    return bool(_catalog_values(connection, "index_name FROM duckdb_indexes()", table)) or bool(
        _catalog_values(connection, "constraint_type FROM duckdb_constraints()", table)
    )


def verify_alterable(connection: duckdb.DuckDBPyConnection, path: str, table: TableRef) -> None:
    """Verify that a table has no index: DuckDB alters no column or name of such a table (tried, 1.4 and 2.0).

    Raises:
        DestinationConflict: If the table has an index.
    """
    names = [quote_identifier(name) for name in _catalog_values(connection, "index_name FROM duckdb_indexes()", table)]
    if not names:
        return
    schema = quote_identifier(table.schema)
    raise DestinationConflict(
        f"{table} changed in PostgreSQL, and in {path} it has indexes that dbmazz did not create: {', '.join(names)}; "
        "DuckDB does not alter a table with indexes; nothing of this flush was applied to the table",
        object=table,
        remedy="drop the indexes in DuckDB, and create them again afterwards: "
        + " ".join(f"DROP INDEX {schema}.{name};" for name in names)
        + f" or re-snapshot the table, without them: dbmazz snapshot --tables '{table}'",
    )


def _catalog_values(connection: duckdb.DuckDBPyConnection, selected: str, table: TableRef) -> list[str]:
    """Return the values of a table in a catalog function; `selected`: the column and FROM."""
    rows = connection.execute(
        f"SELECT {selected} WHERE database_name = current_database() AND schema_name = ? AND table_name = ?",
        [table.schema, table.name],
    ).fetchall()
    return [str(row[0]) for row in rows]
