"""Updates to a value that DuckDB considers equal to the old one, such as 0 and -0.

DuckDB keeps the old value in such an UPDATE (tried, 1.4 and 2.0): it compares the new value with the stored value, even
if the column was set to NULL in between. In DuckDB 0 equals -0, and a month equals 30 days. To store the new value, the
row must be deleted and inserted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.replacement import keep, replace_rows
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import TableSql, frame_value
from dbmazz_core.model.datatypes import Kind
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.net_effect import PartialUpdate


def is_indistinct(sql: TableSql, rows: pl.DataFrame, places: Iterable[int]) -> str:
    """Return the condition that a value of the table equals the frame's value but has another text.

    Args:
        sql: The table.
        rows: The frame.
        places: The columns to compare.

    Returns:
        The condition; empty if no row of the frame can fulfil it.
    """
    conditions = []
    for place in places:
        type, stored, value = sql.types[place], sql.table_value(place), frame_value(place)
        if type.is_nested or place in sql.key:
            continue  # an UPDATE always writes lists
        column = rows[value_column(place)]
        if type.carrier.is_float() and (column == 0).any():
            # Not `= 0` on the frame: DuckDB would push that filter down to pyarrow, and old versions of pyarrow cannot
            # filter a frame's texts by it (tried, 18).
            conditions.append(f"{stored} = 0 AND coalesce({value}, 1) = 0 AND NOT {sql.same_text(place)}")
        elif type.kind is Kind.INTERVAL and column.null_count() < len(rows):
            conditions.append(f"{stored} = {value} AND NOT {sql.same_text(place)}")
    return " OR ".join(conditions)


def replace_indistinct(
    statements: Statements, update: PartialUpdate, *, marks: Sequence[str] = (), where: str = "true"
) -> None:
    """Delete the rows for which `is_indistinct` holds, and insert them again with the new values.

    Args:
        statements: The table.
        update: The update.
        marks: dbmazz's columns of the table; they keep their values.
        where: Condition for the rows of the table that count.
    """
    sql = statements.sql
    indistinct = is_indistinct(sql, update.frame, update.known)
    if not indistinct:
        return
    replace_rows(statements, update, indistinct, marks=keep(*marks), where=where)
