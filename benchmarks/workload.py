"""The backlog that is captured: one table of ten columns, in transactions of 1,000 rows."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from dbmazz_core.demo.postgres import EmbeddedPostgres

#: Durability costs time in the server alone, and nothing here crashes.
SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "max_wal_size": "16GB",
    "shared_buffers": "512MB",
    "max_replication_slots": "40",
    "max_wal_senders": "40",
    "autovacuum": "off",
}

TABLE = """
CREATE TABLE public.orders (
    id bigint PRIMARY KEY, customer_id integer, status text, amount numeric(12,2), quantity integer, note text,
    created_at timestamptz, shipped_at timestamp, paid boolean, weight double precision);
ALTER TABLE public.orders REPLICA IDENTITY FULL;
"""

_ROWS = """
SELECT i, i % 10007, (array['new', 'paid', 'shipped', 'done'])[1 + i % 4], (i % 100000) / 100.0, i % 17,
       md5(i::text) || 'abcdefgh', timestamptz '2026-01-01' + i * interval '1 second',
       CASE WHEN i % 3 = 0 THEN NULL ELSE timestamp '2026-01-02' + i * interval '1 second' END,
       i % 2 = 0, i / 7.0
FROM generate_series({first}::bigint, {last}::bigint) i
"""
_TRANSACTION = 1000


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many changes of each kind.

    >>> Backlog.of(1_400_000)
    Backlog(inserts=1000000, updates=300000, deletes=100000)
    """

    inserts: int
    updates: int
    deletes: int

    @classmethod
    def of(cls, changes: int) -> Backlog:
        """Ten inserts, three updates and one delete in every fourteen."""
        unit = max(changes // 14_000, 1) * _TRANSACTION
        return cls(10 * unit, 3 * unit, unit)

    @property
    def changes(self) -> int:
        """All of them."""
        return self.inserts + self.updates + self.deletes


def fill(server: EmbeddedPostgres, backlog: Backlog) -> str:
    """Write the backlog; the LSN behind it."""
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        for first in range(0, backlog.inserts, _TRANSACTION):
            rows = _ROWS.format(first=first, last=first + _TRANSACTION - 1)
            connection.execute(f"INSERT INTO public.orders {rows}".encode())
        for first in range(0, backlog.updates, _TRANSACTION):
            connection.execute(
                "UPDATE public.orders SET status = 'changed', amount = amount + 1 WHERE id BETWEEN %s AND %s",
                (first, first + _TRANSACTION - 1),
            )
        start = backlog.inserts // 2
        for first in range(start, start + backlog.deletes, _TRANSACTION):
            connection.execute(
                "DELETE FROM public.orders WHERE id BETWEEN %s AND %s", (first, first + _TRANSACTION - 1)
            )
        connection.execute("SELECT pg_switch_wal()")
        row = connection.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
    assert row is not None
    return str(row[0])


def copy_source(server: EmbeddedPostgres, rows: int) -> None:
    """A second table, for measuring snapshots."""
    with psycopg.connect(server.url(socket=True), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.history (LIKE public.orders INCLUDING ALL)")
        connection.execute(f"INSERT INTO public.history {_ROWS.format(first=1, last=rows)}".encode())
        connection.execute("ANALYZE public.history")
