"""Tables that cannot be, or are not any more, what they should be in DuckDB."""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql import shapes
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.table_ref import TableRef, quote_identifier


def changed_by_hand(table: TableRef, path: str, expected: shapes.Columns, found: shapes.Columns) -> DestinationConflict:
    expected, found = ([*own, *ours] for own, ours in map(shapes.comparable, (expected, found)))
    if not found:
        what = "is gone"
    else:
        lost = [f"{name} {type}" for name, type in expected if (name, type) not in found]
        more = [f"{name} {type}" for name, type in found if (name, type) not in expected]
        parts = [f"{text}: {', '.join(names)}" for text, names in (("lacks", lost), ("has besides", more)) if names]
        what = "was changed by hand; it " + ("; ".join(parts) or "has its columns in another order")
    return DestinationConflict(
        f"table {table} in {path} {what}",
        object=str(table),
        remedy=f"undo the change, or copy the table anew: dbmazz snapshot --tables '{table}'",
    )


def unknown_table(table: TableRef, path: str) -> DestinationConflict:
    """Return the error for a captured table that the bookkeeping does not have."""
    return DestinationConflict(
        f"{path} does not know the table {table} any more",
        object=str(table),
        remedy=f"copy the table anew: dbmazz snapshot --tables '{table}'",
    )


def has_additions(connection: duckdb.DuckDBPyConnection, table: TableRef) -> bool:
    """Whether a table has indexes or constraints, of which dbmazz makes none."""
    return bool(_of_table(connection, "index_name FROM duckdb_indexes()", table)) or bool(
        _of_table(connection, "constraint_type FROM duckdb_constraints()", table)
    )


def verify_alterable(connection: duckdb.DuckDBPyConnection, path: str, table: TableRef) -> None:
    """DuckDB alters no column or name of a table that has an index (tried, 1.4 and 2.0)."""
    names = [quote_identifier(name) for name in _of_table(connection, "index_name FROM duckdb_indexes()", table)]
    if not names:
        return
    schema = quote_identifier(table.schema)
    raise DestinationConflict(
        f"{table} changed in PostgreSQL, and in {path} it has indexes that dbmazz did not make, with which DuckDB does "
        f"not alter a table: {', '.join(names)}; nothing of this flush was applied",
        object=str(table),
        remedy="drop them in DuckDB, and make them again afterwards: "
        + " ".join(f"DROP INDEX {schema}.{name};" for name in names)
        + f" or copy the table anew, without them: dbmazz snapshot --tables '{table}'",
    )


def _of_table(connection: duckdb.DuckDBPyConnection, what: str, table: TableRef) -> list[str]:
    """A column of one of the functions that tell of all tables."""
    rows = connection.execute(
        f"SELECT {what} WHERE database_name = current_database() AND schema_name = ? AND table_name = ?",
        [table.schema, table.name],
    ).fetchall()
    return [str(row[0]) for row in rows]
