"""A table whose updates leave a value of 8 kB unchanged: PostgreSQL sends neither that value nor the old row."""

from __future__ import annotations

from benchmarks.workloads.workload import Workload

TOAST = Workload(
    name="toast",
    title="unchanged TOAST of 8 kB in every update",
    # EXTERNAL: the texts, made of md5, do not compress.
    ddl="CREATE TABLE public.toast (id bigint PRIMARY KEY, status text, views integer, seen_at timestamptz, body text);"
    "ALTER TABLE public.toast ALTER COLUMN body SET STORAGE EXTERNAL",
    insert="INSERT INTO public.toast SELECT i, 'new', 0, timestamptz '2026-01-01' + i * interval '1 second', "
    "(SELECT string_agg(md5((i * 256 + n)::text), '') FROM generate_series(1, 256) n) "
    "FROM generate_series({first}::bigint, {last}::bigint) i",
    update="UPDATE public.toast SET status = 'seen', views = views + 1, seen_at = seen_at + interval '1 hour' "
    "WHERE id BETWEEN {first} AND {last}",
    delete="DELETE FROM public.toast WHERE id BETWEEN {first} AND {last}",
    mix=(4, 80, 1),
    share=0.8,
    preloaded=True,
    minimum_ratio=0.4,
)
