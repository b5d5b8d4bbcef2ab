"""Long texts are compressed by ZSTD, others by dictionaries: as the file has them after a window."""

from __future__ import annotations

import duckdb
import pytest

from tests.support.lab import Lab

pytestmark = pytest.mark.skipif(duckdb.__version__.startswith("1."), reason="DuckDB 1 writes neither of the two here")

#: A text of 8 kB that no compression makes much smaller.
LONG = "(SELECT string_agg(md5(i::text || n), '') FROM generate_series(1, 256) n)"


def methods(lab: Lab, table: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, method in lab.rows(
        f"SELECT column_name, compression FROM pragma_storage_info('public.{table}') WHERE segment_type = 'VARCHAR'"
    ):
        found.setdefault(name, set()).add(method)
    return found


@pytest.mark.parametrize("streamed", [False, True])
def test_long_texts_by_zstd_and_short_ones_by_dictionary(lab: Lab, streamed: bool) -> None:
    lab.execute("CREATE TABLE long (id int PRIMARY KEY, body text); CREATE TABLE short (id int PRIMARY KEY, note text)")
    if streamed:
        lab.capture()
    lab.execute(f"INSERT INTO long SELECT i, {LONG} FROM generate_series(1, 2000) i")
    lab.capture_and_compare("long", "short")
    assert methods(lab, "long") == {"body": {"ZSTD"}}
    lab.execute("INSERT INTO short SELECT i, 'note ' || i FROM generate_series(1, 5000) i")
    lab.capture_and_compare("long", "short")
    assert methods(lab, "short") == {"note": {"DICT_FSST"}}
    assert methods(lab, "long") == {"body": {"ZSTD"}}
