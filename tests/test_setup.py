"""Setup against a real PostgreSQL: what it changes, what it refuses, and that the remedies are ones."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from dbmazz_core.config import ReplicaIdentityPolicy, SourceConfig
from dbmazz_core.connectors.sources.postgres.blockers import slot_creation_blocked, slot_creation_blockers
from dbmazz_core.connectors.sources.postgres.catalog import find_tables, slot_state
from dbmazz_core.connectors.sources.postgres.connection import Connection, connect, connect_replication
from dbmazz_core.connectors.sources.postgres.publication import published_tables
from dbmazz_core.connectors.sources.postgres.server_checks import known_decoding_bug, unsupported_version
from dbmazz_core.connectors.sources.postgres.setup import (
    check,
    prepare,
    teardown,
    verify_slot,
)
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import (
    MissingPrivilege,
    NoFreeSlot,
    PublicationLacksTable,
    PublicationNotFound,
    ReplicaIdentityInsufficient,
    SlotActive,
    SlotAheadOfCheckpoint,
    SlotLost,
    SlotMismatch,
    SlotNotFound,
    SourceNotReady,
    TableNotFound,
    WalLevelNotLogical,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.secret_url import SecretUrl
from dbmazz_core.tables import TableRef, parse_tables, quote_identifier
from tests.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase

PASSWORD = "Zq9-secret"
FULL = ReplicaIdentityPolicy.FULL
LEAVE = ReplicaIdentityPolicy.LEAVE

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, note text)"
EVENTS = "CREATE TABLE events (at int, note text)"

Configure = Callable[..., SourceConfig]


@pytest.fixture
def configure(database: SourceDatabase) -> Configure:
    """Settings for tables of the database; slot names are unique on the shared server."""

    def configure(tables: str = "orders", *, url: str | None = None, **settings: Any) -> SourceConfig:
        return SourceConfig(
            SecretUrl(url or database.url),
            parse_tables(tables),
            **{"slot": f"slot_{database.name}", **settings},
        )

    return configure


@pytest.fixture
def conn(database: SourceDatabase) -> Iterator[Connection]:
    """The superuser's connection."""
    with closing(connect(SecretUrl(database.url))) as conn:
        yield conn


@pytest.fixture
def role(database: SourceDatabase) -> Iterator[str]:
    """A role with REPLICATION and nothing else, with a name that needs quotes."""
    name = f'Cdc "{database.name}'
    quoted = quote_identifier(name)
    database.execute(f"CREATE ROLE {quoted} LOGIN REPLICATION PASSWORD '{PASSWORD}'")
    yield name
    database.execute(f"DROP OWNED BY {quoted} CASCADE")
    database.execute(f"DROP ROLE {quoted}")


@contextmanager
def connected_as(database: SourceDatabase, role: str) -> Iterator[tuple[Connection, str]]:
    url = database.server.url(database.name, role=role, password=PASSWORD)
    with closing(connect(SecretUrl(url))) as conn:
        yield conn, url


def statements(remedy: str) -> list[str]:
    """The SQL of a remedy, as somebody would copy it."""
    return re.findall(r"(?:\b(?:ALTER|GRANT|CREATE|DROP|ROLLBACK) |\bSELECT pg_)[^;]*;", remedy)


def apply(database: SourceDatabase, remedy: str) -> None:
    """Do what the remedy says."""
    found = statements(remedy)
    assert found, remedy
    for statement in found:
        if "rds_replication" not in statement:
            database.execute(statement)


