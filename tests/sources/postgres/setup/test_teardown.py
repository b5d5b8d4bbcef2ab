"""Teardown drops what belongs to this pipeline alone."""

from __future__ import annotations

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.setup.prepare import prepare, teardown
from tests.sources.postgres.setup.kit import ORDERS, Configure, create_slot
from tests.support.postgres_fixtures import SourceDatabase


def publications(database: SourceDatabase) -> list[tuple[str]]:
    return database.fetch("SELECT pubname::text FROM pg_publication")


def test_a_publication_that_an_administrator_made(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(f"{ORDERS}; CREATE PUBLICATION dbmazz_pub FOR TABLE orders")
    config = configure()
    prepare(conn, config)
    (left,) = teardown(conn, config)
    assert "dbmazz did not create it" in left
    assert publications(database) == [("dbmazz_pub",)]
    assert teardown(conn, config, drop_publication=True) == ['dropped publication "dbmazz_pub"']


def test_a_publication_that_another_slot_may_use(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(ORDERS)
    config, other = configure(), configure(slot=f"other_{database.name}")
    prepare(conn, config)
    for slot in (config.slot, other.slot):
        create_slot(database, slot)
    dropped, left = teardown(conn, config)
    assert dropped == f"dropped replication slot {config.slot}"
    assert other.slot in left
    assert publications(database) == [("dbmazz_pub",)]
    assert teardown(conn, other) == [f"dropped replication slot {other.slot}", 'dropped publication "dbmazz_pub"']


def test_slots_that_cannot_use_the_publication_do_not_count(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(ORDERS)
    config = configure()
    prepare(conn, config)
    create_slot(database, f"audit_{database.name}", "test_decoding")
    assert teardown(conn, config) == ['dropped publication "dbmazz_pub"']
