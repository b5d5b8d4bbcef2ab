"""pg_upgrade from PostgreSQL 17 to 18, with and without the slot."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dbmazz_core.demo.cluster import server_account
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import WrongServer
from dbmazz_core.model.policies import Mode
from tests.cli.command import wait_until
from tests.support.lab import Lab
from tests.support.postgres_fixtures import (
    MATRIX_DIRECTORY,
    MATRIX_VARIABLE,
    UNSAFE_BUT_FAST,
    SourceDatabase,
    create_database,
)

BINARIES = Path(os.environ.get(MATRIX_VARIABLE) or MATRIX_DIRECTORY)


def server(major: int) -> EmbeddedPostgres:
    if not (BINARIES / str(major) / "bin" / "pg_upgrade").exists():
        pytest.skip(f"PostgreSQL {major} is not in {BINARIES}")
    return EmbeddedPostgres(binaries=BINARIES / str(major), settings=UNSAFE_BUT_FAST)


@pytest.fixture
def old(duckdb_path: Path) -> Iterator[Lab]:
    """A lab on PostgreSQL 17."""
    with server(17) as postgres:
        lab = Lab(create_database(postgres), duckdb_path)
        lab.execute(
            "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TABLE t (id int PRIMARY KEY, v text, m mood);"
            "CREATE TABLE parts (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);"
            "CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (9); INSERT INTO parts VALUES (1, 1);"
            "CREATE TABLE bag (x int); INSERT INTO t VALUES (1, 'one', 'good'), (2, 'two', 'bad');"
        )
        yield lab


def shut_down(postgres: EmbeddedPostgres) -> None:
    os.kill(postgres.pid, signal.SIGINT)
    wait_until(lambda: not postgres.running)


def run_program(postgres: EmbeddedPostgres, *command: str) -> None:
    """Run a program as the server's account, in the server's directory."""
    uid, gid = server_account() or (None, None)
    answer = subprocess.run(
        command,
        cwd=postgres.socket_dir,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else [],
        env=postgres.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def upgraded(lab: Lab, new: EmbeddedPostgres) -> Lab:
    """Stop both servers, upgrade, and start the new one."""
    old = lab.database.server
    for postgres in (old, new):
        shut_down(postgres)
        hba = postgres.data_dir / "pg_hba.conf"
        hba.write_text(hba.read_text().replace("scram-sha-256", "trust"))
    run_program(old, str(old.bin("pg_checksums")), "--enable", "-D", str(old.data_dir))  # the default since 18
    run_program(
        new,
        *(str(new.bin("pg_upgrade")), "-U", "postgres", "-s", str(new.socket_dir)),
        *("-b", str(old.bin("postgres").parent), "-B", str(new.bin("postgres").parent)),
        *("-d", str(old.data_dir), "-D", str(new.data_dir)),
    )
    new.start()
    return replace(lab.configured(slot=lab.slot), database=SourceDatabase(new, lab.database.name))


@pytest.mark.parametrize("mode", Mode)
def test_the_slot_was_kept(old: Lab, mode: Mode) -> None:
    lab = old.kept(mode)
    lab.capture()
    lab.transactions(
        "UPDATE t SET v = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 2", "INSERT INTO bag VALUES (1), (1)"
    )
    lab.capture()
    lab.assert_equal("t", "bag", "parts")
    with server(18) as new:
        moved = upgraded(lab, new)
        moved.execute("INSERT INTO t VALUES (3, 'three', 'good')")
        with pytest.raises(WrongServer, match="of another cluster") as info:
            moved.capture()
        assert "`dbmazz snapshot --upgraded-server`" in info.value.remedy
        assert not moved.pipeline.snapshot(upgraded_server=True).rows
        result = moved.capture()
        assert (result.changes, result.copy_anew) == (1, {})
        moved.assert_equal("t", "bag", "parts")
        moved.transactions(
            "UPDATE t SET m = 'bad'",
            "ALTER TABLE t ADD n int; UPDATE t SET n = 1",
            "DELETE FROM bag; UPDATE parts SET a = 2",
        )
        assert not moved.capture().copy_anew
        moved.assert_equal("t", "bag", "parts")


def test_the_slot_was_not_kept(old: Lab) -> None:
    old.capture()
    old.database.execute("SELECT pg_drop_replication_slot(%s)", old.slot)
    with server(18) as new:
        moved = upgraded(old, new)
        moved.execute("INSERT INTO t VALUES (3, 'three', 'good')")
        with pytest.raises(WrongServer, match="no replication slot") as info:
            moved.pipeline.snapshot(upgraded_server=True)
        assert "dbmazz snapshot --new-server" in info.value.remedy
        moved.pipeline.snapshot(new_server=True)
        moved.execute("DELETE FROM t WHERE id = 1")
        moved.capture_and_compare("t", "bag")


def test_a_restored_server_is_not_an_upgraded_one(old: Lab) -> None:
    old.capture()
    with server(18) as new:
        other = create_database(new)
        other.execute("CREATE TABLE bag (x int); CREATE TABLE t (id int PRIMARY KEY)")
        other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", old.slot)
        moved = replace(old.configured(slot=old.slot), database=other)
        with old.nothing_changes("public.t"), pytest.raises(WrongServer, match="OID"):
            moved.pipeline.snapshot(upgraded_server=True)
