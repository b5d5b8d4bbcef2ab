"""Copies of tables with wide rows: committed in pieces into a table of their own, which takes the table's place.

DuckDB cannot commit more wide rows at once than fit into its memory (module `memory`). Readers must not see a part of a
copy, so the rows go to another table first; the transaction that records the copy renames it.
"""

from __future__ import annotations

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import Columns
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef, quote_identifier

#: Name of the other table, in the schema of the table. A killed copy leaves it; the next copy of the schema drops it.
_NAME = "_dbmazz_copy"


class Staging:
    """A table that takes the rows of a copy. No transaction may be open before `swap`.

    Args:
        connection: The connection.
        path: The file, for messages.
        schema: The table that is copied.
        columns: All its columns in its mode.

    Attributes:
        statements: Statements about the other table, which name the copied table in errors.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema, columns: Columns) -> None:
        self._connection = connection
        self._table = schema.table
        self._name = qualified(connection, TableRef(schema.table.schema, _NAME))
        definitions = ", ".join(f"{quote_identifier(name)} {type}" for name, type in columns)
        connection.execute(f"CREATE OR REPLACE TABLE {self._name} ({definitions})")
        self.statements = Statements(connection, path, schema, name=self._name)

    def swap(self) -> None:
        """Replace the copied table, in the open transaction."""
        self._connection.execute(f"DROP TABLE IF EXISTS {qualified(self._connection, self._table)}")
        self._connection.execute(f"ALTER TABLE {self._name} RENAME TO {quote_identifier(self._table.name)}")

    def drop(self) -> None:
        """Drop the other table."""
        self._connection.execute(f"DROP TABLE IF EXISTS {self._name}")


def drop_leftover(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Drop what a killed copy has left in a schema."""
    connection.execute(f"DROP TABLE IF EXISTS {qualified(connection, TableRef(schema, _NAME))}")
