"""Roles that may read some columns only: the captured ones suffice."""

from __future__ import annotations

import pytest

from dbmazz_core.errors import MissingPrivilege
from dbmazz_core.settings.by_table import parse_column_masks, parse_column_names
from dbmazz_core.settings.config import SnapshotConfig
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import PASSWORD, apply
from tests.support.lab import Lab

TABLE = (
    'CREATE TABLE t (id int PRIMARY KEY, "Na me" text, secret text, hidden text, note text); INSERT INTO t '
    "SELECT i, repeat('x', 500), 'secret', 'hidden', 'note' FROM generate_series(1, 2000) AS i; ANALYZE t;"
)
PUBLICATION = "CREATE PUBLICATION dbmazz_pub FOR TABLE t{} WITH (publish_via_partition_root)"


def as_role(lab: Lab, role: str, **source: object) -> Lab:
    lab.execute(f"GRANT USAGE ON SCHEMA public TO {quote_identifier(role)}")
    url = lab.database.server.url(lab.database.name, role=role, password=PASSWORD)
    # Ranges of pages, where the role may read the table as a whole.
    return lab.configured(url=url, source=source, snapshot=SnapshotConfig(chunk_size=100))


def follow(lab: Lab, what: str, grant: str) -> None:
    """Capturing fails with a GRANT; follow it, and capture."""
    with pytest.raises(MissingPrivilege) as info:
        lab.capture()
    assert info.value.what.endswith(what)
    assert grant in info.value.remedy
    lab.assert_found_by_check(info.value)
    apply(lab.database, info.value.remedy)
    lab.capture()


def test_the_captured_columns_suffice(lab: Lab, role: str) -> None:
    lab.execute(TABLE + PUBLICATION.format(""))
    lab = as_role(
        lab,
        role,
        exclude=parse_column_names("COLUMNS_EXCLUDE", "t.secret"),
        masks=parse_column_masks("COLUMNS_MASK", "t.hidden=null, t.note=truncate:1"),
    )
    follow(lab, "may not read public.t", 'GRANT SELECT ("id", "Na me", "note") ON "public"."t" TO')
    lab.execute("INSERT INTO t VALUES (0, 'zero', 's', 'h', 'n'); UPDATE t SET note = 'm' WHERE id = 2")
    lab.capture()
    assert lab.rows("SELECT count(*), count(hidden), min(note) FROM public.t") == [(2001, 0, "m")]
    assert lab.rows("SELECT * FROM public.t WHERE id = 0") == [(0, "zero", None, "n")]
    lab.pipeline.snapshot()
    assert lab.rows("SELECT count(*) FROM public.t") == [(2001,)]


def test_all_columns_one_by_one(lab: Lab, role: str) -> None:
    """A new column is missing in the GRANTs."""
    quoted = quote_identifier(role)
    lab.execute(f'{TABLE} GRANT SELECT (id, "Na me", secret, hidden, note) ON t TO {quoted};' + PUBLICATION.format(""))
    lab = as_role(lab, role)
    lab.capture_and_compare("t")
    lab.execute("ALTER TABLE t ADD more int; INSERT INTO t (id, more) VALUES (0, 0)")
    follow(lab, "may not read columns more of public.t", f'GRANT SELECT ON "public"."t" TO {quoted};')
    lab.assert_equal("t")


def test_a_partitioned_table(lab: Lab, role: str) -> None:
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, secret text) PARTITION BY RANGE (id);"
        "CREATE TABLE p PARTITION OF t FOR VALUES FROM (0) TO (9); INSERT INTO t VALUES (1, 's');"
        + PUBLICATION.format("")
    )
    lab = as_role(lab, role, include=parse_column_names("COLUMNS_INCLUDE", "t.id"))
    follow(lab, "may not read public.t", 'GRANT SELECT ("id") ON "public"."t" TO')
    lab.execute("INSERT INTO t VALUES (2, 's')")
    lab.capture()
    assert lab.rows("FROM public.t ORDER BY id") == [(1,), (2,)]


@pytest.mark.since(15)
def test_the_columns_of_a_row_filter(lab: Lab, role: str) -> None:
    """The copy's condition reads them."""
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, secret text); INSERT INTO t VALUES (1, 's'), (2, 't');"
        "ALTER TABLE t REPLICA IDENTITY FULL;" + PUBLICATION.format(" WHERE (secret = 's')")
    )
    lab = as_role(lab, role, include=parse_column_names("COLUMNS_INCLUDE", "t.id"))
    lab.execute(f"GRANT SELECT (id) ON t TO {quote_identifier(role)}")
    follow(lab, "may not read columns secret of public.t", 'GRANT SELECT ON "public"."t" TO')
    assert lab.rows("FROM public.t ORDER BY id") == [(1,)]


@pytest.mark.since(15)
def test_a_column_list_of_the_publication(lab: Lab, role: str) -> None:
    lab.execute(TABLE + PUBLICATION.format('(id, "Na me")'))
    lab = as_role(lab, role)
    follow(lab, "may not read public.t", 'GRANT SELECT ("id", "Na me") ON "public"."t" TO')
    assert lab.rows("SELECT count(*) FROM public.t") == [(2000,)]
