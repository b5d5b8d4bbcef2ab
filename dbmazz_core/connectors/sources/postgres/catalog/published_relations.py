"""The relations of a publication as SQL that waits for no lock of a table.

From PostgreSQL 16 on, the view `pg_publication_tables` opens each table that is published with all its columns
(pg_publication.c, pg_get_publication_tables), and so waits for a transaction that has locked it, as `pg_partition_tree`
does for partitions in all versions. One locked table would hold up every window.
"""

from __future__ import annotations

#: First version whose publications can have column lists, row filters, and all tables of a schema.
COLUMN_LISTS_VERSION = 150000
#: First version whose publications can publish stored generated columns.
GENERATED_COLUMNS_VERSION = 180000

#: The leaf partitions of the partitioned table `{root}`, in column `relid`; `{root}` itself if it is no such table.
LEAF_PARTITIONS = """
    (WITH RECURSIVE tree (relid) AS (
         SELECT {root}::oid
         UNION ALL
         SELECT i.inhrelid FROM tree
         JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid AND NOT i.inhdetachpending
         JOIN pg_catalog.pg_class parent ON parent.oid = i.inhparent AND parent.relkind = 'p')
     SELECT tree.relid FROM tree JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.relid AND leaf.relkind <> 'p')"""


def published_relations(version: int, publication: str | None = None) -> str:
    """Return a query for the tables of publications.

    Its columns are `pubname`, `relid`, `schemaname`, `tablename`, `attnames` and `rowfilter`. Columns and rows are
    those of `pg_publication_tables`; `attnames` (text[]) has no generated columns where the version does not send them,
    and is null on PostgreSQL 14, as `rowfilter` is.

    Args:
        version: `server_version_num`.
        publication: SQL for the name of a publication, such as a placeholder; None: all publications.
    """
    chosen = "true" if publication is None else f"p.pubname = {publication}"
    if version < COLUMN_LISTS_VERSION:
        # The view of this version opens no table.
        return f"""
            SELECT p.pubname, c.oid AS relid, p.schemaname, p.tablename, NULL::text[] AS attnames,
                   NULL::text AS rowfilter
            FROM pg_catalog.pg_publication_tables p
            JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
            JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
            WHERE {chosen}"""
    generated = "a.attgenerated = '' OR p.pubgencols = 's' AND a.attgenerated = 's'"
    if version < GENERATED_COLUMNS_VERSION:
        generated = "a.attgenerated = ''"
    listed = "true" if version >= GENERATED_COLUMNS_VERSION else "a.attgenerated = ''"
    # The relations are found once: as a subquery, the server would find them again for each table of the result.
    return f"""
        WITH relation AS MATERIALIZED (
            SELECT p.oid AS publication, found.relid
            FROM pg_catalog.pg_publication p CROSS JOIN LATERAL ({_RELATIONS}) AS found (relid)
            WHERE {chosen})
        SELECT p.pubname, c.oid AS relid, n.nspname AS schemaname, c.relname AS tablename,
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                       AND CASE WHEN r.prattrs IS NULL THEN {generated}
                                ELSE a.attnum = ANY (r.prattrs) AND {listed} END
                     ORDER BY a.attnum) AS attnames,
               pg_catalog.pg_get_expr(r.prqual, r.prrelid) AS rowfilter
        FROM relation
        JOIN pg_catalog.pg_publication p ON p.oid = relation.publication
        JOIN pg_catalog.pg_class c ON c.oid = relation.relid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_publication_rel r
          ON r.prpubid = p.oid AND r.prrelid = c.oid AND NOT p.puballtables
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s
                         WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)
        -- Rows of a partition come under the name of a published table above it.
        WHERE NOT p.pubviaroot OR NOT c.relispartition OR NOT EXISTS (
            SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) AS a (relid)
            JOIN relation above ON above.publication = p.oid AND above.relid = a.relid
            WHERE a.relid <> c.oid)"""


#: Tables of a publication `p` (pg_publication.c: GetAllTablesPublicationRelations, GetPublicationRelations,
#: GetAllSchemaPublicationRelations; is_publishable_class for the conditions).
_PUBLISHABLE = "t.relpersistence = 'p' AND t.oid >= 16384"
_RELATIONS = f"""
    SELECT t.oid FROM pg_catalog.pg_class t
    WHERE p.puballtables AND {_PUBLISHABLE}
      AND CASE WHEN p.pubviaroot THEN t.relkind IN ('r', 'p') AND NOT t.relispartition ELSE t.relkind = 'r' END
    UNION
    SELECT leaf.relid FROM pg_catalog.pg_publication_rel e
    JOIN pg_catalog.pg_class t ON t.oid = e.prrelid
    CROSS JOIN LATERAL {LEAF_PARTITIONS.format(root="t.oid")} AS leaf
    WHERE e.prpubid = p.oid AND NOT p.pubviaroot
    UNION
    SELECT e.prrelid FROM pg_catalog.pg_publication_rel e WHERE e.prpubid = p.oid AND p.pubviaroot
    UNION
    SELECT leaf.relid FROM pg_catalog.pg_publication_namespace e
    JOIN pg_catalog.pg_class t ON t.relnamespace = e.pnnspid AND t.relkind IN ('r', 'p') AND {_PUBLISHABLE}
    CROSS JOIN LATERAL {LEAF_PARTITIONS.format(root="t.oid")} AS leaf
    WHERE e.pnpubid = p.oid AND NOT p.pubviaroot
    UNION
    SELECT t.oid FROM pg_catalog.pg_publication_namespace e
    JOIN pg_catalog.pg_class t ON t.relnamespace = e.pnnspid AND t.relkind IN ('r', 'p') AND {_PUBLISHABLE}
    WHERE e.pnpubid = p.oid AND p.pubviaroot"""
