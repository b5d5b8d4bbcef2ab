"""The publication in the catalog: operations, tables, columns and row filters."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.publication_comment import is_created_by_dbmazz
from dbmazz_core.connectors.sources.postgres.catalog.publication_name import chosen_name, possible_names
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import (
    COLUMN_LISTS_VERSION,
    GENERATED_COLUMNS_VERSION,
    published_relations,
)
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.table_ref import TableRef

OPERATIONS = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A published table. With `publish_via_partition_root`, partitioned tables are published instead of partitions.

    Attributes:
        columns: The published columns, in the table's order; None on PostgreSQL 14: all that are not generated.
        row_filter: The WHERE of the publication, an expression over the table's columns, or None. A snapshot must copy
            exactly these rows.
        filter_columns: The columns that the WHERE reads. The server refuses updates and deletes unless the replica
            identity contains them.
        entry: OIDs and row versions of the catalog entries that publish the table. The text differs after the table was
            removed and added again, also by leaving its schema, after the publication was created again, after its
            operations or options were set, and after the table's filter or column list was set. Then changes may be
            missing from the stream, which does not report it.
        by_name: Whether the publication names the table itself, and not only its schema, a table above it, or all
            tables.
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
        name: Name of the publication.
        owner: The owning role.
        owned: Whether the current role may alter the publication.
        operations: The published `OPERATIONS`.
        via_root: `publish_via_partition_root`.
        generated_columns: Whether stored generated columns are published.
        tables: All published tables, whether by name, by schema or as ALL TABLES.
        comment: The comment on the publication, or None.
    """

    name: str
    owner: str
    owned: bool
    operations: frozenset[str]
    via_root: bool
    generated_columns: bool
    tables: dict[TableRef, PublishedTable]
    comment: str | None

    @property
    def created_by_dbmazz(self) -> bool:
        """Whether the publication has the comment that dbmazz gives to publications that it creates."""
        return is_created_by_dbmazz(self.comment)

    @property
    def missing_operations(self) -> list[str]:
        """Operations that are not published."""
        return [o for o in OPERATIONS if o not in self.operations]

    def missing_tables(self, tables: Iterable[TableInfo]) -> list[TableInfo]:
        """Return the tables among `tables` whose changes are not published under their name."""
        return [t for t in tables if t.ref not in self.tables]

    def columns_exist(self, table: TableInfo) -> bool:
        """Return whether the table has all of its published columns, so that both can be of the same moment."""
        return {column.name for column in table.columns}.issuperset(self.columns_of(table))

    def columns_of(self, table: TableInfo) -> tuple[str, ...]:
        """Return the published columns of a table, in the table's order. A snapshot must copy exactly these."""
        published = self.tables.get(table.ref)
        if published is None or published.columns is None:
            return tuple(c.name for c in table.columns if not c.generated)
        return published.columns


#: Condition that restricts tables `t` of `published_relations` to schemas and names.
_ONLY = "WHERE (t.schemaname, t.tablename) IN (SELECT * FROM unnest(%(schemas)s::text[], %(tables)s::text[]))"


def read_publication(conn: Connection, name: str, *, only: Collection[TableRef] | None = None) -> Publication | None:
    """Return a publication; None if it does not exist.

    Args:
        conn: An ordinary connection.
        name: Name of the publication.
        only: Tables to read; None: all published tables.
    """
    found = _without_tables(conn, [name]).get(name)
    return None if found is None else replace(found, tables=_published_tables(conn, name, only))


def read_chosen_publication(
    conn: Connection, config: SourceConfig, *, slot_exists: bool
) -> tuple[str, Publication | None]:
    """Return the name of a slot's publication (`publication_name.chosen_name`), and the publication with all tables."""
    found = _without_tables(conn, possible_names(config))
    comments = {name: publication.comment for name, publication in found.items()}
    name = chosen_name(config, comments, slot_exists=slot_exists)
    if name not in found:
        return name, None
    return name, replace(found[name], tables=_published_tables(conn, name, None))


