"""Copies in several transactions: into a table of their own, which takes the table's place at the end.

DuckDB cannot commit more wide rows at once than fit into its memory (module `memory`), and a copy that another run can
resume commits its rows in pieces (module `staged_copy`). Readers must not see a part of a copy, so the rows go to
another table first; the transaction that records the copy renames it.
"""

from __future__ import annotations

import itertools
from typing import Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.copy_records import read_names
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold, qualified
from dbmazz_core.connectors.sinks.duckdb_sql.shapes import Columns
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import TableRef, quote_identifier, quote_literal

#: The other table is in the schema of the table, since DuckDB moves no table to another schema. It has a name that is
#: free there, and this comment, by which the next copy of the schema finds what a killed copy has left.
_NAME = "_dbmazz_copy"
_COMMENT = "rows of a copy by dbmazz that is not complete"


class Staging:
    """A table that takes the rows of a copy. No transaction may be open before `swap`.

    Args:
        connection: The connection.
        path: The file, for messages.
        schema: The table that is copied.
        table: The table that takes the rows.

    Attributes:
        table: The table that takes the rows.
        statements: Statements about that table, which name the copied table in errors.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema, table: TableRef) -> None:
        self.table = table
        self._connection = connection
        self._copied = schema.table
        self._name = qualified(connection, table)
        self.statements = Statements(connection, path, schema, name=self._name)

    @classmethod
    def create(cls, connection: duckdb.DuckDBPyConnection, path: str, schema: TableSchema, columns: Columns) -> Self:
        """Create the table that takes the rows, in a transaction of its own.

        Args:
            connection: The connection, without a transaction.
            path: The file, for messages.
            schema: The table that is copied.
            columns: All its columns in its mode.
        """
        staging = cls(connection, path, schema, _free_name(connection, schema.table))
        definitions = ", ".join(f"{quote_identifier(name)} {type}" for name, type in columns)
        connection.execute(
            f"BEGIN TRANSACTION; CREATE TABLE {staging._name} ({definitions}); "
            f"COMMENT ON TABLE {staging._name} IS {quote_literal(_COMMENT)}; COMMIT"
        )
        return staging

    def swap(self) -> None:
        """Replace the copied table, in the open transaction."""
        table = qualified(self._connection, self._copied)
        self._connection.execute(f"DROP TABLE IF EXISTS {table}")
        self._connection.execute(f"ALTER TABLE {self._name} RENAME TO {quote_identifier(self._copied.name)}")
        self._connection.execute(f"COMMENT ON TABLE {table} IS NULL")

    def drop(self) -> None:
        """Drop the other table."""
        self._connection.execute(f"DROP TABLE IF EXISTS {self._name}")


def _free_name(connection: duckdb.DuckDBPyConnection, table: TableRef) -> TableRef:
    """Return the name for the other table: no table, view or copied table has it."""
    rows = connection.execute(
        "SELECT table_name FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND table_schema = ?",
        [table.schema],
    ).fetchall()
    taken = {fold(table.name), *(fold(name) for (name,) in rows)}
    names = itertools.chain([_NAME], (f"{_NAME}_{number}" for number in itertools.count(2)))
    return TableRef(table.schema, next(name for name in names if name not in taken))


def drop_leftover(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Drop what killed copies have left in a schema, except what is recorded, so that another copy can resume it."""
    recorded = read_names(connection, schema)
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() AND schema_name = ? "
        "AND comment = ?",
        [schema, _COMMENT],
    ).fetchall()
    for (name,) in rows:
        if name not in recorded:
            connection.execute(f"DROP TABLE {qualified(connection, TableRef(schema, name))}")
