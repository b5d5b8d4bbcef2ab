"""Facts about leaf partitions: their storage, and whether they were created as partitions or attached.

A table that is attached brings rows that never came through the stream. A table that was created as a partition brings
none, if all partitioned tables between it and the root were created as partitions too. Row versions in the catalog tell
the two apart (measured on PostgreSQL 14 to 18):

- The rows of the system columns (`attnum < 0`) are written when the table is created, and never again.
- CREATE TABLE ... PARTITION OF writes the rows of the table's own columns under the same command id (`cmin`), and the
  row in pg_inherits under a later command id of the same transaction.
- ATTACH PARTITION writes the rows of all of the table's own columns again (tablecmds.c, MergeAttributesIntoExisting),
  under the command id of the row in pg_inherits.
- A transaction that was rolled back leaves its xmax in the rows that it touched, and overwrites cmin. Such rows prove
  nothing.

Without proof, a partition counts as attached. Columns with defaults prove nothing, because their rows are written again
when the default is stored; a partition with a default on every column counts as attached.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class LeafPartition:
    """A leaf partition.

    Attributes:
        storage: Its file number (`relfilenode`), and the row versions of its attachment (`xmin` in pg_inherits) up to
            the root. The attachment counts because a partition that is detached for a while can change outside of the
            stream.
        created: Whether the table was created as a partition and not truncated since. The first file of a table has
            the table's OID as its number; another number shows a TRUNCATE, which the stream does not report for a
            partition. A TRUNCATE in the (sub)transaction that created the table leaves no trace, because it empties
            the file in place (tablecmds.c, ExecuteTruncateGuts); `explanation` checks whether rows came from that
            transaction.
        attached_by: The (sub)transaction that made the table a partition.
    """

    storage: str
    created: bool
    attached_by: int


#: Whether the system columns of the table of a row `i` of pg_inherits prove that one transaction created the table and,
#: under a later command id, wrote the row of pg_inherits.
_TABLE_CREATED_IN_TRANSACTION = """
    i.xmax = 0 AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute s
        WHERE s.attrelid = i.inhrelid AND s.attnum < 0
          AND (s.xmin <> i.xmin OR s.xmax <> 0 OR s.cmin::text::bigint >= i.cmin::text::bigint))"""

#: Whether the own columns of the table of a row `i` of pg_inherits have the command id under which the table was
#: created, so that no ATTACH PARTITION has written them again.
_COLUMNS_NOT_REWRITTEN = """
    (SELECT coalesce(bool_and(a.xmax = 0 AND a.xmin = i.xmin AND a.cmin = s.cmin), false)
     FROM pg_catalog.pg_attribute a
     JOIN pg_catalog.pg_attribute s ON s.attrelid = a.attrelid AND s.attname = 'tableoid' AND s.attnum < 0
     WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef)"""

_CREATED_AS_PARTITION = f"{_TABLE_CREATED_IN_TRANSACTION} AND {_COLUMNS_NOT_REWRITTEN}"


def read_leaf_partitions(connection: Connection, oids: Collection[int]) -> dict[int, dict[int, LeafPartition]]:
    """Return the leaf partitions of partitioned tables by OID of the root and OID of the leaf."""
    found: dict[int, dict[int, LeafPartition]] = {}
    for root, leaf, storage, created, attached_by in connection.execute(
        f"""
        WITH RECURSIVE tree AS (
            SELECT i.inhparent AS root, i.inhrelid AS leaf, i.xmin::text AS attachments, i.xmin AS attached_by,
                   as_partition.created
            FROM pg_catalog.pg_inherits i
            CROSS JOIN LATERAL (SELECT {_CREATED_AS_PARTITION}) AS as_partition (created)
            WHERE i.inhparent = ANY (%s)
            UNION ALL
            SELECT tree.root, i.inhrelid, concat(tree.attachments, ' ', i.xmin), i.xmin,
                   tree.created AND as_partition.created
            FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.leaf
            CROSS JOIN LATERAL (SELECT {_CREATED_AS_PARTITION}) AS as_partition (created)
        )
        SELECT root::bigint, leaf::bigint, concat(c.relfilenode, ' ', attachments),
               created AND c.relfilenode = c.oid, attached_by::text::bigint
        FROM tree JOIN pg_catalog.pg_class c ON c.oid = leaf WHERE c.relkind = 'r'
        """.encode(),
        (list(oids),),
    ):
        found.setdefault(root, {})[leaf] = LeafPartition(storage, created, attached_by)
    return found
