"""Types whose output function a query cannot call: the copy has the texts that the stream has."""

from __future__ import annotations

from contextlib import closing

from dbmazz_core.connectors.sources.postgres.connection import connect
from dbmazz_core.connectors.sources.postgres.snapshot.columns import column_outputs
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import PASSWORD
from tests.support.lab import Lab
from tests.support.postgres_fixtures import SourceDatabase


def test_a_type_with_the_output_function_of_another(lab: Lab) -> None:
    """refcursor has that of text. In a domain, in a list, and in a composite too."""
    lab.execute(
        "CREATE DOMAIN d AS refcursor; CREATE TYPE pair AS (a refcursor, b int);"
        "CREATE TABLE t (id int PRIMARY KEY, c refcursor, d d, l refcursor[], p pair);"
        "INSERT INTO t VALUES (1, 'abc', 'd', '{a,\"b,c\",NULL}', '(\"x,y\",1)');"
        "INSERT INTO t VALUES (2, '', NULL, NULL, NULL), (3, 'ü%s', '', '{}', '(,)'); INSERT INTO t VALUES (4)"
    )
    lab.capture_and_compare("t")
    lab.execute("INSERT INTO t VALUES (5, 'n', 'n', '{n}', '(n,2)'); UPDATE t SET d = 'e' WHERE id = 1")
    lab.execute("DELETE FROM t WHERE id = 2")
    lab.capture_and_compare("t")


def test_no_other_built_in_type_has_the_output_function_of_another(database: SourceDatabase) -> None:
    """All types of which a column can be, as catalogs have them."""
    with closing(connect(SecretUrl(database.url))) as conn:
        names = conn.execute(
            "SELECT format_type(oid, NULL) FROM pg_type WHERE typtype IN ('b', 'r', 'm') AND typcategory <> 'A' "
            "AND typnamespace = 'pg_catalog'::regnamespace ORDER BY 1"
        ).fetchall()
        columns = ", ".join(f"c{number} {name}" for number, (name,) in enumerate(names))
        conn.execute(f"CREATE TABLE public.every ({columns})".encode())
        ((oid,),) = conn.execute("SELECT 'public.every'::regclass::oid::bigint").fetchall()
        (found,) = column_outputs(conn, [oid]).values()
        assert len(found) > 60
        assert [names[int(output.name[1:])] for output in found if not output.can_call] == [("refcursor",)]


def test_a_type_in_a_schema_that_the_role_may_not_use(lab: Lab, role: str) -> None:
    """The stream sends such values, and SELECT returns them."""
    quoted = quote_identifier(role)
    lab.execute(
        "CREATE SCHEMA ext; CREATE TYPE ext.mood AS ENUM ('good', 'bad'); CREATE DOMAIN d AS ext.mood;"
        "CREATE TYPE ext.pair AS (a int, b ext.mood); CREATE TYPE ext.range AS RANGE (SUBTYPE = int);"
        "CREATE DOMAIN ext.d2 AS ext.pair;"
        "CREATE TABLE t (id int PRIMARY KEY, m ext.mood, d d, p ext.pair, r ext.range, l ext.mood[], "
        "d2 ext.d2, z ext.pair);"
        "INSERT INTO t VALUES (1, 'good', 'bad', '(1,good)', '[1,3)', '{bad}', '(2,bad)', '(,)');"
        "INSERT INTO t VALUES (2); INSERT INTO t VALUES (3, 'bad');"
        f"GRANT USAGE ON SCHEMA public TO {quoted}; GRANT SELECT ON t TO {quoted};"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t WITH (publish_via_partition_root)"
    )
    lab = lab.configured(url=lab.database.server.url(lab.database.name, role=role, password=PASSWORD))
    lab.capture_and_compare("t")
    assert lab.rows("SELECT z FROM public.t WHERE id = 1") == [("(,)",)]
    lab.execute("INSERT INTO t SELECT id + 10, m, d, p, r, l, d2, z FROM t")
    lab.capture_and_compare("t")


def test_an_output_function_that_the_role_may_not_execute(lab: Lab, role: str) -> None:
    quoted = quote_identifier(role)
    lab.execute(
        "CREATE TABLE t (id int PRIMARY KEY, b bit(3), n numeric);"
        "INSERT INTO t VALUES (1, '101', 1.50), (2, NULL, NULL);"
        "REVOKE EXECUTE ON FUNCTION bit_out(bit), numeric_out(numeric) FROM PUBLIC;"
        f"GRANT USAGE ON SCHEMA public TO {quoted}; GRANT SELECT ON t TO {quoted};"
        "CREATE PUBLICATION dbmazz_pub FOR TABLE t WITH (publish_via_partition_root)"
    )
    lab = lab.configured(url=lab.database.server.url(lab.database.name, role=role, password=PASSWORD))
    lab.capture_and_compare("t")
