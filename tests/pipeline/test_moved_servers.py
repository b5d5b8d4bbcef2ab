"""A database under another name, and tables that move to another server: the file goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import WrongServer
from dbmazz_core.model.policies import Mode
from tests.cli.command import Dbmazz
from tests.support.lab import Lab
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase, create_database

TABLES = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')"


def rename(lab: Lab, name: str) -> Lab:
    admin = SourceDatabase(lab.database.server, "postgres")
    admin.execute(f'ALTER DATABASE "{lab.database.name}" RENAME TO "{name}"')
    return replace(lab.configured(slot=lab.slot), database=SourceDatabase(lab.database.server, name))


def test_a_database_that_is_renamed_is_the_same(lab: Lab) -> None:
    lab.execute(TABLES)
    lab.capture_and_compare("t")
    before = lab.database.name
    renamed = rename(lab, f"{before}_b")
    try:
        renamed.execute("UPDATE t SET v = 'x'")
        assert renamed.capture_and_compare("t").changes == 3
        assert renamed.rows("SELECT database FROM _dbmazz.checkpoints") == [(f"{before}_b",)]
        assert renamed.pipeline.check().ok
        renamed.pipeline.snapshot()
        renamed.assert_equal("t")
    finally:
        rename(renamed, before)
    lab.execute("DELETE FROM t WHERE id = 1")
    lab.capture_and_compare("t")


def test_another_database_of_the_cluster_is_named_as_such(lab: Lab) -> None:
    lab.execute(TABLES)
    lab.capture_and_compare("t")
    other = create_database(lab.database.server)
    other.execute(TABLES)
    moved = replace(lab.configured(slot=lab.slot), database=other)
    with lab.nothing_changes("public.t"), pytest.raises(WrongServer, match="another database of this cluster") as info:
        moved.capture()
    moved.assert_found_by_check(info.value)


@pytest.fixture
def new_server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        yield server


def restored(old: SourceDatabase, server: EmbeddedPostgres) -> SourceDatabase:
    """The database on another server, by pg_dump and psql."""
    new = create_database(server)
    dump = subprocess.run(
        [old.server.bin("pg_dump"), "--no-owner", old.url],
        env=old.server.environment,
        check=True,
        capture_output=True,
    )
    subprocess.run(
        [server.bin("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", new.url],
        env=server.environment,
        input=dump.stdout,
        check=True,
        capture_output=True,
    )
    return new


@pytest.mark.parametrize("mode", Mode)
def test_dump_and_restore_to_a_new_server(
    lab: Lab, new_server: EmbeddedPostgres, mode: Mode, duckdb_path: Path
) -> None:
    lab = lab.kept(mode)
    lab.execute(TABLES)
    lab.capture()
    lab.transactions("UPDATE t SET v = 'changed' WHERE id = 2", "DELETE FROM t WHERE id = 3")
    lab.capture()
    history = lab.rows("FROM public.t ORDER BY ALL")
    with duckdb.connect(str(duckdb_path)) as people:
        people.execute("CREATE VIEW theirs AS SELECT count(*) AS rows FROM public.t")
    lab.execute("INSERT INTO t VALUES (4, 'never captured')")
    moved = replace(lab.configured(slot=lab.slot), database=restored(lab.database, new_server))
    for attempt in (moved.capture, moved.pipeline.snapshot):
        with lab.nothing_changes("public.t"), pytest.raises(WrongServer, match="of another cluster") as info:
            attempt()
    assert "`dbmazz snapshot --new-server`" in info.value.remedy

    command = Dbmazz.of(moved.database, duckdb_path, "public.*")
    command.variables |= {"SOURCE_SLOT_NAME": moved.slot, "MODE": mode.value}
    assert command.json("snapshot", "--new-server")["tables"]["public.t"]["snapshot_rows"] == 3
    moved.assert_equal("t")
    moved.transactions("INSERT INTO t VALUES (5, 'after')", "UPDATE t SET v = 'again' WHERE id = 1")
    assert moved.capture().changes == 2
    moved.assert_equal("t")
    assert lab.rows("FROM theirs")[0][0] > 0
    if mode is Mode.SOFT_DELETE:
        assert lab.rows("SELECT id, v FROM public.t WHERE _dbmazz_deleted") == [(3, "three")]
    if mode is Mode.CHANGELOG:
        tables = [name for (name,) in lab.rows("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'")]
        kept = [row for name in tables for row in lab.rows(f'FROM public."{name}"')]
        assert all(row in kept for row in history)


def test_the_flag_needs_all_tables(lab: Lab) -> None:
    lab.execute(f"{TABLES}; CREATE TABLE u (id int)")
    command = Dbmazz.of(lab.database, lab.path, "public.*")
    error = command.json("snapshot", "--new-server", "--tables", "public.t", code=2)
    assert error["object"] == "--tables"