def catalog_state(database: SourceDatabase) -> list[tuple[Any, ...]]:
    """Everything that setup could change, with the transaction that wrote it."""
    return [
        *database.fetch("SELECT oid, xmin, relreplident FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
        *database.fetch("SELECT oid, xmin::text, pubname FROM pg_publication"),
        *database.fetch("SELECT oid, xmin::text, prrelid FROM pg_publication_rel"),
        *database.fetch("SELECT slot_name, plugin FROM pg_replication_slots WHERE database = current_database()"),
    ]


def identity(database: SourceDatabase, table: str) -> str:
    return str(database.fetch("SELECT relreplident::text FROM pg_class WHERE oid = %s::regclass", table)[0][0])


# What setup does


def test_setup_creates_the_publication_and_gives_full_identity_only_where_no_key_is(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; {EVENTS}; CREATE TABLE other (i int)")
    config = configure("orders, events")
    assert check(conn, config).ok
    report = prepare(conn, config)
    assert report.done == (
        "set replica identity FULL on public.events",
        'created publication "dbmazz_pub"',
    )
    assert [(str(t.ref), t.key, t.replica_identity) for t in report.tables] == [
        ("public.orders", ("id",), "d"),
        ("public.events", (), "f"),
    ]
    assert database.fetch("SELECT tablename FROM pg_publication_tables ORDER BY 1") == [
        ("events",),
        ("orders",),
    ]
    assert database.fetch("SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication") == [
        (True,) * 5
    ]


def test_setup_twice_changes_nothing(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    config = configure("orders, events")
    prepare(conn, config)
    before = catalog_state(database)
    report = prepare(conn, config)
    assert report.done == ()
    assert catalog_state(database) == before


def test_check_changes_nothing(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    before = catalog_state(database)
    report = check(conn, configure("orders, events"))
    assert report.ok
    assert {f["level"] for f in report.to_dict()["findings"]} <= {"ok", "warning"}
    assert catalog_state(database) == before


def test_setup_adds_a_new_table_and_removes_none(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    prepare(conn, configure("orders"))
    report = prepare(conn, configure("events"))
    assert report.done[-1] == 'added table public.events to publication "dbmazz_pub"'
    assert database.fetch("SELECT count(*) FROM pg_publication_tables") == [(2,)]


def test_policy_full_sets_it_everywhere(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    report = prepare(conn, configure("orders, events", replica_identity=FULL))
    assert {t.replica_identity for t in report.tables} == {"f"}
    assert [t.key for t in report.tables] == [("id",), ()]


@pytest.mark.parametrize("policy", list(ReplicaIdentityPolicy))
@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE orders (id int)",
        "CREATE TABLE orders (id int PRIMARY KEY DEFERRABLE)",
        "CREATE TABLE orders (id int PRIMARY KEY); ALTER TABLE orders REPLICA IDENTITY NOTHING",
        "CREATE TABLE orders (id int NOT NULL); CREATE UNIQUE INDEX u ON orders (id);"
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX u; DROP INDEX u",
    ],
    ids=["no key", "deferrable key", "identity nothing", "identity index dropped"],
)
def test_a_table_without_usable_identity(
    database: SourceDatabase,
    conn: Connection,
    configure: Configure,
    policy: ReplicaIdentityPolicy,
    table: str,
) -> None:
    database.execute(table)
    config = configure(replica_identity=policy)
    if policy is LEAVE:
        before = catalog_state(database)
        with pytest.raises(ReplicaIdentityInsufficient) as caught:
            prepare(conn, config)
        assert catalog_state(database) == before
        apply(database, caught.value.remedy)
    prepare(conn, config)
    assert identity(database, "orders") == "f"
    database.execute("INSERT INTO orders VALUES (1); UPDATE orders SET id = 2; DELETE FROM orders")


def test_identity_by_index_is_left_alone(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, code text NOT NULL UNIQUE);"
        "ALTER TABLE orders REPLICA IDENTITY USING INDEX orders_code_key"
    )
    (table,) = prepare(conn, configure()).tables
    assert (table.replica_identity, table.key) == ("i", ("code",))


def test_names_that_need_quotes(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute('CREATE SCHEMA "My ""Schema"')
    database.execute('CREATE TABLE "My ""Schema"."select, 100% é" ("Id" int, "%s" text)')
    config = configure('"My ""Schema"."select, 100% é"', publication='Pub "1" %s')
    report = prepare(conn, config)
    assert report.done[-1] == 'created publication "Pub ""1"" %s"'
    assert prepare(conn, config).done == ()
    assert teardown(conn, config) == ['dropped publication "Pub ""1"" %s"']


def test_partitioned_tables_are_published_as_one_table(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(
        "CREATE TABLE orders (id int, note text) PARTITION BY RANGE (id);"
        "CREATE TABLE orders_1 PARTITION OF orders FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE orders_2 PARTITION OF orders FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);"
        "CREATE TABLE orders_21 PARTITION OF orders_2 FOR VALUES FROM (10) TO (20)"
    )
    (table,) = prepare(conn, configure("public.*")).tables
    assert str(table.ref) == "public.orders"
    assert [(str(p.ref), p.replica_identity) for p in table.identities] == [
        ("public.orders", "f"),
        ("public.orders_1", "f"),
        ("public.orders_21", "f"),
    ]
    assert database.fetch("SELECT tablename FROM pg_publication_tables") == [("orders",)]
    database.execute("INSERT INTO orders VALUES (1), (11); UPDATE orders SET note = 'x'; DELETE FROM orders")


def test_inheriting_tables_are_not_published_by_accident(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; CREATE TABLE child () INHERITS (orders)")
    config = configure()
    assert any("inherit from public.orders" in f.what for f in check(conn, config).warnings)
    prepare(conn, config)
    assert database.fetch("SELECT tablename FROM pg_publication_tables") == [("orders",)]


def test_two_setups_at_once_both_succeed(database: SourceDatabase, configure: Configure) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    config = configure("orders, events")
    barrier = threading.Barrier(4)
    outcomes: list[object] = []

    def run() -> None:
        with closing(connect(config.url)) as conn:
            barrier.wait()
            try:
                outcomes.append(prepare(conn, config).done)
            except Exception as error:  # noqa: BLE001 - compared below
                outcomes.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == sorted(
        map(
            str,
            [("set replica identity FULL on public.events", 'created publication "dbmazz_pub"'), (), (), ()],
        )
    )


def test_a_table_in_use_is_an_error_that_names_the_process(
    database: SourceDatabase, conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.setup._LOCK_TIMEOUT_S", 0.1)
    database.execute(EVENTS)
    with closing(database.connect()) as other:
        other.execute("BEGIN; SELECT FROM events")
        with pytest.raises(SourceNotReady, match=f"in use by process {other.info.backend_pid}") as caught:
            prepare(conn, configure("events"))
        assert database.fetch("SELECT count(*) FROM pg_publication") == [(0,)]
    apply(database, caught.value.remedy)
    assert prepare(conn, configure("events")).done == ('created publication "dbmazz_pub"',)


# Publications that somebody else has made


@pytest.mark.parametrize("publishes", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"])
def test_publication_of_all_tables_is_left_alone(
    database: SourceDatabase, conn: Connection, configure: Configure, publishes: str
) -> None:
    if "SCHEMA" in publishes and database.server.major < 15:
        pytest.skip("came with PostgreSQL 15")
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub {publishes}")
    assert check(conn, configure()).ok
    assert prepare(conn, configure()).done == ()


def test_publication_without_deletes(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub FOR TABLE orders WITH (publish = 'insert, update')")
    with pytest.raises(PublicationLacksTable, match="does not publish delete, truncate") as caught:
        prepare(conn, configure())
    apply(database, caught.value.remedy)
    assert prepare(conn, configure()).done == ()


def test_publication_that_publishes_partitions_by_their_own_names(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE orders_1 PARTITION OF orders DEFAULT; CREATE PUBLICATION dbmazz_pub FOR TABLE orders"
    )
    with pytest.raises(PublicationLacksTable, match="under their partitions' names") as caught:
        prepare(conn, configure())
    apply(database, caught.value.remedy)
    assert prepare(conn, configure()).done == ()
    with pytest.raises(PublicationLacksTable, match=r"as those of public\.orders"):
        prepare(conn, configure("orders_1"))


def test_table_removed_from_the_publication_behind_our_back(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    config = configure("orders, events")
    prepare(conn, config)
    database.execute("ALTER PUBLICATION dbmazz_pub DROP TABLE events")
    with pytest.raises(PublicationLacksTable, match=r"no longer has public\.events"):
        prepare(conn, config, captured=[TableRef("public", "events")])
    assert prepare(conn, config).done == ('added table public.events to publication "dbmazz_pub"',)


def test_publication_dropped_behind_our_back(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(ORDERS)
    prepare(conn, configure())
    database.execute("DROP PUBLICATION dbmazz_pub")
    before = catalog_state(database)
    with pytest.raises(PublicationNotFound, match='"dbmazz_pub" does not exist'):
        prepare(conn, configure(), captured=[TableRef("public", "orders")])
    assert catalog_state(database) == before


def test_row_filters_and_column_lists_are_pointed_out(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    if database.server.major < 15:
        pytest.skip("came with PostgreSQL 15")
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub FOR TABLE orders (id) WHERE (id > 5)")
    config = configure()
    warnings = [f.what for f in check(conn, config).warnings]
    assert any("WHERE (id > 5)" in w for w in warnings)
    assert any("leaves out columns note" in w for w in warnings)
    published = published_tables(conn, "dbmazz_pub", find_tables(conn, config.tables))
    assert published[TableRef("public", "orders")].columns == ("id",)
    with pytest.raises(ReplicaIdentityInsufficient) as caught:
        prepare(conn, configure(replica_identity=FULL))
    assert identity(database, "orders") == "d"
    apply(database, caught.value.remedy)
    prepare(conn, configure(replica_identity=FULL))
    database.execute("INSERT INTO orders VALUES (1); UPDATE orders SET id = 2; DELETE FROM orders")


def test_generated_columns_do_not_make_the_server_refuse_updates(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    table = "(id int, twice int GENERATED ALWAYS AS (id * 2) STORED)"
    database.execute(f"CREATE TABLE mine {table}; CREATE TABLE theirs {table}")
    database.execute("CREATE PUBLICATION theirs FOR TABLE theirs")
    use = "INSERT INTO {0} VALUES (1); UPDATE {0} SET id = 2; DELETE FROM {0}"

    config = configure("mine")
    prepare(conn, config)
    database.execute(use.format("mine"))
    arriving = published_tables(conn, "dbmazz_pub", find_tables(conn, config.tables))
    has_generated = database.server.major >= 18
    assert arriving[TableRef("public", "mine")].columns == (("id", "twice") if has_generated else ("id",))

    config = configure("theirs", publication="theirs")
    if has_generated:
        with pytest.raises(ReplicaIdentityInsufficient, match="generated columns twice") as caught:
            prepare(conn, config)
        apply(database, caught.value.remedy)
    prepare(conn, config)
    database.execute(use.format("theirs"))


# Privileges: each remedy is executed and mends it


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
        assert prepare(conn, config).done == ()
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
        assert prepare(conn, configure(url=url)).done == ('created publication "dbmazz_pub"',)


def test_table_that_another_role_has_to_add(database: SourceDatabase, configure: Configure, role: str) -> None:
    database.execute(f"{ORDERS}; {EVENTS}; ALTER TABLE events ADD PRIMARY KEY (at)")
    database.execute("CREATE PUBLICATION dbmazz_pub FOR TABLE orders")
    database.execute(f"GRANT SELECT ON orders, events TO {quote_identifier(role)}")
    with connected_as(database, role) as (conn, url):
        config = configure("orders, events", url=url)
        with pytest.raises(PublicationLacksTable, match=r"lacks public\.events") as caught:
            prepare(conn, config)
        apply(database, caught.value.remedy)
        assert prepare(conn, config).done == ()
        with pytest.raises(MissingPrivilege) as denied:
            teardown(conn, config)
        apply(database, denied.value.remedy)
        assert teardown(conn, config) == []


def test_all_findings_are_collected(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{EVENTS}; CREATE VIEW v AS SELECT 1")
    report = check(conn, configure("event, v, events, s.*", replica_identity=LEAVE))
    assert [type(e).__name__ for e in report.errors] == [
        "TableNotFound",
        "TableNotSupported",
        "TableNotFound",
        "ReplicaIdentityInsufficient",
    ]
    with pytest.raises(TableNotFound, match=r"did you mean public\.events\?"):
        report.raise_first()
    assert all(f["remedy"] for f in report.to_dict()["findings"] if f["level"] == "error")


# Slots


def create_slot(database: SourceDatabase, name: str, plugin: str = "pgoutput") -> None:
    database.execute("SELECT pg_create_logical_replication_slot(%s, %s)", name, plugin)


def test_slot_that_fits(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    config = configure()
    verify_slot(None, config, None, database=database.name)
    create_slot(database, config.slot)
    state = slot_state(conn, config.slot)
    assert state is not None
    assert (state.plugin, state.slot_type, state.database, state.active) == (
        "pgoutput",
        "logical",
        database.name,
        False,
    )
    assert state.retained_bytes is not None
    assert state.retained_bytes >= 0
    verify_slot(state, config, state.confirmed_flush_lsn, database=database.name)
    verify_slot(state, config, None, database=database.name)


def test_slot_dropped_behind_our_back(database: SourceDatabase, configure: Configure) -> None:
    with pytest.raises(SlotNotFound, match="every change after the checkpoint 0/5") as caught:
        verify_slot(None, configure(), Lsn(5), database=database.name)
    assert "dbmazz snapshot" in caught.value.remedy


def test_slot_ahead_of_the_checkpoint(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    config = configure()
    create_slot(database, config.slot)
    state = slot_state(conn, config.slot)
    assert state is not None
    assert state.confirmed_flush_lsn is not None
    checkpoint = Lsn(state.confirmed_flush_lsn - 1)
    with pytest.raises(SlotAheadOfCheckpoint, match=f"{state.confirmed_flush_lsn}.*{checkpoint}"):
        verify_slot(state, config, checkpoint, database=database.name)


def test_slot_of_another_plugin(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(ORDERS)
    config = configure()
    create_slot(database, config.slot, "test_decoding")
    with pytest.raises(SlotMismatch, match="plugin is test_decoding"):
        verify_slot(slot_state(conn, config.slot), config, None, database=database.name)
    with pytest.raises(SlotMismatch, match="test_decoding") as caught:
        teardown(conn, config)
    assert [type(e) for e in check(conn, config).errors] == [SlotMismatch]
    apply(database, caught.value.remedy)
    assert check(conn, config).ok


def test_slot_of_another_database(
    server: EmbeddedPostgres, database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    config = configure()
    create_slot(database, config.slot)
    with pytest.raises(SlotMismatch, match=f"belongs to database {database.name}, not postgres"):
        verify_slot(slot_state(conn, config.slot), config, None, database="postgres")
    with closing(connect(SecretUrl(server.url()))) as elsewhere, pytest.raises(SlotMismatch):
        teardown(elsewhere, config)


def test_physical_slot(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    config = configure()
    database.execute("SELECT pg_create_physical_replication_slot(%s)", config.slot)
    try:
        with pytest.raises(SlotMismatch, match="physical slot") as caught:
            verify_slot(slot_state(conn, config.slot), config, None, database=database.name)
    finally:
        database.execute("SELECT pg_drop_replication_slot(%s)", config.slot)
    assert config.slot in caught.value.remedy


def test_active_slot_names_its_holder_and_survives_teardown(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(ORDERS)
    config = configure()
    prepare(conn, config)
    create_slot(database, config.slot)
    stream = connect_replication(config.url, application_name="the other one")
    stream.exec_(
        f"START_REPLICATION SLOT {config.slot} LOGICAL 0/0 (proto_version '1', publication_names 'dbmazz_pub')".encode()
    )
    try:
        state = slot_state(conn, config.slot)
        assert state is not None
        holder = rf"in use by process {stream.backend_pid} \(the other one\)"
        with pytest.raises(SlotActive, match=holder):
            verify_slot(state, config, None, database=database.name)
        verify_slot(state, config, None, database=database.name, own_pid=stream.backend_pid)
        assert any(isinstance(f.error, SlotActive) for f in check(conn, config).warnings)
        with pytest.raises(SlotActive, match=holder) as caught:
            teardown(conn, config)
        assert database.fetch("SELECT count(*) FROM pg_publication") == [(1,)]
        apply(database, caught.value.remedy)
        assert teardown(conn, config) == [
            f"dropped replication slot {config.slot}",
            'dropped publication "dbmazz_pub"',
        ]
        assert teardown(conn, config) == []
    finally:
        stream.finish()


def test_slot_creation_names_the_transactions_it_waits_for(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(ORDERS)
    with closing(database.connect()) as writer, closing(database.connect()) as preparer:
        writer.execute("SET application_name = 'nightly'")
        writer.execute("BEGIN")
        writer.execute("INSERT INTO orders VALUES (1)")
        preparer.execute("BEGIN")
        preparer.execute("INSERT INTO orders VALUES (2)")
        preparer.execute(f"PREPARE TRANSACTION 'it''s {database.name}'")
        blockers = [b for b in slot_creation_blockers(conn) if b.database == database.name]
        assert [(b.pid, b.gid, b.state) for b in blockers] == [
            (writer.info.backend_pid, None, "idle in transaction"),
            (None, f"it's {database.name}", "prepared"),
        ]
        error = slot_creation_blocked("s", blockers, 30)
        assert f"process {writer.info.backend_pid} (nightly, role postgres" in error.what
        assert "and 1 more" in error.what
        apply(database, error.remedy)
        apply(database, blockers[1].remedy)
        assert [b for b in slot_creation_blockers(conn) if b.database == database.name] == []


# Servers that are not ready


def test_server_settings_that_prevent_capturing() -> None:
    settings = {**UNSAFE_BUT_FAST, "wal_level": "replica", "max_replication_slots": "1"}
    with EmbeddedPostgres(settings=settings) as server:
        config = SourceConfig(SecretUrl(server.url()), parse_tables("orders"))
        with closing(connect(config.url)) as conn:
            conn.execute(f"{ORDERS.replace('orders', 'public.orders')}")
            conn.execute("SELECT pg_create_physical_replication_slot('theirs')")
            errors = check(conn, config).errors
            assert [type(e) for e in errors] == [WalLevelNotLogical, NoFreeSlot]
            with pytest.raises(WalLevelNotLogical):
                prepare(conn, config)
            assert conn.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)
            for statement in statements(errors[0].remedy):
                conn.execute(statement.encode())
            conn.execute("SELECT pg_drop_replication_slot('theirs')")
        server.restart()
        with closing(connect(config.url)) as conn:
            assert check(conn, config).ok


def test_slot_whose_wal_was_removed() -> None:
    settings = {
        **UNSAFE_BUT_FAST,
        "max_slot_wal_keep_size": "1MB",
        "min_wal_size": "32MB",
        "max_wal_size": "32MB",
    }
    with EmbeddedPostgres(settings=settings) as server:
        config = SourceConfig(SecretUrl(server.url()), parse_tables("orders"))
        with closing(connect(config.url)) as conn:
            conn.execute("SELECT pg_create_logical_replication_slot('dbmazz_slot', 'pgoutput')")
            conn.execute("CREATE TABLE public.orders (id int PRIMARY KEY)")
            for _ in range(4):
                conn.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 1000000))")
                conn.execute("SELECT pg_switch_wal()")
            conn.execute("CHECKPOINT")
            with pytest.raises(SlotLost) as caught:
                verify_slot(slot_state(conn, "dbmazz_slot"), config, Lsn(1), database="postgres")
            assert "max_slot_wal_keep_size" in caught.value.remedy
            assert [type(e) for e in check(conn, config).errors] == [SlotLost]
            assert teardown(conn, config) == ["dropped replication slot dbmazz_slot"]


@pytest.mark.parametrize(
    ("version_num", "bug"),
    [
        (140017, "14.18"),
        (140018, "14.19"),
        (140019, None),
        (150012, "15.13"),
        (150018, None),
        (160009, "16.10"),
        (170004, "17.5"),
        (170006, None),
        (180000, None),
    ],
)
def test_minor_versions_with_decoding_bugs(version_num: int, bug: str | None) -> None:
    assert (known_decoding_bug(version_num) or "fixed in None").count(f"fixed in {bug}") == 1


def test_old_servers_are_refused() -> None:
    assert unsupported_version(140000, "14.0") is None
    error = unsupported_version(130022, "13.22")
    assert error is not None
    assert "PostgreSQL 13.22" in error.what
