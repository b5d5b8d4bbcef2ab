"""Update rows by deleting them and inserting them again with the new values."""

from __future__ import annotations

from collections.abc import Mapping

from dbmazz_core.connectors.sinks.duckdb_sql.sql import SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import frame_value
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.net_effect import PartialUpdate

_NAME = "_dbmazz_replaced"


def keep(*marks: str) -> dict[str, str]:
    """Return dbmazz's columns with the values that the table's rows have."""
    return {name: f"{TARGET}.{name}" for name in marks}


def replace_rows(
    statements: Statements,
    update: PartialUpdate,
    condition: str = "true",
    *,
    others: tuple[str, ...] = (),
    marks: Mapping[str, str] | None = None,
    where: str = "true",
) -> int:
    """Replace the rows of an update, and return their number.

    Args:
        statements: The table.
        update: The update.
        condition: Which of the pairs of rows, the table's and the frame's, to replace.
        others: Other columns of the frame that `marks` read.
        marks: Values of dbmazz's columns of the table.
        where: Condition for the rows of the table that count.
    """
    sql, marks = statements.sql, marks or {}
    values = [
        f"{frame_value(place) if place in update.known else sql.table_value(place)} AS {value_column(place)}"
        for place in sql.places
    ]
    values += [f"{value} AS {name}" for name, value in marks.items()]
    name, found = statements.create_temporary(
        _NAME,
        f"SELECT {', '.join(values)} FROM {sql.target} JOIN {sql.source((*sql.key, *update.known), *others)} "
        f"ON {sql.on_key} WHERE {where} AND ({condition})",
        update.frame,
    )
    statements.run(f"DELETE FROM {sql.target} USING {name} AS {SOURCE} WHERE {sql.on_key} AND {where}")
    columns = ", ".join([sql.names(), *marks])
    values = [sql.values(), *(f"{SOURCE}.{name}" for name in marks)]
    statements.run(f"INSERT INTO {sql.table} ({columns}) SELECT {', '.join(values)} FROM {name} AS {SOURCE}")
    statements.run(f"DROP TABLE {name}")
    return found
