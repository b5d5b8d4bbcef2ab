"""A table with ten columns and REPLICA IDENTITY FULL: updates and deletes carry the whole old row."""

from __future__ import annotations

from benchmarks.workloads.workload import Workload

COLUMNS = """
    id bigint PRIMARY KEY, customer_id integer, status text, amount numeric(12,2), quantity integer, note text,
    created_at timestamptz, shipped_at timestamp, paid boolean, weight double precision
"""

ROWS = """
SELECT i, i % 10007, (array['new', 'paid', 'shipped', 'done'])[1 + i % 4], (i % 100000) / 100.0, i % 17,
       md5(i::text) || 'abcdefgh', timestamptz '2026-01-01' + i * interval '1 second',
       CASE WHEN i % 3 = 0 THEN NULL ELSE timestamp '2026-01-02' + i * interval '1 second' END,
       i % 2 = 0, i / 7.0
FROM generate_series({first}::bigint, {last}::bigint) i
"""

ORDERS = Workload(
    name="orders",
    title="ten columns, REPLICA IDENTITY FULL",
    ddl=f"CREATE TABLE public.orders ({COLUMNS}); ALTER TABLE public.orders REPLICA IDENTITY FULL",
    insert=f"INSERT INTO public.orders {ROWS}",
    update="UPDATE public.orders SET status = 'changed', amount = amount + 1 WHERE id BETWEEN {first} AND {last}",
    delete="DELETE FROM public.orders WHERE id BETWEEN {first} AND {last}",
)
