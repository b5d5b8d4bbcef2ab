"""Find names that DuckDB does not distinguish or reserves, and qualify names of tables."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

import duckdb

from dbmazz_core.errors import DestinationConflict
from dbmazz_core.model.frame_columns import PREFIX
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import ColumnRef, TableRef, quote_identifier

#: When DuckDB compares names, it ignores the case of ASCII letters only (tried, 1.4 and 2.0).
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
#: dbmazz's schema, and the schemas that DuckDB reserves.
_RESERVED_SCHEMAS = frozenset(("_dbmazz", "information_schema", "pg_catalog"))
_RENAME_TABLE = "leave one of them out of TABLES, rename it in PostgreSQL, or choose another SINK_URL"


def fold(name: str) -> str:
    """Return a name in the form in which DuckDB compares names.

    >>> fold("Orders"), fold("É") == fold("é")
    ('orders', False)
    """
    return name.translate(_FOLD)


def name_conflicts(tables: Mapping[TableRef, Sequence[str]]) -> Iterator[DestinationConflict]:
    """Yield errors for names that DuckDB does not distinguish but PostgreSQL does, and for reserved names.

    Args:
        tables: The tables, each with its columns.
    """
    schemas: dict[str, TableRef] = {}
    names: dict[tuple[str, str], TableRef] = {}
    for ref, columns in tables.items():
        if fold(ref.schema) in _RESERVED_SCHEMAS:
            owner = "dbmazz" if fold(ref.schema) == "_dbmazz" else "DuckDB"
            yield DestinationConflict(
                f"{ref} cannot be stored in DuckDB: {owner} reserves the schema name {quote_identifier(ref.schema)}",
                object=ref,
                remedy=f"leave it out of TABLES, or: ALTER TABLE {ref.sql} SET SCHEMA ...; in PostgreSQL",
            )
        first = schemas.setdefault(fold(ref.schema), ref)
        if first.schema != ref.schema:
            yield DestinationConflict(
                f"{ref} and {first} are in schemas whose names DuckDB does not distinguish",
                object=ref,
                remedy=_RENAME_TABLE,
            )
            continue
        first = names.setdefault((ref.schema, fold(ref.name)), ref)
        if first != ref:
            yield DestinationConflict(
                f"DuckDB does not distinguish the names of {ref} and {first}", object=ref, remedy=_RENAME_TABLE
            )
        yield from _column_conflicts(ref, columns)


def verify_names(schema: TableSchema) -> None:
    """Raise DestinationConflict for the first name that DuckDB does not distinguish or reserves."""
    for conflict in name_conflicts({schema.table: schema.names}):
        raise conflict


def name_warnings(tables: Iterable[TableRef], path: str) -> Iterator[DestinationConflict]:
    """Yield a warning if a schema has the name that DuckDB gives to the file's database.

    Args:
        tables: The tables.
        path: The file.
    """
    database = Path(path).stem
    for ref in tables:
        if fold(ref.schema) == fold(database):
            name = quote_identifier(database)
            yield DestinationConflict(
                f"DuckDB names the database after the file, {name}, which is also the schema of {ref}: readers must "
                f"write {name}.{ref.sql}, since {ref.sql} is ambiguous",
                object=path,
                remedy="give the file another name (SINK_URL), or write the database in front",
            )
            return


def _column_conflicts(table: TableRef, columns: Sequence[str]) -> Iterator[DestinationConflict]:
    """Yield errors for columns whose names DuckDB does not distinguish, or that begin with dbmazz's prefix."""
    seen: dict[str, str] = {}
    for name in columns:
        other = seen.setdefault(fold(name), name)
        if fold(name).startswith(PREFIX):
            problem = f"has a column {name!r}; dbmazz reserves names that begin with {PREFIX}"
        elif other != name:
            problem = f"has columns {other!r} and {name!r}, which DuckDB does not distinguish"
        else:
            continue
        yield DestinationConflict(
            f"{table} {problem}",
            object=ColumnRef(table, name),
            remedy=f"ALTER TABLE {table.sql} RENAME COLUMN {quote_identifier(name)} TO ...; in PostgreSQL, or exclude "
            f"it (COLUMNS_EXCLUDE); if the table is already captured: dbmazz snapshot --tables '{table}'",
        )


def qualified(connection: duckdb.DuckDBPyConnection, table: TableRef) -> str:
    """Return a table's quoted name with its database: DuckDB names a database after its file, without the suffix.

    Without the database, `shop.orders` is ambiguous in a file `shop.duckdb`: it could be the table `orders` of the
    database `shop`, and DuckDB raises an error. Schemas with the names of DuckDB's databases `temp` and `system` are
    ambiguous too.
    """
    return f"{database(connection)}.{table.sql}"


def create_schema(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Create a schema, unless it exists. No transaction may be open: two threads can need the same new schema."""
    with contextlib.suppress(duckdb.TransactionException):  # another thread has created it
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {qualified_schema(connection, name)}")


def qualified_schema(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """Return a schema's quoted name with its database; see `qualified`."""
    return f"{database(connection)}.{quote_identifier(name)}"


def other_cursor(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Return a cursor with a transaction of its own, which finds the file's tables and has UTC as its time zone."""
    cursor = connection.cursor()
    cursor.execute(f"USE {database(connection)}; SET TimeZone = 'UTC'")
    return cursor


#: The quoted names of the databases of open files.
_DATABASES: WeakKeyDictionary[duckdb.DuckDBPyConnection, str] = WeakKeyDictionary()


def database(connection: duckdb.DuckDBPyConnection) -> str:
    """Return the quoted name of the file's database. The first call is a query, which a transaction would see."""
    if (known := _DATABASES.get(connection)) is None:
        row = connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        known = _DATABASES[connection] = quote_identifier(str(row[0]))
    return known
