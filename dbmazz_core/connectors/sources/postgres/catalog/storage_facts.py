"""Facts about the storage of tables: its file number, and whether a TRUNCATE created it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dbmazz_core.connectors.sources.postgres.connection import Connection


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """The storage of a table.

    Attributes:
        is_partitioned: Whether the table is partitioned, and has no storage.
        file_number: `pg_class.relfilenode`, as text.
        max_attnum: `pg_class.relnatts`: the number of columns, dropped ones included.
        truncate_xid: Transaction of the TRUNCATE that created the storage; None if this is not proven.
    """

    is_partitioned: bool
    file_number: str
    max_attnum: int
    truncate_xid: int | None


#: Whether TRUNCATE created the storage of the table `c`, and not a command that rewrites the table.
#:
#: TRUNCATE and rewriting commands take the numbers of new files from the counter of OIDs. TRUNCATE takes one number for
#: the table, and the next for its TOAST table, or for its first index if it has no TOAST table. A rewriting command
#: first creates a table, whose row type and array type take OIDs too, so the next file number is 3 or more higher
#: (measured on PostgreSQL 14 to 18). The answer is no if another session took a number in between, if the table has
#: neither TOAST table nor index, or if the index was rebuilt since.
_CREATED_BY_TRUNCATE = """c.relfilenode::bigint + 1 IN (
    SELECT o.relfilenode::bigint FROM pg_catalog.pg_class o WHERE o.oid = c.reltoastrelid
    UNION ALL
    SELECT o.relfilenode::bigint FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class o ON o.oid = i.indexrelid
    WHERE i.indrelid = c.oid)"""


def read_storage_facts(connection: Connection, oids: Collection[int]) -> dict[int, StorageFacts]:
    """Return the storage of the existing tables among `oids` by OID.

    The command that creates the storage writes the table's row in pg_class, and the row's `xmin` is its transaction. If
    another command writes the row later, `truncate_xid` is that of no TRUNCATE in the stream.
    """
    rows = connection.execute(
        f"""
        SELECT c.oid::bigint, c.relkind = 'p', c.relfilenode::text, c.relnatts,
               CASE WHEN {_CREATED_BY_TRUNCATE} THEN c.xmin::text::bigint END
        FROM pg_catalog.pg_class c WHERE c.oid = ANY (%s)
        """.encode(),
        (list(oids),),
    )
    return {oid: StorageFacts(*facts) for oid, *facts in rows}
