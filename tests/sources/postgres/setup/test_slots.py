"""Slots that fit, that do not, and what keeps one from being made."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.connection import Connection, connect, connect_replication
from dbmazz_core.connectors.sources.postgres.server.blockers import (
    slot_creation_blocked,
    slot_creation_blockers,
)
from dbmazz_core.connectors.sources.postgres.server.error_details import translate_errors
from dbmazz_core.connectors.sources.postgres.server.state import slot_state
from dbmazz_core.connectors.sources.postgres.setup.prepare import check, prepare, teardown
from dbmazz_core.connectors.sources.postgres.setup.slots import verify_slot
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import (
    SlotActive,
    SlotAheadOfCheckpoint,
    SlotLost,
    SlotMismatch,
    SlotNotFound,
)
from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from tests.sources.postgres.setup.kit import (
    ORDERS,
    Configure,
    apply,
    create_slot,
    statements,
)
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase, create_database


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
            for statement in statements(caught.value.remedy):
                conn.execute(statement.encode())
            deadline = time.monotonic() + 10
            while conn.execute("SELECT current_setting('max_slot_wal_keep_size')").fetchone() != ("-1",):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert [type(e) for e in check(conn, config).errors] == [SlotLost]
            assert teardown(conn, config) == ["dropped replication slot dbmazz_slot"]


def test_slot_that_was_idle_for_too_long(server: EmbeddedPostgres, duckdb_path: Path) -> None:
    """Every pipeline of windows is idle between them. PostgreSQL invalidates idle slots at its checkpoints."""
    if server.major < 18:
        pytest.skip("idle_replication_slot_timeout came with PostgreSQL 18")
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as own:
        lab = Lab(create_database(own), duckdb_path)
        lab.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        lab.capture()
        assert not lab.pipeline.check().warnings
        lab.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
        lab.database.fetch("SELECT pg_reload_conf()")
        (warning,) = lab.pipeline.check().warnings
        assert "idle_replication_slot_timeout is 1s" in warning.what

        def idle() -> None:
            lab.execute("INSERT INTO t SELECT max(id) + 1 FROM t")
            lab.database.fetch("SELECT pg_sleep(1.5)")
            lab.execute("CHECKPOINT")

        idle()
        with pytest.raises(SlotLost, match="idle_replication_slot_timeout") as info:
            lab.capture()
        lab.assert_found_by_check(info.value)
        url = SecretUrl(lab.database.url)
        with closing(connect(url)) as conn, pytest.raises(SlotLost) as at_once, translate_errors(url, slot=lab.slot):
            conn.execute("SELECT pg_logical_slot_peek_binary_changes(%s, NULL, NULL)", (lab.slot,))
        assert at_once.value.remedy == info.value.remedy
        apply(lab.database, info.value.remedy)
        assert not lab.pipeline.check().warnings
        lab.pipeline.snapshot()
        idle()
        lab.capture_and_compare("t")
