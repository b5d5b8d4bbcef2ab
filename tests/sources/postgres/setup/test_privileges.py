"""Roles that may not do everything: the remedies get them there."""

from __future__ import annotations

import pytest

from dbmazz_core.connectors.sources.postgres.connection import Connection, connect_replication
from dbmazz_core.connectors.sources.postgres.setup.prepare import check, prepare, teardown
from dbmazz_core.errors import (
    MissingPrivilege,
    PublicationLacksTable,
    TableNotFound,
)
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import (
    EVENTS,
    LEAVE,
    ORDERS,
    Configure,
    apply,
    connected_as,
)
from tests.support.postgres_fixtures import SourceDatabase


def test_role_without_privileges_gets_there_by_following_the_remedies(
    database: SourceDatabase, configure: Configure, role: str
) -> None:
    quoted = quote_identifier(role)
    database.execute(f"ALTER ROLE {quoted} NOREPLICATION")
    database.execute(
        f'CREATE SCHEMA "S 1"; CREATE TABLE "S 1"."T ""1" (id int PRIMARY KEY); {EVENTS}; '
        "ALTER TABLE events ENABLE ROW LEVEL SECURITY; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    )
    with connected_as(database, role) as (conn, url):
        config = configure('"S 1"."T ""1", events', url=url)
        report = check(conn, config)
        wanted = [
            ("may not replicate", f"ALTER ROLE {quoted} REPLICATION;"),
            ('may not use schema "S 1"', f'GRANT USAGE ON SCHEMA "S 1" TO {quoted};'),
            ("may not read", f'GRANT SELECT ON "S 1"."T ""1" TO {quoted};'),
            ("may not read public.events", f'GRANT SELECT ON "public"."events" TO {quoted};'),
            ("row-level security", f"ALTER ROLE {quoted} BYPASSRLS;"),
            ("may not set", 'ALTER TABLE "public"."events" REPLICA IDENTITY FULL;'),
            ("may not create publication", "CREATE PUBLICATION"),
        ]
        problems = [(e.what, e.remedy) for e in report.errors]
        assert all(isinstance(e, MissingPrivilege) for e in report.errors)
        for what, remedy in wanted:
            assert any(what in w and remedy in r for w, r in problems), (what, problems)
        assert len(problems) == len(wanted)
        for problem in report.errors:
            before = len(check(conn, config).errors)
            apply(database, problem.remedy)
            assert len(check(conn, config).errors) == before - 1, problem
        assert prepare(conn, config)[0].done == ()
        assert conn.execute('SELECT count(*) FROM "S 1"."T ""1"').fetchone() == (0,)
        connect_replication(config.url).finish()


def test_owner_of_tables_without_create_on_the_database(
    database: SourceDatabase, configure: Configure, role: str
) -> None:
    database.execute(f"{ORDERS}; ALTER TABLE orders OWNER TO {quote_identifier(role)}")
    database.execute(f"GRANT USAGE ON SCHEMA public TO {quote_identifier(role)}")
    with connected_as(database, role) as (conn, url):
        with pytest.raises(MissingPrivilege, match="may not create publications in database") as caught:
            prepare(conn, configure(url=url))
        apply(database, caught.value.remedy)
        assert prepare(conn, configure(url=url))[0].done == ('created publication "dbmazz_pub"',)


def test_table_that_another_role_has_to_add(database: SourceDatabase, configure: Configure, role: str) -> None:
    database.execute(f"{ORDERS}; {EVENTS}; ALTER TABLE events ADD PRIMARY KEY (at)")
    database.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE orders")
    database.execute(f"GRANT SELECT ON orders, events TO {quote_identifier(role)}")
    with connected_as(database, role) as (conn, url):
        config = configure("orders, events", url=url)
        with pytest.raises(PublicationLacksTable, match=r"lacks public\.events") as caught:
            prepare(conn, config)
        apply(database, caught.value.remedy)
        assert prepare(conn, config)[0].done == ()
        assert "dbmazz did not create it" in teardown(conn, config)[0]
        with pytest.raises(MissingPrivilege) as denied:
            teardown(conn, config, drop_publication=True)
        apply(database, denied.value.remedy)
        assert teardown(conn, config) == []


def test_all_findings_are_collected(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{EVENTS}; CREATE VIEW v AS SELECT 1")
    report = check(conn, configure("event, v, events, s.*", replica_identity=LEAVE))
    assert [type(e).__name__ for e in report.errors] == [
        "TableNotFound",
        "TableNotSupported",
        "ReplicaIdentityInsufficient",
    ]
    with pytest.raises(TableNotFound, match=r"did you mean public\.events\?"):
        report.raise_first()
    assert all(f["remedy"] for f in report.to_dict()["findings"] if f["level"] == "error")
