"""Rows of a table without a key that equal a row of a frame: a removal removes a number of equal rows."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, ROW, SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import TableSql
from dbmazz_core.model.frame_columns import COUNT, value_column

#: Column of `select_equal_rows`: whether the row is one of those to remove.
IS_REMOVED = "_dbmazz_goes"


def select_equal_rows(sql: TableSql, selected: str, *others: str, where: str) -> str:
    """Return a query for the rows of a table that are identical to a row of the frame.

    `IS_REMOVED` is true for as many of them as the frame's `COUNT` says.

    Args:
        sql: The table.
        selected: SELECT list without `IS_REMOVED`.
        others: Columns of the frame that `selected` reads, other than the table's.
        where: Condition for the rows of the table that count.
    """
    is_removed = f"row_number() OVER (PARTITION BY {SOURCE}.{ROW}) <= {SOURCE}.{COUNT}"
    return (
        f"SELECT {selected}, {is_removed} AS {IS_REMOVED} FROM {sql.target} "
        f"JOIN {sql.source(sql.places, COUNT, *others, numbered=True)} ON {sql.identical(sql.places)} WHERE {where}"
    )


def move_equal_rows(
    statements: Statements, rows: pl.DataFrame, *others: str, marks: Sequence[str] = (), where: str = "true"
) -> tuple[str, int]:
    """Move all rows that are identical to a row of the frame from the table to a temporary table.

    A table whose column hides DuckDB's row id needs this: a statement cannot delete only some of equal rows there. The
    caller inserts again the rows that stay.

    Args:
        statements: The table.
        rows: All columns and `COUNT`.
        others: Other columns of the frame to keep.
        marks: dbmazz's columns of the table to keep.
        where: Condition for the rows of the table that count.

    Returns:
        The temporary table, and the number of rows with `IS_REMOVED`. Its columns: the table's columns as
        `value_column`, `marks` as the `value_column` places after them, `others`, `IS_REMOVED`.
    """
    sql = statements.sql
    stored = [sql.table_value(place) for place in sql.places] + [f"{TARGET}.{name}" for name in marks]
    selected = [f"{value} AS {value_column(place)}" for place, value in enumerate(stored)]
    selected += [f"{SOURCE}.{name} AS {name}" for name in others]
    query = select_equal_rows(sql, ", ".join(selected), *others, where=where)
    name, _ = statements.create_temporary("_dbmazz_equal_rows", query, rows)
    statements.run(
        f"DELETE FROM {sql.target} USING {sql.source(sql.places)} WHERE {sql.identical(sql.places)} AND {where}",
        rows,
    )
    found = statements.first_row(f"SELECT count(*) FROM {name} AS {DERIVED} WHERE {DERIVED}.{IS_REMOVED}")
    return name, int(found[0]) if found else 0
