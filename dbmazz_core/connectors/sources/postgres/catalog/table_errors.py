"""Errors for configured tables that do not exist, or cannot be captured."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.errors import ReplicaIdentityInsufficient, TableNotFound, TableNotSupported, UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.suggestions import did_you_mean
from dbmazz_core.settings.tables import TablePattern
from dbmazz_core.table_ref import TableRef, quote_identifier

#: A table with dropped columns only, or, before PostgreSQL 18, with generated columns besides.
WITHOUT_COLUMNS = "a table without columns that PostgreSQL sends"
_UNLOGGED = "an unlogged table"
#: PostgreSQL reserves schema names that begin with `pg_` (manual, "The System Catalog Schema").
SYSTEM_SCHEMA = re.compile(r"pg_.*|information_schema", re.DOTALL)


def table_not_found(conn: Connection, pattern: TablePattern, left_out: Mapping[TableRef, str] = {}) -> TableNotFound:
    """Return the error for a table or schema that does not exist, or a schema without tables.

    Args:
        conn: An ordinary connection, to find similar names.
        pattern: The pattern that matches nothing.
        left_out: Relations that are left out, each with the reason.
    """
    schemas = [
        schema
        for (schema,) in conn.execute("SELECT nspname FROM pg_catalog.pg_namespace ORDER BY nspname")
        if not SYSTEM_SCHEMA.fullmatch(schema)
    ]
    if pattern.schema not in schemas:
        if pattern.name is None:
            near = [str(TablePattern(schema, None)) for schema in _nearest(pattern.schema, schemas)]
        else:
            near = _similar_tables(conn, pattern)
        return _not_found_error(pattern, f"schema {quote_identifier(pattern.schema)} does not exist", near)
    if pattern.name is None:
        what = ", ".join(f"{ref} is {reason}" for ref, reason in sorted(left_out.items()) if pattern.matches(ref))
        none = f"schema {quote_identifier(pattern.schema)} has no table that can be captured"
        return _not_found_error(pattern, f"{none}: {what}" if what else none, [])
    return _not_found_error(pattern, f"table {pattern} does not exist", _similar_tables(conn, pattern))


def _not_found_error(pattern: TablePattern, what: str, near: Sequence[str]) -> TableNotFound:
    return TableNotFound(
        f"{what}{did_you_mean(near)}",
        object=str(pattern),
        tables=() if pattern.name is None else (TableRef(pattern.schema, pattern.name),),
        remedy="correct TABLES, or create it; names are folded to lower case unless they are quoted, and a name "
        "without a schema is in public",
    )


def _similar_tables(conn: Connection, pattern: TablePattern) -> list[str]:
    """Return up to three similar names: tables of the same name in other schemas, then the most similar names."""
    tables = [
        TableRef(schema, name)
        for schema, name in conn.execute(
            """
            SELECT n.nspname, c.relname
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' ORDER BY 1, 2
            """
        )
        if not SYSTEM_SCHEMA.fullmatch(schema)
    ]
    same_name = [str(t) for t in tables if t.name.lower() == (pattern.name or "").lower()]
    return (same_name + [t for t in _nearest(str(pattern), map(str, tables)) if t not in same_name])[:3]


def _nearest(name: str, candidates: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(candidates), n=3, cutoff=0.7)


def in_system_schema(pattern: TablePattern) -> TableNotSupported:
    """Return the error for a table in a system schema or a temporary schema, which PostgreSQL does not publish."""
    kind = "a temporary table's schema" if pattern.schema.startswith("pg_temp") else "a system schema"
    return TableNotSupported(
        f"{pattern} cannot be captured: {quote_identifier(pattern.schema)} is {kind}",
        object=str(pattern),
        remedy="leave it out of TABLES",
    )


@dataclass(frozen=True, slots=True)
class UnstreamedPartition:
    """A partition whose row changes are not in the stream.

    Attributes:
        ref: Name of the partition.
        what: Its kind, such as `a foreign table`.
    """

    ref: TableRef
    what: str

    def __str__(self) -> str:
        return f"{self.ref}, {self.what}, as a partition"


def table_not_supported(ref: TableRef, what: str, partition: UnstreamedPartition | None = None) -> TableNotSupported:
    """Return the error for a relation whose row changes are not in the stream.

    Args:
        ref: Name of the relation.
        what: Its kind, such as `a view`.
        partition: The partition of the relation whose changes are not in the stream, if that is the reason.
    """
    if partition is not None:
        reason = "changes of the partition are not in the stream"
        remedy = f"detach {partition.ref}, or name the other partitions in TABLES instead of {ref}"
        if partition.what == _UNLOGGED:
            remedy = f"ALTER TABLE {partition.ref.sql} SET LOGGED; or {remedy}"
    elif what == _UNLOGGED:
        reason, remedy = "it writes no WAL", f"ALTER TABLE {ref.sql} SET LOGGED; or leave it out of TABLES"
    elif what == "a foreign table":
        reason, remedy = "its rows are on another server", "capture it there, or leave it out of TABLES"
    elif what == WITHOUT_COLUMNS:
        reason = "there is nothing to capture"
        remedy = f"ALTER TABLE {ref.sql} ADD COLUMN ...; or leave it out of TABLES"
    elif what == "a sequence":
        reason, remedy = "its value is not published", "leave it out of TABLES"
    else:
        reason, remedy = "it has no rows of its own that change", "capture the tables that it reads from"
    return TableNotSupported(f"{ref} is {what}: {reason}", object=ref, remedy=remedy)


def unsent_toast_value(ref: TableRef, lsn: Lsn, xid: int) -> UnknownValue:
    """Return the error for an insert without some of its values.

    The insert was an update that moved a row into the publication's row filter. The server sends such an update as an
    insert, with "unchanged" in place of values that are stored out of line (pgoutput.c, pgoutput_row_filter).
    """
    return UnknownValue(
        f"{ref}: transaction {xid} committed at {lsn} moved a row into the publication's row filter, and PostgreSQL "
        "left out its unchanged TOAST values; nothing of this flush was applied to the table",
        object=ref,
        remedy=f"ALTER TABLE {ref.sql} REPLICA IDENTITY FULL; then re-snapshot the table: "
        f"dbmazz snapshot --tables '{ref}'",
    )


def unidentified_row(ref: TableRef, partition: TableRef, lsn: Lsn, xid: int) -> ReplicaIdentityInsufficient:
    """Return the error for an update or delete in a partition that does not contain the key of the root."""
    return ReplicaIdentityInsufficient(
        f"{ref}: its partition {partition} has a replica identity that does not identify the rows of {ref} that "
        f"transaction {xid} committed at {lsn} updates or deletes; nothing of this flush was applied to the table",
        object=partition,
        tables=(ref,),
        remedy=f"ALTER TABLE {partition.sql} REPLICA IDENTITY FULL; then re-snapshot the table: "
        f"dbmazz snapshot --tables '{ref}'",
    )


def partition_of_captured(ref: TableRef, root: TableRef) -> TableNotSupported:
    """Return the error for a partition that is configured besides its partitioned table."""
    return TableNotSupported(
        f"{ref} is a partition of {root}, which is in TABLES too; its changes arrive as those of {root}",
        object=ref,
        remedy=f"leave {ref} out of TABLES, or {root}",
    )
