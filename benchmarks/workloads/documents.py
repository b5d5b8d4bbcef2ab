"""JSON documents of 8 KB, inserted and updated."""

from __future__ import annotations

from benchmarks.workloads.workload import Workload


def _document(number: str, version: int) -> str:
    """Return an SQL expression for a document with 40 entries of about 200 bytes."""
    return f"""
    (SELECT jsonb_build_object('id', {number}, 'version', {version}, 'items', jsonb_agg(jsonb_build_object(
                'sku', md5(({number} * 40 + n + {version})::text), 'count', n, 'price', ({number} + n) % 1000 / 8.0,
                'gift', n % 3 = 0, 'note', repeat('item ' || n || ' ', 12))))
     FROM generate_series(1, 40) n)
    """


DOCUMENTS = Workload(
    name="documents",
    title="jsonb of 8 KB",
    ddl="CREATE TABLE public.documents (id bigint PRIMARY KEY, updated_at timestamptz, document jsonb)",
    insert="INSERT INTO public.documents "
    f"SELECT i, timestamptz '2026-01-01' + i * interval '1 second', {_document('i', 1)} "
    "FROM generate_series({first}::bigint, {last}::bigint) i",
    update="UPDATE public.documents SET updated_at = updated_at + interval '1 day', "
    f"document = {_document('id', 2)} WHERE id BETWEEN {{first}} AND {{last}}",
    delete="DELETE FROM public.documents WHERE id BETWEEN {first} AND {last}",
    mix=(6, 3, 1),
    share=0.04,
    minimum_ratio=0.4,
)
