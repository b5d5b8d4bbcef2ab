"""A table with fifty columns of 13 types; a fifth of the values is NULL."""

from __future__ import annotations

from benchmarks.workloads.workload import Workload

#: A group of ten columns: type, and value in row i. `{x}` is i plus the number of the group.
_GROUP = (
    ("integer", "({x} % 100003)::integer"),
    ("bigint", "{x} * 7919"),
    ("numeric(14,4)", "CASE WHEN {x} % 3 = 0 THEN NULL ELSE {x} % 1000000 / 64.0 END"),
    ("text", "CASE WHEN {x} % 4 = 0 THEN NULL ELSE 'note ' || md5({x}::text) END"),
    ("timestamptz", "timestamptz '2026-01-01' + {x} * interval '1.5 second'"),
    ("timestamp", "CASE WHEN {x} % 2 = 0 THEN NULL ELSE timestamp '2020-02-29' + {x} * interval '1 minute' END"),
    ("uuid", "md5({x}::text || 'u')::uuid"),
    ("jsonb", "jsonb_build_object('n', {x}, 'tags', jsonb_build_array('a', {x} % 10), 'ok', {x} % 2 = 0)"),
    ("integer[]", "CASE WHEN {x} % 5 = 0 THEN NULL ELSE ARRAY[{x} % 10, {x} % 100, NULL, {x} % 1000]::integer[] END"),
    ("double precision", "CASE WHEN {x} % 6 = 0 THEN NULL ELSE {x} / 7.0 END"),
)
#: Columns of the last group that replace a type of `_GROUP`, for more types.
_OTHERS = {
    "bigint": ("date", "date '2000-01-01' + ({x} % 10000)::integer"),
    "uuid": ("boolean", "{x} % 3 = 1"),
    "integer[]": ("text[]", "CASE WHEN {x} % 5 = 0 THEN '{}' ELSE ARRAY['tag', 't' || {x} % 100]::text[] END"),
    "double precision": ("bytea", "CASE WHEN {x} % 6 = 0 THEN NULL ELSE decode(md5({x}::text), 'hex') END"),
}
_GROUPS = [*[list(_GROUP)] * 4, [_OTHERS.get(type, (type, value)) for type, value in _GROUP]]
_COLUMNS = [
    (f"c{group}{place}", type, value.replace("{x}", f"(i + {group})"))
    for group, columns in enumerate(_GROUPS)
    for place, (type, value) in enumerate(columns)
]
_DDL = ", ".join(f"{name} {type}" for name, type, _ in _COLUMNS[1:])
_VALUES = ", ".join(value for _, _, value in _COLUMNS[1:])

WIDE = Workload(
    name="wide",
    title="50 columns of 13 types",
    ddl=f"CREATE TABLE public.wide (id bigint PRIMARY KEY, {_DDL})",
    insert=f"INSERT INTO public.wide SELECT i, {_VALUES} FROM generate_series({{first}}::bigint, {{last}}::bigint) i",
    update="UPDATE public.wide SET c01 = c01 + 1, c12 = c12 + 0.5, c23 = 'changed', c37 = '{\"n\": null}', "
    "c48 = ARRAY['changed'] WHERE id BETWEEN {first} AND {last}",
    delete="DELETE FROM public.wide WHERE id BETWEEN {first} AND {last}",
    share=0.3,
    minimum_ratio=0.4,
)
