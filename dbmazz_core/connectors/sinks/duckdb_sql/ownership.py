"""Whose a table of the destination is: this slot's, another's, or not dbmazz's at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.bookkeeping import read_owners
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.table_ref import TableRef, quote_identifier


@dataclass(frozen=True, slots=True)
class Names:
    """Names that the file has.

    Attributes:
        schemas: By folded name: schemas.
        tables: By schema and folded name: tables and views, each with its `table_type`.
    """

    schemas: Mapping[str, str]
    tables: Mapping[tuple[str, str], tuple[TableRef, str]]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection) -> Self:
        """All of them, in one read."""
        schemas: dict[str, str] = {}
        tables: dict[tuple[str, str], tuple[TableRef, str]] = {}
        for schema, name, kind in connection.execute(
            "SELECT schema_name, NULL, NULL FROM information_schema.schemata WHERE catalog_name = current_database() "
            "UNION ALL SELECT table_schema, table_name, table_type FROM information_schema.tables "
            "WHERE table_catalog = current_database()",
        ).fetchall():
            if name is None:
                schemas[fold(schema)] = schema
            else:
                tables[schema, fold(name)] = TableRef(schema, name), kind
        return cls(schemas, tables)

    def like(self, table: TableRef) -> str | None:
        """A schema or table that CREATE OR REPLACE would take for this one."""
        schema = self.schemas.get(fold(table.schema), table.schema)
        if schema != table.schema:
            return f"schema {quote_identifier(schema)}"
        other, _ = self.tables.get((table.schema, fold(table.name)), (table, ""))
        return None if other == table else f"table {other}"


def owner_conflict(
    table: TableRef, slot: str, owners: Mapping[TableRef, str], names: Names, path: str
) -> DestinationConflict | None:
    """Why a table must not be written for a slot; None if it may be.

    Args:
        table: The table.
        slot: The slot.
        owners: By table: the slot that feeds it.
        names: Names that the file has.
        path: The file.
    """
    owner = owners.get(table)
    other, kind = names.tables.get((table.schema, fold(table.name)), (None, ""))
    if owner is None and other == table:
        return DestinationConflict(
            f"{path} already has a table {table} that dbmazz did not create",
            object=str(table),
            remedy=f"ALTER TABLE {table.sql} RENAME TO ...; or DROP TABLE {table.sql}; in DuckDB, or choose "
            "another file (SINK_URL)",
        )
    if owner is not None and other == table and kind == "VIEW":
        return DestinationConflict(
            f"{path} has a view in the place of the table {table}",
            object=str(table),
            remedy=f"DROP VIEW {table.sql}; in DuckDB, then copy the table anew: dbmazz snapshot --tables '{table}'",
        )
    if owner is None and (like := names.like(table)):
        return DestinationConflict(
            f"{path} already has {like}, which is one name with {table} to DuckDB",
            object=str(table),
            remedy="leave one of them out of TABLES, rename it in PostgreSQL, or choose another SINK_URL; "
            f"if nobody needs {like} any more, drop it in DuckDB",
        )
    if owner not in (None, slot):
        return DestinationConflict(
            f"table {table} in {path} is kept by replication slot {owner}, not {slot}",
            object=str(table),
            remedy="use that slot (SOURCE_SLOT_NAME), or another file (SINK_URL)",
        )
    return None


def owner_conflicts(
    connection: duckdb.DuckDBPyConnection,
    tables: Collection[TableRef],
    owners: Mapping[TableRef, str],
    slot: str,
    path: str,
) -> dict[TableRef, DestinationConflict]:
    """Return the tables that must not be written for a slot, and why.

    Args:
        connection: The file.
        tables: The tables.
        owners: By table: the slot that feeds it.
        slot: The slot.
        path: How errors name the file.
    """
    names = Names.read(connection)
    found = ((table, owner_conflict(table, slot, owners, names, path)) for table in tables)
    return {table: conflict for table, conflict in found if conflict is not None}


def verify_owner(connection: duckdb.DuckDBPyConnection, table: TableRef, slot: str, path: str) -> None:
    """Raise DestinationConflict if a table must not be written for a slot."""
    for conflict in owner_conflicts(connection, [table], read_owners(connection), slot, path).values():
        raise conflict


def verify_renames(
    connection: duckdb.DuckDBPyConnection, names: Mapping[TableRef, TableRef], slot: str, path: str
) -> None:
    """Raise DestinationConflict if a table's new name is taken, and not by a table that is renamed as well."""
    leaving = {(old.schema, fold(old.name)) for old in names}
    for new in names.values():
        if (new.schema, fold(new.name)) not in leaving:
            verify_owner(connection, new, slot, path)
