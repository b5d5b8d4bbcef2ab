"""Columns of the tables in DuckDB, by mode.

| mode          | columns                                                                                     |
|---------------|---------------------------------------------------------------------------------------------|
| `mirror`      | the table's own                                                                             |
| `soft_delete` | the table's own, then `MARKS`                                                               |
| `changelog`   | `CHANGE`, the table's own (new row), the table's own with the prefix `OLD` (old row)        |

Names of dbmazz's columns begin with `_dbmazz_`; names of captured columns must not.
"""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.sql import TARGET
from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import (
    COMMIT_LSN,
    COMMIT_TS,
    DELETED,
    KNOWN_OLD,
    OLD,
    OP,
    ORDINAL,
    PREFIX,
    UNCHANGED,
    XID,
)
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef

#: Names in DuckDB's catalog of types that also have a shorter name.
_TYPE_NAMES = {Kind.TIMESTAMPTZ: "TIMESTAMP WITH TIME ZONE", Kind.TIMETZ: "TIME WITH TIME ZONE"}

SYNCED_AT = PREFIX + "synced_at"

#: Column names and DuckDB's types, in the table's order.
Columns = list[tuple[str, str]]

#: dbmazz's columns in mode `soft_delete`.
MARKS: Columns = [(DELETED, "BOOLEAN"), (COMMIT_LSN, "UBIGINT"), (COMMIT_TS, "TIMESTAMPTZ"), (SYNCED_AT, "TIMESTAMPTZ")]
#: dbmazz's columns in mode `changelog`, in front of the table's own.
CHANGE: Columns = [
    (OP, "VARCHAR"),
    (COMMIT_LSN, "UBIGINT"),
    (COMMIT_TS, "TIMESTAMPTZ"),
    (XID, "UINTEGER"),
    (ORDINAL, "BIGINT"),
    (SYNCED_AT, "TIMESTAMPTZ"),
    (UNCHANGED, "VARCHAR[]"),
    (KNOWN_OLD, "VARCHAR[]"),
]

#: Condition on the table `sql.TARGET` for the rows that the source has. A changelog holds changes; all of them count.
LIVE = {Mode.MIRROR: "true", Mode.SOFT_DELETE: f"NOT {TARGET}.{DELETED}", Mode.CHANGELOG: "true"}

#: Names in DuckDB's catalog of types that also have a shorter name.
_CATALOG_NAMES = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}


def columns(schema: TableSchema, mode: Mode) -> Columns:
    """Return the columns of a table in a mode, in the order in which they are created."""
    own = [(c.name, type_name(c.type)) for c in schema.columns]
    match mode:
        case Mode.MIRROR:
            return own
        case Mode.SOFT_DELETE:
            return [*own, *MARKS]
        case Mode.CHANGELOG:
            return [*CHANGE, *own, *((OLD + name, type) for name, type in own)]


def read_columns(connection: duckdb.DuckDBPyConnection, table: TableRef) -> Columns:
    """Return the columns that a table has now, in their order; an empty list if it does not exist."""
    return connection.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_catalog = current_database() "
        "AND table_schema = ? AND table_name = ? ORDER BY ordinal_position",
        [table.schema, table.name],
    ).fetchall()


def read_all_columns(connection: duckdb.DuckDBPyConnection) -> dict[TableRef, Columns]:
    """Return the columns that every table and view has now, from one query."""
    found: dict[TableRef, Columns] = {}
    for schema, table, column, type in connection.execute(
        "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns "
        "WHERE table_catalog = current_database() ORDER BY table_schema, table_name, ordinal_position"
    ).fetchall():
        found.setdefault(TableRef(schema, table), []).append((column, type))
    return found


def comparable(found: Columns) -> tuple[Columns, Columns]:
    """Return columns in a form in which recorded and found columns are equal if the table did not change.

    Returns:
        The table's own columns in their order, and dbmazz's columns sorted: an added column comes after dbmazz's, so
        their positions differ. Types have the names of `information_schema`.
    """
    spelled = [(name, _CATALOG_NAMES.get(type, type)) for name, type in found]
    own = [column for column in spelled if not column[0].startswith(PREFIX)]
    return own, sorted(column for column in spelled if column[0].startswith(PREFIX))


def type_name(type: DataType) -> str:
    """Return the type's name in DuckDB's catalog.

    >>> type_name(DataType.list_of(DataType(Kind.TIMESTAMPTZ)))
    'TIMESTAMP WITH TIME ZONE[]'
    """
    if type.element is not None:
        return f"{type_name(type.element)}[]"
    return _TYPE_NAMES.get(type.kind, type.duckdb)
