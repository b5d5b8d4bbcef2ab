"""Publications: what they publish, and the statements that make one fit the configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef, quote_identifier

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
        row_filter: Its WHERE, an expression over the table's columns, if it has one. A snapshot has to copy these rows.
        filter_columns: The columns that the WHERE reads. The server refuses updates and deletes unless the replica
            identity has them.
        entry: Which catalog entries publish it, and since when. It is another one as soon as the table was taken out
            and put in again, also by leaving its schema, the publication was made anew, its operations or options were
            set, or the table's filter or column list was; then changes may be missing from the stream, which says
            nothing about it.
        by_name: Whether the table itself is one of them, and not only its schema, a table above it or all tables are.
    """

    columns: tuple[str, ...] | None
    row_filter: str | None
    filter_columns: tuple[str, ...] = ()
    entry: str = ""
    by_name: bool = False


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

    def columns_exist(self, table: TableInfo) -> bool:
        """Whether the table has the columns that are published of it: both are of one moment then."""
        return {column.name for column in table.columns}.issuperset(self.columns_of(table))

    def columns_of(self, table: TableInfo) -> tuple[str, ...]:
        """The columns that arrive in the stream, in the table's order. A snapshot has to copy these."""
        published = self.tables.get(table.ref)
        if published is None or published.columns is None:
            return tuple(c.name for c in table.columns if not c.generated)
        return published.columns


#: Restricts tables `t` of pg_publication_tables to some by schema and name.
_ONLY = " AND (t.schemaname, t.tablename) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"


def read_publication(conn: Connection, name: str, *, only: Collection[TableRef] | None = None) -> Publication | None:
    """The publication, or None where there is none of this name.

    Args:
        conn: To the database.
        name: The publication's.
        only: Tables to look for; None: all, which takes its time where there are hundreds.
    """
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
    restriction = "" if only is None else _ONLY
    arguments: list[object] = [name]
    arguments += [] if only is None else [[ref.schema for ref in only], [ref.name for ref in only]]
    entries = _entries(conn, restriction, arguments)
    tables = {
        ref: PublishedTable(None if columns is None else tuple(columns), row_filter, *entries[ref])
        for ref, columns, row_filter in (
            (TableRef(schema, table), *more)
            for schema, table, *more in conn.execute(
                f"SELECT schemaname, tablename, {details} FROM pg_catalog.pg_publication_tables t "
                f"WHERE pubname = %s{restriction}".encode(),
                arguments,
            )
        )
        if ref in entries  # not dropped between the two queries
    }
    owner, owned, *publishes, via_root, generated_columns = row
    operations = frozenset(o for o, published in zip(OPERATIONS, publishes, strict=True) if published)
    return Publication(name, owner, owned, operations, via_root, generated_columns, tables)


