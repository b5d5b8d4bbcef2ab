"""`check`, `setup`, `status`, `peek`, `teardown`, and the command line itself."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import duckdb

from tests.cli.command import TIMEOUT_S, Dbmazz, confirmed_lsn
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase


def test_check_lists_what_it_found_and_changes_nothing(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    found = dbmazz.json("check")
    assert found["ok"] is True
    assert "wal_level is logical" in [finding["what"] for finding in found["findings"]]
    text = dbmazz.run("check").stdout
    assert "public.orders has a usable replica identity" in text
    assert text.endswith("ready to capture, 0 warnings\n")
    assert shop.fetch("SELECT 1 FROM pg_publication") == []
    assert not duckdb_path.exists()


def test_check_shows_every_error_with_its_remedy_and_exits_with_the_firsts_code(
    dbmazz: Dbmazz, shop: SourceDatabase
) -> None:
    shop.execute("CREATE TABLE log (line text)")
    dbmazz.variables |= {"TABLES": "public.order, public.log", "REPLICA_IDENTITY": "leave"}
    outcome = dbmazz.run("check", code=4)
    assert "table public.order does not exist; did you mean public.orders" in outcome.stdout
    assert "what to do: correct TABLES" in outcome.stdout
    assert 'ALTER TABLE "public"."log" REPLICA IDENTITY FULL;' in outcome.stdout
    assert outcome.stdout.endswith("2 errors, 0 warnings\n")
    errors = [f for f in dbmazz.json("check", code=4)["findings"] if f["level"] == "error"]
    assert [error["error"] for error in errors] == ["TableNotFound", "ReplicaIdentityInsufficient"]
    assert all(error["remedy"] for error in errors)


def test_check_knows_what_the_destination_follows_and_says_if_it_cannot_be_read(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    dbmazz.json("capture")
    shop.execute(f"DROP PUBLICATION {shop.name}_pub")
    errors = [f for f in dbmazz.json("check", code=4)["findings"] if f["level"] == "error"]
    assert [error["error"] for error in errors] == ["PublicationNotFound"]
    duckdb_path.write_bytes(b"not a database")
    errors = [f for f in dbmazz.json("check", code=6)["findings"] if f["level"] == "error"]
    assert [error["error"] for error in errors] == ["DestinationDamaged"]


def test_a_slots_creation_says_which_transaction_it_waits_for(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    with shop.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO items VALUES (100000, 1, 'not committed')")
        process = dbmazz.start("capture")
        assert process.stderr is not None
        line = next(line for line in process.stderr if "waits for" in line)
        assert f"process {writer.info.backend_pid}" in line
        writer.execute("ROLLBACK")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def test_setup_is_idempotent(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    done = dbmazz.json("setup")["done"]
    assert done[0] == f'created publication "{shop.name}_pub"'
    assert done[1].startswith(f"created replication slot {shop.name} at ")
    position = confirmed_lsn(shop, shop.name)
    assert dbmazz.json("setup")["done"] == []
    assert dbmazz.run("setup").stdout == "nothing to do: publication, slot and replica identities are in place\n"
    assert confirmed_lsn(shop, shop.name) == position
    assert not duckdb_path.exists()
    assert dbmazz.json("capture")["tables"]["public.orders"]["snapshot_rows"] == 50
    assert_equal(shop, duckdb_path, "public.orders")


def test_status(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    before = dbmazz.json("status")
    assert (before["slot_exists"], before["checkpoint_lsn"], before["tables"]) == (False, None, {})
    assert before["publication"] == f"{shop.name}_pub"
    assert not duckdb_path.exists()
    end_lsn = dbmazz.json("capture")["end_lsn"]
    shop.execute("INSERT INTO orders (id) VALUES (100)")
    after = dbmazz.json("status")
    assert after["slot_exists"] is True
    assert after["slot_active"] is False
    assert after["checkpoint_lsn"] == after["confirmed_lsn"] == end_lsn
    assert after["lag_bytes"] > 0
    assert (before["restart_lsn"], before["restart_lag_bytes"]) == (None, None)
    ((restart, behind),) = shop.fetch(
        "SELECT restart_lsn::text, (confirmed_flush_lsn - restart_lsn)::bigint FROM pg_replication_slots "
        "WHERE slot_name = %s",
        shop.name,
    )
    assert (after["restart_lsn"], after["restart_lag_bytes"]) == (restart, behind)
    assert behind > 0
    assert after["tables"]["public.items"]["rows"] == 120
    text = dbmazz.run("status").stdout
    assert f"slot           {shop.name} (not in use)" in text
    assert f"that a new stream decodes first, from {restart}" in text
    assert f"publication    {shop.name}_pub" in text
    assert f"checkpoint     {end_lsn}" in text
    assert "public.items" in text


def test_status_needs_no_tables_and_says_who_has_the_file(dbmazz: Dbmazz, duckdb_path: Path) -> None:
    del dbmazz.variables["TABLES"]
    with duckdb.connect(str(duckdb_path)):
        text = dbmazz.run_in_process("status").stdout
    assert f"locked by process {os.getpid()}" in text


def test_peek_consumes_nothing(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    assert "does not exist yet" in dbmazz.run("peek").stderr
    dbmazz.run("capture")
    assert "nothing to capture" in dbmazz.run("peek").stderr
    shop.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    shop.execute("INSERT INTO orders VALUES (100, NULL, 1.10, '\\x00ff', '2024-02-29 12:00:00+00')")
    shop.execute("UPDATE orders SET amount = 2 WHERE id = 100")
    shop.execute("DELETE FROM items WHERE id = 1")
    shop.execute("TRUNCATE items")
    position = confirmed_lsn(shop, shop.name)

    records = dbmazz.json("peek")["records"]
    changes = [r for r in records if r["type"] not in ("begin", "commit", "schema_change")]
    assert [r["type"] for r in changes] == ["insert", "update", "delete", "truncate"]
    row = {"id": 100, "note": None, "amount": "1.10", "raw": "\\x00ff", "at": "2024-02-29 12:00:00+00:00"}
    assert changes[0]["columns"] == row
    assert changes[0]["table"] == "public.orders"
    assert changes[1]["old"] == row
    assert changes[1]["columns"] == row | {"amount": "2.00"}
    assert changes[2]["old"] == {"id": 1}
    assert changes[3]["tables"] == ["public.items"]
    assert changes[0]["position"]["ordinal"] == 1
    assert changes[0]["position"]["commit_lsn"] == records[0]["position"]["commit_lsn"]

    first = dbmazz.json("peek", "--limit", "1")["records"]
    assert [r["type"] for r in first if "columns" in r or "old" in r] == ["schema_change", "insert"]
    lines = dbmazz.run("peek").stdout.splitlines()
    assert len(lines) == len(records)
    assert 'insert        public.orders {"id": 100, "note": null, "amount": "1.10"' in lines[2]

    assert confirmed_lsn(shop, shop.name) == position
    assert dbmazz.json("capture")["changes"] == 3
    assert_equal(shop, duckdb_path, "public.orders")
    assert_equal(shop, duckdb_path, "public.items")


def test_peek_tells_an_unchanged_value_from_null(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    shop.execute("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL")
    shop.execute("UPDATE orders SET note = repeat('x', 10000) WHERE id = 1")
    dbmazz.run("setup")
    shop.execute("UPDATE orders SET amount = 3 WHERE id = 1")
    (update,) = [r for r in dbmazz.json("peek")["records"] if r["type"] == "update"]
    assert "note" not in update["columns"]
    assert update["unchanged"] == ["note"]


def test_peek_into_a_reader_that_goes_away(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    dbmazz.run("setup")
    shop.execute("INSERT INTO orders (id) SELECT generate_series(1000, 6000)")
    process = dbmazz.start("peek", "--limit", "5000")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(30) == 141


def test_teardown_asks_first(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.run("capture")
    error = dbmazz.json("teardown", code=2)
    assert error["error"] == "ConfigError"
    assert shop.name in error["what"]
    assert error["remedy"] == "add --yes"
    assert confirmed_lsn(shop, shop.name) is not None

    assert _on_terminal(dbmazz, "n\n", "teardown") == 130
    assert confirmed_lsn(shop, shop.name) is not None
    assert _on_terminal(dbmazz, "y\n", "teardown") == 0
    assert confirmed_lsn(shop, shop.name) is None
    assert shop.fetch("SELECT 1 FROM pg_publication") == []
    assert_equal(shop, duckdb_path, "public.orders")


def test_teardown_with_yes_says_what_it_did(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    dbmazz.run("setup")
    del dbmazz.variables["TABLES"]  # it has no use for them
    done = dbmazz.run("teardown", "--yes").stdout
    assert done == f'dropped replication slot {shop.name}\ndropped publication "{shop.name}_pub"\n'
    assert dbmazz.run("teardown", "--yes").stdout == "nothing to drop: neither slot nor publication exists\n"
    assert dbmazz.json("teardown", "--yes") == {"done": []}


def test_progress_bars_on_a_terminal_leave_stdout_alone(dbmazz: Dbmazz) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        dbmazz.command("capture", "--json"),
        env=dbmazz.environment | {"TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        text=True,
    )
    os.close(child)
    shown = _read_terminal(parent)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.startswith('{"start_lsn"')
    assert "copying public.orders" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_mistakes_on_the_command_line(dbmazz: Dbmazz) -> None:
    unknown = dbmazz.json("captur", code=2)
    assert "No such command 'captur'" in unknown["what"]
    assert unknown["exit_code"] == 2
    assert "No such option" in dbmazz.run("capture", "--tabels", "x", code=2).stderr
    assert "--limit" in dbmazz.run("peek", "--limit", "0", code=2).stderr
    stray = dbmazz.run("capture", "postgres://app:hunter2@db/shop", code=2)
    assert "hunter2" not in stray.output
    assert "capture" in dbmazz.run(code=2).stderr


def test_version_and_help(dbmazz: Dbmazz) -> None:
    assert dbmazz.run("--version").stdout.startswith("dbmazz 0.")
    text = dbmazz.run("--help").stdout
    for command in ("check", "setup", "snapshot", "capture", "follow", "status", "peek", "teardown", "demo"):
        assert f"  {command} " in text
    help = " ".join(dbmazz.run("capture", "--help").stdout.split())
    assert "~/.pgpass" in help
    assert "--flush-size" in help


def _on_terminal(dbmazz: Dbmazz, answer: str, *arguments: str) -> int:
    """Run it with its input and stderr on a terminal, type the answer, and return the exit code."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        dbmazz.command(*arguments), env=dbmazz.environment, stdin=child, stdout=subprocess.DEVNULL, stderr=child
    )
    os.close(child)
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(parent, 1024)
    os.write(parent, answer.encode())
    _read_terminal(parent)
    return process.wait(60)


def _read_terminal(descriptor: int) -> str:
    shown = b""
    while True:
        try:
            chunk = os.read(descriptor, 4096)
        except OSError:  # how Linux says that the other end is closed
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return shown.decode()
        shown += chunk
