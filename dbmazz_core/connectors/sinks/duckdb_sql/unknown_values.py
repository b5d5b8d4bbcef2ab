"""Values that PostgreSQL did not send (unchanged TOAST values) and that the destination's row holds."""

from __future__ import annotations

from typing import Any

from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import frame_value
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, XID, origin_column, value_column
from dbmazz_core.model.net_effect import Move
from dbmazz_core.table_ref import TableRef


def fetch_unknown_values(statements: Statements, move: Move, number: int, *, where: str = "true") -> str:
    """Complete the rows of a move with the values that the rows under their old keys hold.

    Args:
        statements: The table.
        move: The move.
        number: Distinguishes the temporary tables of one net effect.
        where: Condition for the rows of the table that count.

    Returns:
        A temporary table with the complete rows: the table's columns as `value_column`, and the frame's other columns.

    Raises:
        UnknownValue: If the table does not hold exactly one row under an old key.
    """
    sql = statements.sql
    of_table = {name(place) for name in (value_column, origin_column) for place in sql.places}
    others = [name for name in move.frame.columns if name not in of_table]
    known = [place for place in sql.places if place not in move.unknown]
    values = [
        f"{sql.table_value(place) if place in move.unknown else frame_value(place)} AS {value_column(place)}"
        for place in sql.places
    ]
    values += [f"{SOURCE}.{name} AS {name}" for name in others]
    on = " AND ".join(f"{sql.table_value(place)} = {SOURCE}.{origin_column(place)}" for place in sql.key)
    # A key column that matched is not NULL.
    missing = f"{sql.table_value(sql.key[0])} IS NULL AS _dbmazz_missing"
    name, found = statements.create_temporary(
        f"_dbmazz_moved_{number}",
        f"SELECT {', '.join(values)}, {missing} FROM {sql.source(known, *others, origins=sql.key)} "
        f"LEFT JOIN {sql.target} ON {on} AND {where}",
        move.frame,
    )
    at = statements.first_row(
        f"SELECT {DERIVED}.{COMMIT_LSN}, {DERIVED}.{XID} FROM {name} AS {DERIVED} "
        f"WHERE {DERIVED}._dbmazz_missing LIMIT 1"
    )
    if at is not None or found != len(move.frame):
        raise unknown_value(sql.schema.table, at)
    return name


def unknown_value(table: TableRef, at: tuple[Any, ...] | None) -> UnknownValue:
    """Return the error for an update without all values whose row the destination does not hold exactly once.

    Args:
        table: The table.
        at: Commit LSN and transaction id of the change, if they are known.
    """
    where = f"transaction {at[1]} committed at {Lsn(at[0])}" if at else "this flush"
    return UnknownValue(
        f"{table}: {where} updates a row that the destination does not hold exactly once, and PostgreSQL did not send "
        "its unchanged TOAST values; nothing of this flush was applied to the table",
        object=table,
        remedy=f"re-snapshot the table: dbmazz snapshot --tables '{table}'; or have PostgreSQL send whole rows from "
        f"now on: ALTER TABLE {table.sql} REPLICA IDENTITY FULL;",
    )
