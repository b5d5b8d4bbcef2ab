"""Statements of setup that PostgreSQL refuses: the error has the statement, the reason, and SQL that works."""

from __future__ import annotations

import pytest

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.setup.prepare import prepare, teardown
from dbmazz_core.errors import SourceNotReady
from tests.sources.postgres.setup.kit import EVENTS, ORDERS, Configure, apply, create_slot, identity
from tests.support.postgres_fixtures import SourceDatabase

READ_ONLY = "SET default_transaction_read_only = on"


def test_a_session_that_stays_read_only(database: SourceDatabase, conn: Connection, configure: Configure) -> None:
    """As behind a pooler that gives each statement another session."""
    database.execute(f"{ORDERS}; {EVENTS}")
    config = configure("orders, events")
    conn.execute(READ_ONLY)
    with pytest.raises(SourceNotReady, match="cannot execute ALTER TABLE in a read-only transaction") as info:
        prepare(conn, config)
    assert info.value.object == "public.events"
    apply(database, info.value.remedy)
    assert identity(database, "events") == "f"
    with pytest.raises(SourceNotReady, match="cannot execute CREATE PUBLICATION") as info:
        prepare(conn, config)
    apply(database, info.value.remedy)
    assert prepare(conn, config)[0].done == ()


def test_a_teardown_in_a_session_that_stays_read_only(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    database.execute(ORDERS)
    config = configure()
    prepare(conn, config)
    create_slot(database, config.slot)
    conn.execute(READ_ONLY)
    with pytest.raises(SourceNotReady, match=rf"\(dropped replication slot {config.slot}\)") as info:
        teardown(conn, config)
    apply(database, info.value.remedy)
    assert teardown(conn, config) == []
