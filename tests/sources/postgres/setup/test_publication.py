"""What setup makes of publications and replica identities, and that it changes nothing else."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

import psycopg
import pytest

from dbmazz_core.connectors.sources.postgres.catalog.publication import (
    read_publication,
)
from dbmazz_core.connectors.sources.postgres.catalog.resolution import find_tables
from dbmazz_core.connectors.sources.postgres.connection import Connection, connect
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.prepare import check, prepare, teardown
from dbmazz_core.errors import (
    PublicationLacksTable,
    PublicationNotFound,
    ReplicaIdentityInsufficient,
    SourceNotReady,
    TableNotFound,
)
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.replica_identity import ReplicaIdentityPolicy
from dbmazz_core.table_ref import TableRef
from tests.sources.postgres.setup.kit import (
    EVENTS,
    FULL,
    LEAVE,
    ORDERS,
    Configure,
    apply,
    catalog_state,
    identity,
)
from tests.support.before import before
from tests.support.postgres_fixtures import SourceDatabase


def test_setup_creates_the_publication_and_gives_full_identity_only_where_no_key_is(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; {EVENTS}; CREATE TABLE other (i int)")
    config = configure("orders, events")
    assert check(conn, config).ok
    report, look = prepare(conn, config)
    assert report.done == (
        "set replica identity FULL on public.events",
        'created publication "dbmazz_pub"',
    )
    assert [(str(t.ref), t.key, t.replica_identity) for t in look.tables] == [
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
    report = prepare(conn, config)[0]
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
    report = prepare(conn, configure("events"))[0]
    assert report.done[-1] == 'added table public.events to publication "dbmazz_pub"'
    assert database.fetch("SELECT count(*) FROM pg_publication_tables") == [(2,)]


def test_policy_full_sets_it_everywhere(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; {EVENTS}")
    _, look = prepare(conn, configure("orders, events", replica_identity=FULL))
    assert {t.replica_identity for t in look.tables} == {"f"}
    assert [t.key for t in look.tables] == [("id",), ()]


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
    (table,) = prepare(conn, configure())[1].tables
    assert (table.replica_identity, table.key) == ("i", ("code",))


def test_names_that_need_quotes(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute('CREATE SCHEMA "My ""Schema"')
    database.execute('CREATE TABLE "My ""Schema"."select, 100% é" ("Id" int, "%s" text)')
    config = configure('"My ""Schema"."select, 100% é"', publication='Pub "1" %s')
    report = prepare(conn, config)[0]
    assert report.done[-1] == 'created publication "Pub ""1"" %s"'
    assert prepare(conn, config)[0].done == ()
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
    (table,) = prepare(conn, configure("public.*"))[1].tables
    assert str(table.ref) == "public.orders"
    assert [(str(p.ref), p.replica_identity) for p in table.replica_identities] == [
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
                outcomes.append(prepare(conn, config)[0].done)
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
    monkeypatch.setattr("dbmazz_core.connectors.sources.postgres.setup.run_statement._LOCK_TIMEOUT_S", 0.1)
    database.execute(EVENTS)
    with closing(database.connect()) as other:
        other.execute("BEGIN; SELECT FROM events")
        with pytest.raises(SourceNotReady, match=f"in use by process {other.info.backend_pid}") as caught:
            prepare(conn, configure("events"))
        assert database.fetch("SELECT count(*) FROM pg_publication") == [(0,)]
    apply(database, caught.value.remedy)
    assert prepare(conn, configure("events"))[0].done == ('created publication "dbmazz_pub"',)


# Publications that somebody else has made


@pytest.mark.parametrize("publishes", ["FOR ALL TABLES", "FOR TABLES IN SCHEMA public"])
def test_publication_of_all_tables_is_left_alone(
    database: SourceDatabase, conn: Connection, configure: Configure, publishes: str
) -> None:
    if "SCHEMA" in publishes and database.server.major < 15:
        pytest.skip("came with PostgreSQL 15")
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub {publishes}")
    assert check(conn, configure()).ok
    assert prepare(conn, configure())[0].done == ()


def test_publication_without_deletes(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub FOR TABLE orders WITH (publish = 'insert, update')")
    with pytest.raises(PublicationLacksTable, match="does not publish delete, truncate") as caught:
        prepare(conn, configure())
    apply(database, caught.value.remedy)
    assert prepare(conn, configure())[0].done == ()


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
    assert prepare(conn, configure())[0].done == ()
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
    assert prepare(conn, config)[0].done == ('added table public.events to publication "dbmazz_pub"',)


def test_publication_dropped_behind_our_back(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    database.execute(ORDERS)
    prepare(conn, configure())
    database.execute("DROP PUBLICATION dbmazz_pub")
    before = catalog_state(database)
    with pytest.raises(PublicationNotFound, match='"dbmazz_pub" does not exist'):
        prepare(conn, configure(), captured=[TableRef("public", "orders")])
    assert catalog_state(database) == before


def published_columns(conn: Connection, config: SourceConfig) -> tuple[str, ...]:
    """The published columns of the one configured table."""
    publication = read_publication(conn, config.publication)
    assert publication is not None
    (table,) = find_tables(conn, config.tables)
    return publication.columns_of(table)


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
    assert published_columns(conn, config) == ("id",)
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
    has_generated = database.server.major >= 18
    assert published_columns(conn, config) == (("id", "twice") if has_generated else ("id",))

    config = configure("theirs", publication="theirs")
    if has_generated:
        with pytest.raises(ReplicaIdentityInsufficient, match="generated columns twice") as caught:
            prepare(conn, config)
        apply(database, caught.value.remedy)
    prepare(conn, config)
    database.execute(use.format("theirs"))


class _Pages:
    """A connection that counts the pages of the catalog that each query looks at."""

    def __init__(self, conn: Connection) -> None:
        self.conn, self.info, self.count = conn, conn.info, 0

    def execute(self, query: bytes, arguments: Sequence[object]) -> psycopg.Cursor[tuple[Any, ...]]:
        [([plan],)] = self.conn.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT json) " + query, arguments)
        self.count += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
        return self.conn.execute(query, arguments)


def test_a_publication_of_many_tables_is_read_in_one_go(database: SourceDatabase, conn: Connection) -> None:
    """The catalog was gone through for every relation of the database: with 1,500 tables 0.6 s, five times a window."""
    database.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id); CREATE TABLE p0 PARTITION OF p DEFAULT")
    database.execute("CREATE PUBLICATION dbmazz_pub FOR ALL TABLES WITH (publish_via_partition_root = false)")
    for tables in (range(25), range(25, 200)):
        database.execute("; ".join(f"CREATE TABLE t{i} (id int PRIMARY KEY)" for i in tables))
        pages = _Pages(conn)
        publication = read_publication(cast("Connection", pages), "dbmazz_pub")
        assert publication is not None
        assert len(publication.tables) == tables.stop + 1
        assert pages.count < 40 * len(publication.tables)  # 110 to 340 it was


def test_a_table_that_is_dropped_while_setup_runs(
    database: SourceDatabase, conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step is for another table, and the last look finds one too few."""
    database.execute(f"{ORDERS}; {EVENTS}; CREATE PUBLICATION dbmazz_pub FOR TABLE orders, events")
    before(monkeypatch, setup, "run_statement", lambda: database.execute("DROP TABLE orders"))
    with pytest.raises(TableNotFound, match=r"public\.orders"):
        prepare(conn, configure("orders, events"))
