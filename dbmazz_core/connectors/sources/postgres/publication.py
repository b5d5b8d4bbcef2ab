"""Publications: what they publish, and the statements that make one fit the configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dbmazz_core.config import ReplicaIdentityPolicy, SourceConfig
from dbmazz_core.connectors.sources.postgres.catalog import TableInfo
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.tables import TableRef, quote_identifier

OPERATIONS = ("insert", "update", "delete", "truncate")
_ALL_OPERATIONS = ", ".join(OPERATIONS)

#: From here on publications can hold column lists and row filters, and all tables of a schema.
_COLUMN_LISTS_VERSION = 150000
#: From here on publications can hold stored generated columns.
_GENERATED_COLUMNS_VERSION = 180000


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table as the stream names it: with `publish_via_partition_root` the partitioned one, else partitions.

    Attributes:
        columns: What arrives, in the table's order; None on PostgreSQL 14: all that are not generated.
        row_filter: Its WHERE, if it has one.
    """

    columns: tuple[str, ...] | None
    row_filter: str | None


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication.

    Attributes:
        name: Its name.
        owner: The owning role.
        owned: Whether the current role may alter it.
        operations: Which of `OPERATIONS` it publishes.
        via_root: `publish_via_partition_root`.
        generated_columns: Whether stored generated columns arrive.
        tables: All that it publishes, however they came in: by name, by schema or as ALL TABLES.
    """

    name: str
    owner: str
    owned: bool
    operations: frozenset[str]
    via_root: bool
    generated_columns: bool
    tables: dict[TableRef, PublishedTable]

    @property
    def missing_operations(self) -> list[str]:
        """Operations that it leaves out."""
        return [o for o in OPERATIONS if o not in self.operations]

    def lacks(self, tables: Iterable[TableInfo]) -> list[TableInfo]:
        """Those of `tables` whose changes would not arrive under their name."""
        return [t for t in tables if t.ref not in self.tables]

    def columns_of(self, table: TableInfo) -> tuple[str, ...]:
        """The columns that arrive in the stream, in the table's order. A snapshot has to copy these."""
        published = self.tables.get(table.ref)
        if published is None or published.columns is None:
            return tuple(c.name for c in table.columns if not c.generated)
        return published.columns


def read_publication(conn: Connection, name: str) -> Publication | None:
    """The publication, or None where there is none of this name."""
    version = conn.info.server_version
    generated = "pubgencols <> 'n'" if version >= _GENERATED_COLUMNS_VERSION else "false"
    row = conn.execute(
        f"""
        SELECT r.rolname, pg_has_role(p.pubowner, 'USAGE'), pubinsert, pubupdate, pubdelete, pubtruncate,
               pubviaroot, {generated}
        FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_roles r ON r.oid = p.pubowner
        WHERE pubname = %s
        """.encode(),
        (name,),
    ).fetchone()
    if row is None:
        return None
    if version >= _GENERATED_COLUMNS_VERSION:
        details = "attnames::text[], rowfilter"
    elif version >= _COLUMN_LISTS_VERSION:
        # The view has generated columns among them, though the stream never does.
        details = """
            ARRAY(SELECT listed.name::text FROM unnest(attnames) WITH ORDINALITY AS listed (name, position)
                  JOIN pg_catalog.pg_attribute a ON a.attname = listed.name AND a.attgenerated = ''
                   AND a.attrelid = format('%%I.%%I', schemaname, tablename)::regclass
                  ORDER BY listed.position), rowfilter"""
    else:
        details = "NULL::text[], NULL"
    tables = {
        TableRef(schema, table): PublishedTable(None if columns is None else tuple(columns), row_filter)
        for schema, table, columns, row_filter in conn.execute(
            f"SELECT schemaname, tablename, {details} FROM pg_catalog.pg_publication_tables "
            "WHERE pubname = %s".encode(),
            (name,),
        )
    }
    owner, owned, *publishes, via_root, generated_columns = row
    operations = frozenset(o for o, published in zip(OPERATIONS, publishes, strict=True) if published)
    return Publication(name, owner, owned, operations, via_root, generated_columns, tables)


def published_columns(conn: Connection, name: str, tables: Iterable[TableInfo]) -> dict[TableRef, tuple[str, ...]]:
    """Which columns of each table arrive in the stream, in the table's order; a snapshot has to copy these.

    Generated columns are among them from PostgreSQL 18 on, where the publication says so (setup's own do).
    """
    publication = read_publication(conn, name)
    return {t.ref: publication.columns_of(t) for t in tables} if publication else {}


@dataclass(frozen=True, slots=True)
class Step:
    """A statement that setup runs.

    Attributes:
        sql: The statement, ending in a semicolon.
        done: What it did, for the report.
        table: The table that it alters, if it does.
    """

    sql: str
    done: str
    table: TableRef | None = None


def identity_steps(tables: Iterable[TableInfo], policy: ReplicaIdentityPolicy) -> list[Step]:
    """Set REPLICA IDENTITY FULL where the policy wants it. Partitions have an identity of their own."""
    return [
        Step(
            f"ALTER TABLE {member.ref.sql} REPLICA IDENTITY FULL;",
            f"set replica identity FULL on {member.ref}",
            member.ref,
        )
        for table in tables
        if policy is ReplicaIdentityPolicy.FULL
        or (policy is ReplicaIdentityPolicy.AUTO and not table.has_usable_identity)
        for member in table.identities
        if member.replica_identity != "f"
    ]


def publication_step(
    config: SourceConfig, publication: Publication | None, tables: Sequence[TableInfo], version_num: int
) -> Step | None:
    """Create the publication, or add the tables that it lacks. Tables are never removed."""
    name = quote_identifier(config.publication)
    if publication is None:
        return Step(create_publication(config.publication, tables, version_num), f"created publication {name}")
    missing = publication.lacks(tables)
    if not missing:
        return None
    added = ", ".join(str(t.ref) for t in missing)
    return Step(
        f"ALTER PUBLICATION {name} ADD TABLE {_table_list(missing)};",
        f"added table{'s' if len(missing) > 1 else ''} {added} to publication {name}",
    )


def create_publication(name: str, tables: Sequence[TableInfo], version_num: int) -> str:
    """The statement that creates it for all operations on the tables."""
    options = [f"publish = '{_ALL_OPERATIONS}'", "publish_via_partition_root = true"]
    if version_num >= _GENERATED_COLUMNS_VERSION:
        # Without it generated columns would be missing; worse, the server would refuse every UPDATE and
        # DELETE of a table with such columns and REPLICA IDENTITY FULL (publicationcmds.c,
        # pub_contains_invalid_column).
        options.append("publish_generated_columns = stored")
    publication, table_list = quote_identifier(name), _table_list(tables)
    return f"CREATE PUBLICATION {publication} FOR TABLE {table_list} WITH ({', '.join(options)});"


def publish_all_operations(name: str) -> str:
    """The statement that adds the operations it leaves out."""
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish = '{_ALL_OPERATIONS}');"


def _table_list(tables: Iterable[TableInfo]) -> str:
    # Without ONLY the tables that inherit from it would be published too.
    return ", ".join(f"ONLY {t.ref.sql}" if t.has_children else t.ref.sql for t in tables)
