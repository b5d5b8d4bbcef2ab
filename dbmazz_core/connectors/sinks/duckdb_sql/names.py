"""Names that DuckDB cannot take for others."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping, Sequence

import duckdb

from dbmazz_core.errors import DestinationConflict
from dbmazz_core.model.frame_columns import PREFIX
from dbmazz_core.table_ref import TableRef, quote_identifier

#: DuckDB compares names like this (tried, 1.4 and 2.0): other letters than these keep their case.
_FOLD = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
#: Our own, and those that DuckDB lets nobody use.
_RESERVED_SCHEMAS = frozenset(("_dbmazz", "information_schema", "pg_catalog"))
_RENAME_TABLE = "leave one of them out of TABLES, rename it in PostgreSQL, or choose another SINK_URL"


def fold(name: str) -> str:
    """The form in which two names are the same to DuckDB.

    >>> fold("Orders"), fold("É") == fold("é")
    ('orders', False)
    """
    return name.translate(_FOLD)


def conflicts(tables: Mapping[TableRef, Sequence[str]]) -> Iterator[DestinationConflict]:
    """Tables and columns that are one to DuckDB, though PostgreSQL tells them apart, and names that are taken.

    Args:
        tables: Each with its columns.
    """
    schemas: dict[str, TableRef] = {}
    names: dict[tuple[str, str], TableRef] = {}
    for ref, columns in tables.items():
        if fold(ref.schema) in _RESERVED_SCHEMAS:
            what = "dbmazz's own" if fold(ref.schema) == "_dbmazz" else "DuckDB's own"
            yield DestinationConflict(
                f"{ref} cannot be kept in DuckDB: a schema of the name {quote_identifier(ref.schema)} is {what}",
                object=str(ref),
                remedy=f"leave it out of TABLES, or: ALTER TABLE {ref.sql} SET SCHEMA ...; in PostgreSQL",
            )
        first = schemas.setdefault(fold(ref.schema), ref)
        if first.schema != ref.schema:
            yield DestinationConflict(
                f"{ref} and {first} are in schemas that are one name to DuckDB", object=str(ref), remedy=_RENAME_TABLE
            )
            continue
        first = names.setdefault((ref.schema, fold(ref.name)), ref)
        if first != ref:
            yield DestinationConflict(
                f"{ref} and {first} are one name to DuckDB", object=str(ref), remedy=_RENAME_TABLE
            )
        yield from _columns(ref, columns)


def _columns(table: TableRef, columns: Sequence[str]) -> Iterator[DestinationConflict]:
    """Names with our prefix are columns beside these."""
    seen: dict[str, str] = {}
    for name in columns:
        other = seen.setdefault(fold(name), name)
        if fold(name).startswith(PREFIX):
            what = f"has a column {name!r}; names that begin with {PREFIX} are dbmazz's own"
        elif other != name:
            what = f"has columns {other!r} and {name!r}, which are one name to DuckDB"
        else:
            continue
        yield DestinationConflict(
            f"{table} {what}",
            object=f"{table}.{name}",
            remedy=f"ALTER TABLE {table.sql} RENAME COLUMN {quote_identifier(name)} TO ...; in PostgreSQL, or leave it "
            f"out (COLUMNS_EXCLUDE); if the table is captured already: dbmazz snapshot --tables '{table}'",
        )


def qualified(connection: duckdb.DuckDBPyConnection, table: TableRef) -> str:
    """A table's quoted name with that of its database, which is the file's without its ending.

    Without it `shop.orders` could be the table `orders` of the database `shop`, where the file is `shop.duckdb`, and
    DuckDB refuses to choose; so with schemas called as its own databases `temp` and `system`.
    """
    return f"{_database(connection)}.{table.sql}"


def qualified_schema(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """The same for a schema."""
    return f"{_database(connection)}.{quote_identifier(name)}"


def _database(connection: duckdb.DuckDBPyConnection) -> str:
    row = connection.execute("SELECT current_database()").fetchone()
    assert row is not None
    return quote_identifier(str(row[0]))
