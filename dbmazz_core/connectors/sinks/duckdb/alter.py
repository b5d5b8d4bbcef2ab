"""Schema changes in DuckDB's words."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb

from dbmazz_core.connectors.sinks.duckdb import bookkeeping
from dbmazz_core.connectors.sinks.duckdb.apply import Applier
from dbmazz_core.engine.evolution import AddColumn, ChangeType, DropColumn, RenameColumn
from dbmazz_core.engine.follow_schema import SchemaEvent
from dbmazz_core.table_options import SchemaAction
from dbmazz_core.tables import TableRef, quote_identifier

#: DuckDB 1.4 fails at COMMIT where a table was altered after an UPDATE or DELETE of the same transaction (tried).
ALTERS_MODIFIED_TABLES = tuple(map(int, duckdb.__version__.split(".")[:2])) >= (2, 0)


def alter(connection: duckdb.DuckDBPyConnection, path: str, event: SchemaEvent) -> None:
    """Take the steps that are to be applied."""
    table = event.table.sql
    renames: dict[str, str] = {}
    for step, action in event.steps:
        if action is not SchemaAction.APPLY:
            continue
        match step:
            case AddColumn(column, missing):
                name, type = quote_identifier(column.name), column.type.duckdb
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {type}")
                if missing is not None:
                    Applier(connection, path, event.schema).fill(missing.alias(column.name).to_frame())
            case DropColumn(name):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {quote_identifier(name)}")
            case RenameColumn(old, new):
                renames[old] = new
            case ChangeType(_, old_column, new_column):
                if old_column.type.duckdb != new_column.type.duckdb:
                    name = quote_identifier(old_column.name)
                    connection.execute(f"ALTER TABLE {table} ALTER COLUMN {name} TYPE {new_column.type.duckdb}")
    # By way of names that no column has: two may exchange theirs.
    temporary = {old: f"_dbmazz_renamed_{number}" for number, old in enumerate(renames)}
    for names in (temporary, {temporary[old]: new for old, new in renames.items()}):
        for old, new in names.items():
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN {quote_identifier(old)} TO {quote_identifier(new)}")


def rename(connection: duckdb.DuckDBPyConnection, names: Mapping[TableRef, TableRef]) -> None:
    """Rename tables and move them between schemas, bookkeeping and all."""
    # By way of names that no table has: two may exchange theirs.
    passing = {old: TableRef(old.schema, f"_dbmazz_renamed_{number}") for number, old in enumerate(names)}
    for old, between in passing.items():
        connection.execute(f"ALTER TABLE {old.sql} RENAME TO {quote_identifier(between.name)}")
        bookkeeping.rename_table(connection, old, between)
    for old, between in passing.items():
        new = names[old]
        if new.schema != between.schema:
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quote_identifier(new.schema)}")
            connection.execute(f"CREATE TABLE {new.sql} AS FROM {between.sql}")
            connection.execute(f"DROP TABLE {between.sql}")
        else:
            connection.execute(f"ALTER TABLE {between.sql} RENAME TO {quote_identifier(new.name)}")
        bookkeeping.rename_table(connection, between, new)
