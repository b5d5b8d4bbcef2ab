"""Verify that a slot may write a table: no other slot feeds it, and dbmazz created it or its name is free."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.connectors.sinks.duckdb_sql.table_records import read_owners
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.table_ref import TableRef, quote_identifier


@dataclass(frozen=True, slots=True)
class CatalogNames:
    """Names of the schemas, tables and views in the file.

    Attributes:
        schemas: Schemas by folded name (`names.fold`).
        tables: Tables and views by schema and folded name, each with its `table_type`.
    """

    schemas: dict[str, str]
    tables: dict[tuple[str, str], tuple[TableRef, str]]

    @classmethod
    def read(cls, connection: duckdb.DuckDBPyConnection) -> Self:
        """Return all names in the file, from one query."""
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

    def has(self, table: TableRef) -> bool:
        """Return whether the file has a table or view of this name."""
        return self.tables.get((table.schema, fold(table.name)), (None, ""))[0] == table

    def add(self, table: TableRef) -> None:
        """Add a table that was created, or replaced another one."""
        self.schemas.setdefault(fold(table.schema), table.schema)
        self.tables[table.schema, fold(table.name)] = table, "BASE TABLE"

    def colliding(self, table: TableRef) -> str | None:
        """Return the other schema or table that CREATE OR REPLACE TABLE would use or replace; None if none."""
        schema = self.schemas.get(fold(table.schema), table.schema)
        if schema != table.schema:
            return f"schema {quote_identifier(schema)}"
        other, _ = self.tables.get((table.schema, fold(table.name)), (table, ""))
        return None if other == table else f"table {other}"


def owner_conflict(
    table: TableRef, slot: str, owners: Mapping[TableRef, str], names: CatalogNames, path: str
) -> DestinationConflict | None:
    """Return the error if a slot must not write a table; None if it may.

    Args:
        table: The table.
        slot: The slot.
        owners: The slot that feeds each recorded table.
        names: The names in the file.
        path: The file, for messages.
    """
    owner = owners.get(table)
    other, kind = names.tables.get((table.schema, fold(table.name)), (None, ""))
    if owner is None and other == table:
        return DestinationConflict(
            f"{path} already has a table {table} that dbmazz did not create",
            object=table,
            remedy=f"ALTER TABLE {table.sql} RENAME TO ...; or DROP TABLE {table.sql}; in DuckDB, or choose "
            "another file (SINK_URL)",
        )
    if owner is not None and other == table and kind == "VIEW":
        return DestinationConflict(
            f"{path} has a view in place of the table {table}",
            object=table,
            remedy=f"DROP VIEW {table.sql}; in DuckDB, then re-snapshot the table: dbmazz snapshot --tables '{table}'",
        )
    if owner is None and (colliding := names.colliding(table)):
        return DestinationConflict(
            f"{path} already has {colliding}, whose name DuckDB does not distinguish from {table}",
            object=table,
            remedy="leave one of them out of TABLES, rename it in PostgreSQL, or choose another SINK_URL; "
            f"if nobody needs {colliding} any more, drop it in DuckDB",
        )
    if owner not in (None, slot):
        return DestinationConflict(
            f"replication slot {owner} feeds the table {table} in {path}, not {slot}",
            object=table,
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
    """Return the tables that a slot must not write, each with the error.

    Args:
        connection: The file.
        tables: The tables.
        owners: The slot that feeds each recorded table.
        slot: The slot.
        path: The file, for messages.
    """
    names = CatalogNames.read(connection)
    found = ((table, owner_conflict(table, slot, owners, names, path)) for table in tables)
    return {table: conflict for table, conflict in found if conflict is not None}


class Owners:
    """The names in the file, and who feeds its tables, within a transaction that creates tables.

    Args:
        connection: The file.
        slot: The slot that the tables are created for.
        path: The file, for messages.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, slot: str, path: str) -> None:
        self._slot = slot
        self._path = path
        self._names = CatalogNames.read(connection)
        self._owners = read_owners(connection)

    def verify(self, table: TableRef) -> None:
        """Verify that the slot may write a table.

        Raises:
            DestinationConflict: If it must not.
        """
        if conflict := owner_conflict(table, self._slot, self._owners, self._names, self._path):
            raise conflict

    def create(self, table: TableRef) -> bool:
        """Verify that the slot may create or replace a table, which it then owns; return whether it existed.

        Raises:
            DestinationConflict: If it must not.
        """
        self.verify(table)
        existed = self._names.has(table)
        self._names.add(table)
        self._owners[table] = self._slot
        return existed


def verify_renames(
    connection: duckdb.DuckDBPyConnection, names: Mapping[TableRef, TableRef], slot: str, path: str
) -> None:
    """Verify that the new names of tables are free, or taken by tables that are renamed too.

    Args:
        connection: The file.
        names: New names by old names.
        slot: The slot.
        path: The file, for messages.

    Raises:
        DestinationConflict: If a name is taken.
    """
    renamed, owners = {(old.schema, fold(old.name)) for old in names}, Owners(connection, slot, path)
    for new in names.values():
        if (new.schema, fold(new.name)) not in renamed:
            owners.verify(new)
