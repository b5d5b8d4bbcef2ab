"""What the catalog says about tables, against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from psycopg.errors import ObjectNotInPrerequisiteState

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables, resolve_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection, connect, connect_replication
from dbmazz_core.connectors.sources.postgres.server.state import flush_lsn, server_facts, slot_state
from dbmazz_core.errors import TableNotFound, TableNotSupported
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from tests.support.postgres_fixtures import SourceDatabase


@pytest.fixture
def conn(database: SourceDatabase) -> Iterator[Connection]:
    with closing(connect(SecretUrl(database.url))) as conn:
        yield conn


def find(conn: Connection, tables: str) -> list[TableInfo]:
    return find_tables(conn, parse_tables(tables))


def names(conn: Connection, tables: str) -> list[str]:
    return [str(t.ref) for t in find(conn, tables)]


def test_columns(database: SourceDatabase, conn: Connection) -> None:
    database.execute(
        """
        CREATE DOMAIN "My Domain" AS numeric(6, 3);
        CREATE TABLE t (
            gone int, id bigint NOT NULL, price numeric(12, 2), name varchar(20), "select" "My Domain",
            tags text[], twice bigint GENERATED ALWAYS AS (id * 2) STORED
        );
        ALTER TABLE t DROP COLUMN gone
        """
    )
    (table,) = find(conn, "t")
    assert [(c.name, c.type_oid, c.type_modifier, c.type_name, c.not_null, c.generated) for c in table.columns] == [
        ("id", 20, -1, "bigint", True, ""),
        ("price", 1700, (12 << 16 | 2) + 4, "numeric(12,2)", False, ""),
        ("name", 1043, 24, "character varying(20)", False, ""),
        ("select", table.columns[3].type_oid, -1, 'public."My Domain"', False, ""),
        ("tags", 1009, -1, "text[]", False, ""),
        ("twice", 20, -1, "bigint", False, "s"),
    ]


@pytest.mark.parametrize(
    ("definition", "key", "usable"),
    [
        ("(a int, b int, PRIMARY KEY (b, a))", ("b", "a"), True),
        ("(a int PRIMARY KEY) ; ALTER TABLE t REPLICA IDENTITY FULL", ("a",), True),
        ("(a int PRIMARY KEY) ; ALTER TABLE t REPLICA IDENTITY NOTHING", (), False),
        ("(a int)", (), False),
        ("(a int UNIQUE)", (), False),
        ("(a int NOT NULL UNIQUE)", (), False),  # DEFAULT takes the primary key and nothing else
        ("(a int NOT NULL UNIQUE) ; ALTER TABLE t REPLICA IDENTITY FULL", ("a",), True),
        ("(a int UNIQUE) ; ALTER TABLE t REPLICA IDENTITY FULL", (), True),  # NULLs are not equal
        ("(a int PRIMARY KEY DEFERRABLE)", (), False),
        ("(a int PRIMARY KEY DEFERRABLE) ; ALTER TABLE t REPLICA IDENTITY FULL", (), True),
        (
            "(a int PRIMARY KEY DEFERRABLE, b int NOT NULL UNIQUE) ; ALTER TABLE t REPLICA IDENTITY FULL",
            ("b",),
            True,
        ),
        (
            "(a int NOT NULL, b int NOT NULL, c int NOT NULL, UNIQUE (a, b)) ;"
            "CREATE UNIQUE INDEX ON t (c) INCLUDE (a) ; ALTER TABLE t REPLICA IDENTITY FULL",
            ("c",),
            True,
        ),
        (
            "(a int NOT NULL) ; CREATE UNIQUE INDEX ON t (a) WHERE a > 0;"
            "CREATE UNIQUE INDEX ON t ((a + 1)) ; ALTER TABLE t REPLICA IDENTITY FULL",
            (),
            True,
        ),
        (
            "(a int PRIMARY KEY, b text NOT NULL, c int NOT NULL) ; CREATE UNIQUE INDEX u ON t (c, b);"
            "ALTER TABLE t REPLICA IDENTITY USING INDEX u",
            ("c", "b"),
            True,
        ),
        (
            "(a int, b int GENERATED ALWAYS AS (a) STORED PRIMARY KEY)",  # the stream may leave it out
            (),
            False,
        ),
    ],
)
def test_the_key_to_merge_by(
    database: SourceDatabase, conn: Connection, definition: str, key: tuple[str, ...], usable: bool
) -> None:
    database.execute(f"CREATE TABLE t {definition}")
    (table,) = find(conn, "t")
    assert (table.key, table.has_usable_identity) == (key, usable)


def test_postgresql_agrees_on_what_is_usable(database: SourceDatabase, conn: Connection) -> None:
    """A published table refuses updates exactly where we say that the identity is not usable."""
    database.execute(
        """
        CREATE TABLE a (id int PRIMARY KEY);
        CREATE TABLE b (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE c (id int NOT NULL UNIQUE);
        CREATE TABLE d (id int); ALTER TABLE d REPLICA IDENTITY FULL;
        CREATE TABLE e (id int PRIMARY KEY); ALTER TABLE e REPLICA IDENTITY NOTHING;
        CREATE TABLE f (id int NOT NULL); CREATE UNIQUE INDEX f_id ON f (id);
        ALTER TABLE f REPLICA IDENTITY USING INDEX f_id;
        CREATE PUBLICATION p FOR ALL TABLES
        """
    )
    for table in find(conn, "public.*"):
        conn.execute(f"INSERT INTO {table.ref.sql} VALUES (1)".encode())
        try:
            conn.execute(f"UPDATE {table.ref.sql} SET id = 2".encode())
            accepted = True
        except ObjectNotInPrerequisiteState:  # "does not have a replica identity and publishes updates"
            accepted = False
        assert table.has_usable_identity == accepted, table.ref


def test_order_is_that_of_the_patterns(database: SourceDatabase, conn: Connection) -> None:
    database.execute(
        "CREATE SCHEMA s; CREATE TABLE s.b (i int); CREATE TABLE s.a (i int); CREATE TABLE s.c (i int);"
        "CREATE TABLE z (i int)"
    )
    assert names(conn, "z, s.c, s.*, z") == ["public.z", "s.c", "s.a", "s.b"]


def test_partitions_are_captured_through_their_table(database: SourceDatabase, conn: Connection) -> None:
    database.execute(
        """
        CREATE TABLE p (id int PRIMARY KEY, t text) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (1000);
        CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (1000) TO (2000) PARTITION BY RANGE (id);
        CREATE TABLE p21 PARTITION OF p2 DEFAULT;
        INSERT INTO p SELECT i, 'x' FROM generate_series(0, 1999) i
        """
    )
    database.execute("ANALYZE p1, p21")
    (table,) = find(conn, "public.*")
    assert (str(table.ref), table.is_partitioned, table.key) == ("public.p", True, ("id",))
    assert [str(p.ref) for p in table.partitions] == ["public.p1", "public.p21"]
    assert table.estimated_rows == 2000
    assert table.pages > 0
    assert table.has_usable_identity
    assert names(conn, "p1, p2") == ["public.p1", "public.p2"]
    (leaf,) = find(conn, "p21")
    assert [str(a) for a in leaf.ancestors] == ["public.p2", "public.p"]
    with pytest.raises(TableNotSupported, match=r"public\.p21 is a partition of public\.p2"):
        find(conn, "p2, p21")
    database.execute("ALTER TABLE p21 REPLICA IDENTITY NOTHING")
    assert not find(conn, "p")[0].has_usable_identity


def test_missing_tables_come_with_the_nearest_names(database: SourceDatabase, conn: Connection) -> None:
    database.execute(
        'CREATE SCHEMA sales; CREATE TABLE sales.customers (i int); CREATE TABLE "Orders" (i int);'
        "CREATE TABLE order_items (i int); CREATE SCHEMA empty"
    )
    for wanted, message in {
        "orders": r'table public\.orders does not exist; did you mean public\."Orders"',
        "order_item": r"did you mean public\.order_items\?",
        "customers": r"did you mean sales\.customers",
        "sale.customers": r'schema "sale" does not exist; did you mean sales\.customers\?',
        "sale.*": r'schema "sale" does not exist; did you mean sales\.\*\?',
        "empty.*": r'schema "empty" has no table that can be captured',
        "qqqqqqqq": r"table public\.qqqqqqqq does not exist\n",
        '"a.b"."c"': r'schema "a\.b" does not exist\n',
    }.items():
        with pytest.raises(TableNotFound, match=message) as caught:
            find(conn, wanted)
        assert caught.value.exit_code == 4
        assert "TABLES" in caught.value.remedy


def test_what_cannot_be_captured_is_refused_by_name_and_left_out_of_a_schema(
    database: SourceDatabase, conn: Connection
) -> None:
    database.execute(
        """
        CREATE TABLE t (i int PRIMARY KEY);
        CREATE VIEW v AS SELECT 1;
        CREATE MATERIALIZED VIEW m AS SELECT 1;
        CREATE UNLOGGED TABLE u (i int);
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
        CREATE FOREIGN TABLE f (i int) SERVER s;
        CREATE SEQUENCE q
        """
    )
    for name, what in {
        "v": "is a view",
        "m": "is a materialized view",
        "u": "is an unlogged table: it writes no WAL",
        "f": "is a foreign table",
        "q": "is a sequence: its value is not published",
        "pg_catalog.pg_class": "is a system schema",
        "information_schema.*": "is a system schema",
        "pg_temp_3.t": "is a temporary table's schema",
    }.items():
        with pytest.raises(TableNotSupported, match=what):
            find(conn, f"t, {name}")
    resolution = resolve_tables(conn, parse_tables("public.*"))
    assert [str(t.ref) for t in resolution.tables] == ["public.t"]
    assert {str(ref): what for ref, what in resolution.left_out} == {
        "public.f": "a foreign table",
        "public.m": "a materialized view",
        "public.u": "an unlogged table",
        "public.v": "a view",
    }
    database.execute('ALTER TABLE "public"."u" SET LOGGED')  # the remedy
    assert names(conn, "u") == ["public.u"]


def test_only_a_foreign_owner_without_grants(database: SourceDatabase) -> None:
    role = f"reader_{database.name}"
    database.execute(f"CREATE TABLE t (i int); CREATE ROLE {role} LOGIN PASSWORD 'x'")
    url = SecretUrl(database.server.url(database.name, role=role, password="x"))
    try:
        with closing(connect(url)) as conn:
            (table,) = find(conn, "t")
            assert (table.owner, table.owned, table.readable, table.hides_rows) == (
                "postgres",
                False,
                False,
                False,
            )
            database.execute(f"GRANT SELECT ON t TO {role}; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
            (table,) = find(conn, "t")
            assert (table.readable, table.hides_rows) == (True, True)
            facts = server_facts(conn)
            assert (facts.role, facts.is_superuser, facts.has_replication, facts.may_create) == (
                role,
                False,
                False,
                False,
            )
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_server_facts_are_those_of_identify_system(database: SourceDatabase, conn: Connection) -> None:
    facts = server_facts(conn)
    assert facts.version == database.server.version
    assert facts.version_num // 10000 == database.server.major
    assert (facts.database, facts.role, facts.is_superuser) == (database.name, "postgres", True)
    assert (facts.wal_level, facts.in_recovery) == ("logical", False)
    assert facts.flush_lsn <= flush_lsn(conn)
    replication = connect_replication(SecretUrl(database.url))
    identity = replication.exec_(b"IDENTIFY_SYSTEM")
    assert (identity.get_value(0, 0) or b"").decode() == facts.system_identifier
    assert int(identity.get_value(0, 1) or 0) == facts.timeline
    replication.finish()


def test_system_identifier_is_unknown_where_the_role_may_not_ask(database: SourceDatabase) -> None:
    role = f"reader_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
    database.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    try:
        with closing(connect(SecretUrl(database.server.url(database.name, role=role, password="x")))) as conn:
            assert server_facts(conn).system_identifier is None
    finally:
        database.execute(f"DROP ROLE {role}")


def test_slot_state_of_nothing_and_of_a_temporary_slot(database: SourceDatabase, conn: Connection) -> None:
    assert slot_state(conn, "nothing") is None
    with closing(connect(SecretUrl(database.url), application_name="copier")) as other:
        name = f"tmp_{database.name}"
        other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput', true)", (name,))
        state = slot_state(conn, name)
        assert state is not None
        assert (state.temporary, state.active, state.active_pid) == (True, True, other.info.backend_pid)
        assert state.active_application == "copier"
        assert state.confirmed_flush_lsn is not None
        assert not state.is_lost
