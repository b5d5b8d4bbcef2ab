"""Bad input, one scenario each, through the real command.

Each has to be an error with its exit code that names the object and says what to do, without a traceback or a password
(`Dbmazz.run` looks for both), and must leave the destination and the slot as they were. Where the remedy is a statement
or a command it is run, and capture works then.
"""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import duckdb
import psycopg
import pytest
from psycopg import sql

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.cli.command import Dbmazz
from tests.cli.failing import fails, other_process, role, statements, walsender, works
from tests.support.postgres_fixtures import UNSAFE_BUT_FAST, SourceDatabase, create_database

ORDERS = "CREATE TABLE orders (id int PRIMARY KEY, note text); INSERT INTO orders VALUES (1, 'one'), (2, 'two')"


@pytest.fixture
def shop(database: SourceDatabase) -> SourceDatabase:
    database.execute(ORDERS)
    return database


@pytest.fixture
def dbmazz(shop: SourceDatabase, duckdb_path: Path) -> Dbmazz:
    return Dbmazz.of(shop, duckdb_path, "public.orders")


# Connecting


def test_wrong_password(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    good = dbmazz.variables["SOURCE_URL"]
    dbmazz.variables["SOURCE_URL"] = shop.server.url(shop.name, password="Zq9/s3cr:t@x")
    failure = fails(dbmazz, shop, 3)
    assert failure.kind == "AuthenticationFailed"
    assert 'refused the password of role "postgres"' in failure.what
    assert "correct user and password in SOURCE_URL" in failure.remedy
    dbmazz.variables["SOURCE_URL"] = good
    works(dbmazz, shop)


def test_unknown_host(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    url = "postgres://app:hunter2secret@db.invalid/shop"  # RFC 2606: never exists
    failure = fails(dbmazz, shop, 3, SOURCE_URL=url)
    assert failure.kind == "ConnectionFailed"
    assert "db.invalid" in failure.what
    assert "SOURCE_URL" in failure.remedy


def test_nobody_listens(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    failure = fails(dbmazz, shop, 3, SOURCE_URL="postgres://app:hunter2secret@127.0.0.1:1/shop")
    assert "127.0.0.1:1" in failure.what


# Tables


def test_missing_table(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    dbmazz.variables["TABLES"] = "public.orders,public.itemz"
    failure = fails(dbmazz, shop, 4)
    assert failure.kind == "TableNotFound"
    assert failure.what.startswith("table public.itemz does not exist")
    assert "correct TABLES, or create it" in failure.remedy
    shop.execute("CREATE TABLE itemz (id int PRIMARY KEY)")
    works(dbmazz, shop, "public.orders", "public.itemz")


def test_table_without_a_key_is_a_multiset(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    shop.execute("CREATE TABLE log (line text, at int); INSERT INTO log VALUES ('a', 1), ('a', 1), ('a', 1), (NULL, 2)")
    dbmazz.variables["TABLES"] = "public.log"
    works(dbmazz, shop, "public.log")
    assert shop.fetch("SELECT relreplident FROM pg_class WHERE relname = 'log'") == [("f",)]
    one = "(SELECT ctid FROM log WHERE line = 'a' LIMIT 1)"
    shop.execute(f"DELETE FROM log WHERE ctid = {one}")
    shop.execute(f"UPDATE log SET line = 'b' WHERE ctid = {one}")
    shop.execute("UPDATE log SET at = 3 WHERE line IS NULL; INSERT INTO log VALUES ('a', 1), ('b', 1)")
    works(dbmazz, shop, "public.log")


def test_table_without_a_key_that_must_not_be_altered(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    shop.execute("CREATE TABLE log (line text); INSERT INTO log VALUES ('a')")
    dbmazz.variables |= {"TABLES": "public.log", "REPLICA_IDENTITY": "leave"}
    failure = fails(dbmazz, shop, 4)
    assert failure.kind == "ReplicaIdentityInsufficient"
    assert "public.log has no primary key" in failure.what
    (statement,) = statements(failure.remedy)
    assert statement == 'ALTER TABLE "public"."log" REPLICA IDENTITY FULL;'
    shop.execute(statement)
    works(dbmazz, shop, "public.log")
    shop.execute("UPDATE log SET line = 'b'")
    works(dbmazz, shop, "public.log")


# The server and the role


def test_wal_level_replica(duckdb_path: Path) -> None:
    with EmbeddedPostgres(settings={**UNSAFE_BUT_FAST, "wal_level": "replica"}) as server:
        database = create_database(server)
        database.execute(ORDERS)
        dbmazz = Dbmazz.of(database, duckdb_path, "public.orders")
        failure = fails(dbmazz, database, 4)
        assert failure.kind == "WalLevelNotLogical"
        assert "wal_level is replica" in failure.what
        (statement,) = statements(failure.remedy)
        database.execute(statement)
        server.restart()
        works(dbmazz, database)


def test_role_without_replication(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    password = "Zq9-secret-of-a-role"
    with role(shop, password) as name:
        shop.execute(f'GRANT SELECT ON orders TO "{name}"; ALTER TABLE orders OWNER TO "{name}"')
        shop.execute(f'GRANT CREATE ON DATABASE "{shop.name}" TO "{name}"')
        dbmazz.variables["SOURCE_URL"] = shop.server.url(shop.name, role=name, password=password)
        failure = fails(dbmazz, shop, 4)
        assert failure.kind == "MissingPrivilege"
        assert failure.object == f"role {name}"
        assert "lacks the REPLICATION attribute" in failure.what
        shop.execute(statements(failure.remedy)[0])
        works(dbmazz, shop)


# Slot and publication


def test_slot_in_use(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    works(dbmazz, shop)
    shop.execute("INSERT INTO orders VALUES (3)")
    with walsender(shop, "the other one") as pid:
        failure = fails(dbmazz, shop, 5)
        assert failure.kind == "SlotActive"
        assert failure.object == f"replication slot {shop.name}"
        assert f"in use by process {pid} (the other one)" in failure.what
        shop.execute(statements(failure.remedy)[0])  # SELECT pg_terminate_backend(pid);
    works(dbmazz, shop)


def test_slot_in_use_before_the_first_capture(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.run("setup")
    with walsender(shop, "the other one"):
        assert fails(dbmazz, shop, 5).kind == "SlotActive"
    assert not duckdb_path.exists()
    works(dbmazz, shop)


def test_slot_that_lost_its_wal(duckdb_path: Path) -> None:
    with EmbeddedPostgres(settings={**UNSAFE_BUT_FAST, "max_slot_wal_keep_size": "1MB"}) as server:
        database = create_database(server)
        database.execute(ORDERS)
        database.execute("CREATE TABLE items (id int PRIMARY KEY)")
        other = Dbmazz.of(database, duckdb_path.with_name("other.duckdb"), "public.items")
        other.variables["SOURCE_SLOT_NAME"] = "other"
        dbmazz = Dbmazz.of(database, duckdb_path, "public.orders")
        works(dbmazz, database)
        other.run("capture")
        database.execute("INSERT INTO orders VALUES (3)")
        for _ in range(4):  # WAL is removed by whole segments of 16 MB
            database.execute("SELECT pg_logical_emit_message(false, '', repeat('x', 1000000)); SELECT pg_switch_wal()")
        database.execute("CHECKPOINT")
        failure = fails(dbmazz, database, 5)
        assert failure.kind == "SlotLost"
        assert failure.object == f"replication slot {database.name}"
        assert failure.remedy.startswith("run `dbmazz snapshot`:")
        for pipeline in (dbmazz, other):  # with one publication
            pipeline.run("snapshot")
        works(dbmazz, database)
        database.execute("INSERT INTO items VALUES (1)")
        assert other.json("capture")["changes"] == 1


def test_slot_dropped_behind_our_back(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    works(dbmazz, shop)
    shop.execute("SELECT pg_drop_replication_slot(%s)", shop.name)
    shop.execute("INSERT INTO orders VALUES (3); DELETE FROM orders WHERE id = 1")
    failure = fails(dbmazz, shop, 5)
    assert failure.kind == "SlotNotFound"
    assert f"replication slot {shop.name} is gone" in failure.what
    assert "dbmazz snapshot" in failure.remedy
    dbmazz.run("snapshot")
    works(dbmazz, shop)


def test_slot_ahead_of_the_checkpoint(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    works(dbmazz, shop)
    backup = duckdb_path.read_bytes()
    shop.execute("INSERT INTO orders VALUES (3)")
    dbmazz.run("capture")
    duckdb_path.write_bytes(backup)
    failure = fails(dbmazz, shop, 5)
    assert failure.kind == "SlotAheadOfCheckpoint"
    assert "dbmazz snapshot" in failure.remedy
    dbmazz.run("snapshot")
    works(dbmazz, shop)


def test_publication_dropped(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    works(dbmazz, shop)
    shop.execute(f"DROP PUBLICATION {shop.name}_pub")
    shop.execute("INSERT INTO orders VALUES (3)")  # in no publication: nobody will ever send it
    failure = fails(dbmazz, shop, 4)
    assert failure.kind == "PublicationNotFound"
    assert f'publication "{shop.name}_pub" does not exist' in failure.what
    assert failure.remedy.startswith("run `dbmazz snapshot`: it creates the publication")
    assert dbmazz.json("setup", code=4)["what"] == failure.what  # it would hide that changes are missing
    dbmazz.run("snapshot")
    works(dbmazz, shop)
    shop.execute("INSERT INTO orders VALUES (4)")
    works(dbmazz, shop)


def test_table_removed_from_the_publication(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    shop.execute('CREATE TABLE "My Items" (id int PRIMARY KEY)')
    dbmazz.variables["TABLES"] = 'public.orders,public."My Items"'
    works(dbmazz, shop, "public.orders", 'public."My Items"')
    shop.execute(f'ALTER PUBLICATION {shop.name}_pub DROP TABLE "My Items"')
    shop.execute('INSERT INTO orders VALUES (3); INSERT INTO "My Items" VALUES (1)')
    failure = fails(dbmazz, shop, 4, ON_TABLE_ERROR="stop")
    assert failure.kind == "PublicationLacksTable"
    assert 'no longer has public."My Items"' in failure.what
    command = failure.remedy.split("`")[1]
    assert command == "dbmazz snapshot --tables 'public.\"My Items\"'"
    dbmazz.run(*shlex.split(command)[1:])
    shop.execute('INSERT INTO "My Items" VALUES (2)')
    works(dbmazz, shop, "public.orders", 'public."My Items"')


# The destination


def test_destination_locked(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    works(dbmazz, shop)
    with other_process(f"import duckdb; held = duckdb.connect({str(duckdb_path)!r})") as pid:
        failure = fails(dbmazz, shop, 6)
        assert failure.kind == "DestinationLocked"
        assert failure.object == str(duckdb_path)
        assert f"locked by process {pid}" in failure.what
        assert f"ps -p {pid}" in failure.remedy
    works(dbmazz, shop)


def test_destination_from_another_server(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    works(dbmazz, shop)
    with EmbeddedPostgres(settings=UNSAFE_BUT_FAST) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(shop.name)))
        elsewhere = replace(shop, server=server)
        elsewhere.execute(ORDERS)
        failure = fails(dbmazz, elsewhere, 5, SOURCE_URL=elsewhere.url)
        assert failure.kind == "WrongServer"
        identifier = shop.fetch("SELECT system_identifier::text FROM pg_control_system()")[0][0]
        other = elsewhere.fetch("SELECT system_identifier::text FROM pg_control_system()")[0][0]
        assert identifier in failure.what
        assert other in failure.what
        assert failure.object == dbmazz.variables["SINK_URL"]
        assert "SOURCE_URL" in failure.remedy
    works(dbmazz, shop)


def test_destination_that_is_no_duckdb_file(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    duckdb_path.write_text("id,note\n1,one\n" * 1000)
    failure = fails(dbmazz, shop, 6)
    assert failure.kind == "DestinationDamaged"
    assert failure.object == str(duckdb_path)
    duckdb_path.unlink()
    works(dbmazz, shop)


def test_destination_in_a_directory_that_does_not_exist(dbmazz: Dbmazz, shop: SourceDatabase, tmp_path: Path) -> None:
    directory = tmp_path / "not there"
    dbmazz.variables["SINK_URL"] = str(directory / "shop.duckdb")
    failure = fails(dbmazz, shop, 6)
    assert f"the directory {directory} does not exist" in failure.what
    subprocess.run(["/bin/sh", "-c", failure.remedy.split(", or ")[0]], check=True)
    works(dbmazz, shop)


def test_destination_table_that_is_not_ours(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    with duckdb.connect(str(duckdb_path)) as duck:
        duck.execute("CREATE SCHEMA IF NOT EXISTS public; CREATE TABLE public.orders AS SELECT 'precious' AS mine")
    failure = fails(dbmazz, shop, 6)
    assert failure.kind == "DestinationConflict"
    assert failure.object == "public.orders"
    assert "that dbmazz did not create" in failure.what
    with duckdb.connect(str(duckdb_path)) as duck:
        assert duck.execute("FROM public.orders").fetchall() == [("precious",)]
        for statement in statements(failure.remedy)[-1:]:
            duck.execute(statement)
    works(dbmazz, shop)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("ALTER TABLE public.orders ADD COLUMN extra int", "it also has: extra INTEGER"),
        ("ALTER TABLE public.orders DROP COLUMN note", "lacks: note VARCHAR"),
        ("DROP TABLE public.orders", "does not exist any more"),
    ],
    ids=["column added", "column dropped", "table dropped"],
)
def test_destination_table_changed_by_hand(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path, change: str, shown: str
) -> None:
    shop.execute("CREATE TABLE items (id int PRIMARY KEY); INSERT INTO items VALUES (1)")
    dbmazz.variables["TABLES"] = "public.orders,public.items"
    works(dbmazz, shop, "public.orders", "public.items")
    with duckdb.connect(str(duckdb_path)) as duck:
        duck.execute(change)
    shop.execute("INSERT INTO orders VALUES (3); INSERT INTO items VALUES (2)")
    failure = fails(dbmazz, shop, 6, ON_TABLE_ERROR="stop")
    assert failure.kind == "DestinationConflict"
    assert failure.object == "public.orders"
    assert shown in failure.what
    assert "dbmazz snapshot --tables 'public.orders'" in failure.remedy
    dbmazz.run("snapshot", "--tables", "public.orders")
    works(dbmazz, shop, "public.orders", "public.items")


# Settings


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", "SOURCE_URL is empty"),
        ("mysql://app:hunter2secret@db/shop", "SOURCE_URL is not a PostgreSQL connection URL"),
        ("postgres://app:hunter2secret@db:port/shop", "port is not a number"),
        ("postgres://app:hunter2/secret@db/shop", "SOURCE_URL is not a PostgreSQL connection URL"),
        ("postgres://app:hunter2secret@db/shop?sslmod=require", "unknown option 'sslmod'"),
        ("hunter2secret", "SOURCE_URL is not a PostgreSQL connection URL"),
    ],
)
def test_malformed_url(dbmazz: Dbmazz, shop: SourceDatabase, url: str, shown: str) -> None:
    failure = fails(dbmazz, shop, 2, SOURCE_URL=url)
    assert failure.kind == "ConfigError"
    assert failure.object == "SOURCE_URL"
    assert shown in failure.what
    assert "postgres://user:password@host:5432/database" in failure.remedy
    assert "hunter2" not in str(failure)


@pytest.mark.parametrize(
    ("tables", "shown"),
    [
        ("", "names no table"),
        ("public.orders,", "nothing follows the last comma"),
        ("public.orders public.items", "cannot read 'public.orders public.items'"),
        ("a.b.c", "cannot read"),
        ('public."orders', "cannot read"),
        ("*", "write `public.*`"),
    ],
)
def test_malformed_tables(dbmazz: Dbmazz, shop: SourceDatabase, tables: str, shown: str) -> None:
    failure = fails(dbmazz, shop, 2, TABLES=tables)
    assert failure.kind == "ConfigError"
    assert failure.object == "TABLES"
    assert shown in failure.what
    assert "TABLES=public.orders" in failure.remedy


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("SOURCE_TYPE", "mysql", "postgres"),
        ("SINK_TYPE", "snowflake", "duckdb"),
        ("REPLICA_IDENTITY", "nothing", "auto or full or leave"),
        ("DO_SNAPSHOT", "maybe", "true or false"),
        ("FLUSH_SIZE", "0", "a whole number"),
        ("SNAPSHOT_PARALLEL_WORKERS", "65", "1 to 64"),
        ("WINDOW_MAX_SECONDS", "soon", "a number of seconds"),
        ("FLUSH_MAX_BYTES", "12 apples", "64MB"),
        ("SOURCE_SLOT_NAME", "My-Slot", "lower-case letters, digits and underscores"),
        ("SOURCE_PUBLICATION_NAME", "p" * 64, "1 to 63 bytes"),
        ("SINK_URL", ":memory:", "path of a DuckDB file"),
    ],
)
def test_unknown_values(dbmazz: Dbmazz, shop: SourceDatabase, variable: str, text: str, expected: str) -> None:
    failure = fails(dbmazz, shop, 2, **{variable: text})
    assert failure.kind == "ConfigError"
    assert failure.object == variable
    assert f"{variable}={text!r} is not" in failure.what
    assert expected in failure.remedy


def test_missing_settings(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    for variable, flag in (("TABLES", "--tables"), ("SOURCE_URL", "--source-url")):
        del dbmazz.variables[variable]
        failure = fails(dbmazz, shop, 2)
        assert failure.object == variable
        assert failure.what == f"{variable} is not set"
        assert flag in failure.remedy