def _entries(
    conn: Connection, restriction: str, arguments: Sequence[object]
) -> dict[TableRef, tuple[tuple[str, ...], str, bool]]:
    """Of each published table `PublishedTable.filter_columns`, `entry` and `by_name`.

    A table is in by itself, by a partitioned table above it (which it may leave and join again), by its schema (which
    it may leave too: the row of pg_depend that puts it there is written anew whenever it comes) or as one of all. The
    rows of pg_publication_rel and pg_publication_namespace are never changed, only deleted and inserted with a new OID
    (also by ALTER PUBLICATION ... SET TABLE with another filter or list); that of pg_publication is changed by SET
    (...).
    """
    if conn.info.server_version >= _COLUMN_LISTS_VERSION:
        filtered = "t.rowfilter IS NOT NULL"
        schemas = """
            UNION ALL
            SELECT line.published, concat(n.oid, ' ', string_agg(d.xmin::text, ' ' ORDER BY d.objid))
            FROM line JOIN pg_catalog.pg_publication_namespace n
              ON n.pnpubid = line.publication AND n.pnnspid = line.relnamespace
            LEFT JOIN pg_catalog.pg_depend d
              ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = line.oid
             AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.pnnspid
            GROUP BY line.published, n.oid"""
        # A Var of the expression's one table; pg_depend has those of the column list as well.
        filters = """
            ARRAY(SELECT a.attname::text
                  FROM regexp_matches(r.prqual::text, '\\{VAR :varno \\d+ :varattno (\\d+)', 'g') AS v
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = v[1]::int
                  WHERE t.filtered
                  GROUP BY a.attnum, a.attname ORDER BY a.attnum)"""
    else:
        filtered, schemas, filters = "false", "", "'{}'::text[]"
    # Table by table, each part would look through a whole catalog again.
    rows = conn.execute(
        f"""
        WITH published AS MATERIALIZED (
            SELECT p.oid AS publication, p.xmin AS altered, c.oid, t.schemaname, t.tablename,
                   {filtered} AS filtered
            FROM pg_catalog.pg_publication p
            JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
            JOIN pg_catalog.pg_namespace s ON s.nspname = t.schemaname
            JOIN pg_catalog.pg_class c ON c.relnamespace = s.oid AND c.relname = t.tablename
            WHERE p.pubname = %s{restriction}),
        line AS MATERIALIZED (  -- each with the partitioned tables above it
            SELECT up.publication, up.published, c.oid, c.relnamespace, i.xmin AS attached
            FROM (SELECT publication, oid, oid FROM published
                  UNION
                  SELECT t.publication, t.oid, a.relid
                  FROM published t, pg_catalog.pg_partition_ancestors(t.oid) AS a) AS up (publication, published, oid)
            JOIN pg_catalog.pg_class c ON c.oid = up.oid
            LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition),
        entries (published, entry) AS (
            SELECT line.published, r.oid::text
            FROM line JOIN pg_catalog.pg_publication_rel r ON r.prpubid = line.publication AND r.prrelid = line.oid
            {schemas}),
        entered AS (SELECT published, string_agg(entry, ' ' ORDER BY entry) AS by FROM entries GROUP BY published),
        attached AS (
            SELECT published, string_agg(attached::text, ' ' ORDER BY oid) AS by FROM line GROUP BY published)
        SELECT t.schemaname, t.tablename, {filters},
               concat_ws(' ', t.publication, t.altered, entered.by, attached.by),
               r.oid IS NOT NULL
        FROM published t
        LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = t.publication AND r.prrelid = t.oid
        LEFT JOIN entered ON entered.published = t.oid
        LEFT JOIN attached ON attached.published = t.oid
        """.encode(),
        arguments,
    )
    return {TableRef(schema, table): (tuple(columns), *more) for schema, table, columns, *more in rows}


def published_tables(conn: Connection, name: str, tables: Iterable[TableInfo]) -> dict[TableRef, PublishedTable]:
    """What is in force of each table: columns, row filter, and an `entry` that tells whether it was so all along.

    Read it *before* the snapshot that a table is copied from is made, and keep the entry with the copy: if it is
    another one later, changes may be missing and the table has to be copied anew.

    Returns:
        `columns` filled in on every version. A table that the publication lacks is left out.
    """
    tables = list(tables)
    publication = read_publication(conn, name, only=[table.ref for table in tables])
    if publication is None:
        return {}
    return {
        t.ref: replace(publication.tables[t.ref], columns=publication.columns_of(t))
        for t in tables
        if t.ref in publication.tables
    }


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
    """Set REPLICA IDENTITY FULL where the policy wants it and the server can. Partitions have one of their own."""
    return [
        Step(
            f"ALTER TABLE {member.ref.sql} REPLICA IDENTITY FULL;",
            f"set replica identity FULL on {member.ref}",
            member.ref,
        )
        for table in tables
        if not table.refuses_full
        and (
            policy is ReplicaIdentityPolicy.FULL
            or (policy is ReplicaIdentityPolicy.AUTO and not table.has_usable_identity)
        )
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