def _without_tables(conn: Connection, names: Sequence[str]) -> dict[str, Publication]:
    """Return the publications of these names that exist, without their tables."""
    generated = "pubgencols <> 'n'" if conn.info.server_version >= GENERATED_COLUMNS_VERSION else "false"
    rows = conn.execute(
        f"""
        SELECT pubname::text, r.rolname, pg_has_role(p.pubowner, 'USAGE'), pubinsert, pubupdate, pubdelete, pubtruncate,
               pubviaroot, {generated}, obj_description(p.oid, 'pg_publication')
        FROM pg_catalog.pg_publication p JOIN pg_catalog.pg_roles r ON r.oid = p.pubowner
        WHERE pubname = ANY (%s)
        """.encode(),
        (list(names),),
    )
    found: dict[str, Publication] = {}
    for name, owner, owned, *publishes, via_root, generated_columns, comment in rows:
        operations = frozenset(o for o, published in zip(OPERATIONS, publishes, strict=True) if published)
        found[name] = Publication(name, owner, owned, operations, via_root, generated_columns, {}, comment)
    return found


def _published_tables(conn: Connection, name: str, only: Collection[TableRef] | None) -> dict[TableRef, PublishedTable]:
    """Return the tables of a publication.

    A publication contains a table by its name, by a partitioned table above it, by its schema, or as one of all tables.
    A table can leave a partitioned table or a schema and join it again: then the row in pg_inherits, or the row in
    pg_depend that records the schema, is written again. The rows of pg_publication_rel and pg_publication_namespace are
    never updated, but deleted and inserted with a new OID (also by ALTER PUBLICATION ... SET TABLE with another filter
    or list). SET (...) updates the row of pg_publication.
    """
    restriction = "" if only is None else _ONLY
    if conn.info.server_version >= COLUMN_LISTS_VERSION:
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
        # The columns are the Var nodes of the expression. pg_depend does not tell them from those of the column list.
        filters = """
            ARRAY(SELECT a.attname::text
                  FROM regexp_matches(r.prqual::text, '\\{VAR :varno \\d+ :varattno (\\d+)', 'g') AS v
                  JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = v[1]::int
                  WHERE t.filtered
                  GROUP BY a.attnum, a.attname ORDER BY a.attnum)"""
    else:
        filtered, schemas, filters = "false", "", "'{}'::text[]"
    # CTEs for all tables at once: with a subquery for each table, each part would scan a whole catalog for each table.
    rows = conn.execute(
        f"""
        WITH published AS MATERIALIZED (
            SELECT p.oid AS publication, p.xmin AS altered, t.relid AS oid, t.schemaname, t.tablename,
                   t.attnames, t.rowfilter, {filtered} AS filtered
            FROM pg_catalog.pg_publication p
            JOIN ({published_relations(conn.info.server_version, "%(name)s")}) t ON t.pubname = p.pubname
            {restriction}),
        line AS MATERIALIZED (  -- each table with the partitioned tables above it
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
        SELECT t.schemaname, t.tablename, t.attnames, t.rowfilter, {filters},
               concat_ws(' ', t.publication, t.altered, entered.by, attached.by),
               r.oid IS NOT NULL
        FROM published t
        LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = t.publication AND r.prrelid = t.oid
        LEFT JOIN entered ON entered.published = t.oid
        LEFT JOIN attached ON attached.published = t.oid
        """.encode(),
        {"name": name, "schemas": [ref.schema for ref in only or ()], "tables": [ref.name for ref in only or ()]},
    )
    return {
        TableRef(schema, table): PublishedTable(
            None if columns is None else tuple(columns), row_filter, tuple(filter_columns), entry, by_name
        )
        for schema, table, columns, row_filter, filter_columns, entry, by_name in rows
    }
