"""A table without a key and with equal rows: a deleted row is identified by all its values."""

from __future__ import annotations

from benchmarks.workloads.workload import Workload

KEYLESS = Workload(
    name="keyless",
    title="no key, every tenth row twice",
    ddl="CREATE TABLE public.keyless (seq bigint, device integer, kind text, at timestamptz, amount numeric(12,2), "
    "reading double precision, note text);"
    "CREATE INDEX ON public.keyless (seq); ALTER TABLE public.keyless REPLICA IDENTITY FULL",
    # Every number that ends in 9 is replaced by the one before, so that every tenth row exists twice.
    insert="INSERT INTO public.keyless SELECT i, i % 997, (array['on', 'off', NULL])[1 + i % 3], "
    "timestamptz '2026-01-01' + i * interval '1 second', i % 100000 / 100.0, i / 7.0, md5(i::text) "
    "FROM (SELECT n - (n % 10 = 9)::integer AS i FROM generate_series({first}::bigint, {last}::bigint) n)",
    update="UPDATE public.keyless SET kind = 'changed', amount = amount + 1 WHERE seq BETWEEN {first} AND {last}",
    # Deletes one of the rows of each number.
    delete="DELETE FROM public.keyless WHERE ctid = ANY (ARRAY("
    "SELECT min(ctid) FROM public.keyless WHERE seq BETWEEN {first} AND {last} GROUP BY seq))",
    share=0.7,
    minimum_ratio=0.25,
)
