"""Statements of setup that PostgreSQL refuses: the error has the statement, the reason, and SQL that works."""

from __future__ import annotations

from contextlib import closing

import pytest

from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.connectors.sources.postgres.setup import prepare as setup
from dbmazz_core.connectors.sources.postgres.setup.prepare import prepare, teardown
from dbmazz_core.connectors.sources.postgres.setup.run_statement import run_statement
from dbmazz_core.errors import SourceNotReady
from tests.sources.postgres.setup.kit import EVENTS, ORDERS, Configure, apply, create_slot, identity
from tests.support.before import before
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


LOG = (
    "CREATE TABLE ddl_log (tag text); CREATE FUNCTION lg() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
    "INSERT INTO ddl_log VALUES (tg_tag); END $$; CREATE EVENT TRIGGER lg ON ddl_command_end EXECUTE FUNCTION lg();"
)
#: Makes event triggers that refuse what setup does.
REFUSE = (
    "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN "
    "RAISE 'use migrations' USING ERRCODE = '{errcode}'; END $$;"
    "CREATE EVENT TRIGGER \"No 1\" ON ddl_command_start WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION') "
    "EXECUTE FUNCTION no(); CREATE EVENT TRIGGER no2 ON ddl_command_end WHEN TAG IN ('ALTER TABLE') "
    "EXECUTE FUNCTION no(); CREATE EVENT TRIGGER no3 ON sql_drop EXECUTE FUNCTION no(); "
    "ALTER EVENT TRIGGER no2 ENABLE ALWAYS"
)


def test_an_event_trigger_whose_function_uses_unqualified_names(
    database: SourceDatabase, conn: Connection, configure: Configure
) -> None:
    """It runs with the search path of the role, as it does for everybody else; dbmazz's session keeps its own."""
    database.execute(f"{ORDERS}; {EVENTS}; {LOG}")
    assert len(prepare(conn, configure("orders, events"))[0].done) == 2
    teardown(conn, configure())
    assert database.fetch("SELECT DISTINCT tag FROM ddl_log WHERE tag ~ 'PUBL|ALTER TABLE' ORDER BY tag") == [
        ("ALTER TABLE",),
        ("CREATE PUBLICATION",),
        ("DROP PUBLICATION",),
    ]
    assert conn.execute("SELECT current_setting('search_path')").fetchone() == ("",)


@pytest.mark.parametrize("errcode", ["P0001", "42501", "23505", "42704", "XX000", "55P03", "57014"])
def test_an_event_trigger_that_refuses_the_statements_of_setup(
    database: SourceDatabase, conn: Connection, configure: Configure, errcode: str
) -> None:
    """With any SQLSTATE, also of errors that setup would otherwise take for a lock, a privilege, or another session."""
    database.execute(f"{ORDERS}; {EVENTS}; {REFUSE.format(errcode=errcode)}")
    config = configure("orders, events")
    states = "SELECT evtname, evtenabled::text FROM pg_event_trigger ORDER BY evtname"
    as_it_was = database.fetch(states)

    for table, command in [("public.events", "ALTER TABLE"), ("publication dbmazz_pub", "CREATE PUBLICATION")]:
        with pytest.raises(SourceNotReady, match="use migrations") as info:
            prepare(conn, config)
        error = info.value
        assert (error.object, type(error)) == (table, SourceNotReady)
        assert f"PostgreSQL refuses {command}" in error.what
        assert "PL/pgSQL function no() line 1 at RAISE" in error.what
        assert ("no2" in error.remedy, '"No 1" (function public.no())' in error.remedy) == (
            command == "ALTER TABLE",
            command != "ALTER TABLE",
        )
        apply(database, error.remedy)
    assert prepare(conn, config)[0].done == ()

    create_slot(database, config.slot)
    with pytest.raises(SourceNotReady, match=rf"use migrations.*\(dropped replication slot {config.slot}\)") as info:
        teardown(conn, config)
    apply(database, info.value.remedy)
    assert teardown(conn, config) == []
    assert database.fetch(states) == as_it_was


def test_a_statement_that_is_refused_for_another_reason(
    database: SourceDatabase, conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error has the statement, and does not accuse the event trigger that is there."""
    database.execute(f"{ORDERS}; {LOG}")
    before(monkeypatch, setup, "run_statement", lambda: database.execute("ALTER TABLE orders SET UNLOGGED"))
    with pytest.raises(SourceNotReady, match=r"PostgreSQL refuses CREATE PUBLICATION .*unlogged") as info:
        prepare(conn, configure())
    assert info.value.object == "publication dbmazz_pub"
    assert "event trigger" not in info.value.remedy
    database.execute("ALTER TABLE orders SET LOGGED")
    apply(database, info.value.remedy)
    assert prepare(conn, configure())[0].done == ()


@pytest.mark.parametrize("prepared", [False, True], ids=["open", "prepared"])
def test_a_table_that_another_transaction_uses(
    database: SourceDatabase, conn: Connection, configure: Configure, monkeypatch: pytest.MonkeyPatch, prepared: bool
) -> None:
    """The error names the oldest transaction, and how to end it: a prepared one has no process."""
    for name in ("_LOCK_TIMEOUT_S", "_SHORT_LOCK_TIMEOUT_S"):
        monkeypatch.setattr(f"{run_statement.__module__}.{name}", 0.1)
    database.execute(EVENTS)
    gid = f"it''s {database.name}"
    with closing(database.connect()) as one, closing(database.connect()) as two:
        one.execute("SET application_name = 'nightly'; BEGIN; INSERT INTO events VALUES (1)")
        if prepared:
            one.execute(f"PREPARE TRANSACTION '{gid}'")
        two.execute("BEGIN; SELECT FROM events")
        with pytest.raises(SourceNotReady, match=r"public\.events is in use by .* and 1 more") as info:
            prepare(conn, configure("events"))
        assert ("prepared transaction" if prepared else f"process {one.info.backend_pid} (nightly") in info.value.what
        assert ";;" not in info.value.remedy
        two.execute("ROLLBACK")
        end = info.value.remedy.partition("end it: ")[2].partition(";")[0]
        database.execute(end)
    assert len(prepare(conn, configure("events"))[0].done) == 2
