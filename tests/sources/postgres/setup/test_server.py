"""Servers whose settings or version do not do."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from dbmazz_core.connectors.sources.postgres.connection import connect, connect_replication
from dbmazz_core.connectors.sources.postgres.server.version import (
    known_decoding_bug,
    unsupported_version,
)
from dbmazz_core.connectors.sources.postgres.setup.prepare import check, prepare
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import (
    NoFreeSlot,
    NoFreeWalSender,
    WalLevelNotLogical,
)
from dbmazz_core.settings.config import SnapshotConfig, SourceConfig
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import quote_identifier
from tests.sources.postgres.setup.kit import (
    ORDERS,
    PASSWORD,
    statements,
)
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, create_database


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


def test_a_remedy_for_taken_slots_is_above_what_the_server_has(tmp_path: Path) -> None:
    """With fewer slots than there are PostgreSQL does not start any more."""
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST | {"max_replication_slots": "30"}) as server:
        database = create_database(server)
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        for number in range(30):
            database.fetch("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", f"old_{number}")
        lab = Lab(database, tmp_path / "x.duckdb")
        with pytest.raises(NoFreeSlot) as info:
            lab.capture()
        for error in (*lab.pipeline.check().errors, info.value):
            assert isinstance(error, NoFreeSlot)
            number = int(re.search(r"max_replication_slots = (\d+)", error.remedy)[1])  # type: ignore[index]
            assert number > 30
            assert "pg_drop_replication_slot('old_0')" in error.remedy
        database.execute(f"ALTER SYSTEM SET max_replication_slots = {number}")
        server.restart()
        lab.capture_and_compare("t")


def test_a_remedy_for_taken_walsenders_is_above_what_the_server_has(tmp_path: Path) -> None:
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST | {"max_wal_senders": "1"}) as server:
        database = create_database(server)
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        lab = Lab(database, tmp_path / "x.duckdb")
        taken = connect_replication(SecretUrl(database.url))
        with pytest.raises(NoFreeWalSender) as info:
            lab.capture()
        taken.finish()
        assert int(re.search(r"max_wal_senders = (\d+)", info.value.remedy)[1]) > 1  # type: ignore[index]


@pytest.mark.parametrize("kind", ["role", "database"])
def test_a_connection_limit_of_one(lab: Lab, role: str, kind: str) -> None:
    """It is found before anything is set up."""
    quoted, name = quote_identifier(role), lab.database.name
    limited = quoted if kind == "role" else name
    lab.execute(f"GRANT ALL ON SCHEMA public TO {quoted}; GRANT CREATE ON DATABASE {name} TO {quoted}")
    lab.execute(f"SET ROLE {quoted}; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    lab.execute(f"ALTER {kind} {limited} CONNECTION LIMIT 1")
    capturing = lab.configured(url=lab.database.server.url(name, role=role, password=PASSWORD))
    with pytest.raises(NoFreeWalSender, match=f"CONNECTION LIMIT of 1 of {kind}") as info:
        capturing.capture()
    capturing.assert_found_by_check(info.value)
    assert lab.database.fetch("SELECT FROM pg_publication") == []
    assert lab.database.fetch("SELECT FROM pg_replication_slots WHERE database = current_database()") == []
    lab.execute(f"ALTER {kind} {limited} CONNECTION LIMIT 2")
    assert capturing.pipeline.check().ok
    capturing.capture_and_compare("t")

    lab.execute(f"ALTER {kind} {limited} CONNECTION LIMIT 1; INSERT INTO t VALUES (2)")
    capturing.capture_and_compare("t")  # copies nothing
    lab.execute(f"ALTER {kind} {limited} CONNECTION LIMIT 2")

    lab.execute("INSERT INTO t SELECT generate_series(3, 3000); ANALYZE t")
    parallel = capturing.configured(snapshot=SnapshotConfig(parallel_workers=3, chunk_size=500))
    parallel.pipeline.snapshot()  # over the one connection that it gets
    parallel.capture_and_compare("t")
