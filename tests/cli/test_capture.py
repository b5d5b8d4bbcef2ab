"""`capture` and `snapshot`: rows and changes arrive, as the oracle sees it."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
from pathlib import Path

import duckdb
import pytest

from tests.cli.command import Dbmazz, confirmed_lsn, end, wait_until
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

BOTH = ("public.orders", "public.items")


def test_first_capture_sets_up_and_copies_then_changes_follow(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    first = dbmazz.json("capture")
    assert first["stop_reason"] == "caught_up"
    assert first["tables"]["public.orders"]["snapshot_rows"] == 50
    assert first["tables"]["public.items"]["snapshot_rows"] == 120
    for table in BOTH:
        assert_equal(shop, duckdb_path, table)

    shop.execute("INSERT INTO orders (id, note) VALUES (100, 'naïve'), (101, NULL)")
    shop.execute("UPDATE orders SET amount = 0.01 WHERE id <= 3")
    shop.execute("DELETE FROM orders WHERE id BETWEEN 10 AND 14")
    shop.execute("TRUNCATE items; INSERT INTO items VALUES (1, 1, 'after the truncate')")
    second = dbmazz.json("capture")
    orders = second["tables"]["public.orders"]
    assert (orders["inserts"], orders["updates"], orders["deletes"]) == (2, 3, 5)
    assert second["tables"]["public.items"]["truncates"] == 1
    assert (second["changes"], second["transactions"]) == (11, 4)
    assert second["start_lsn"] == first["end_lsn"]
    for table in BOTH:
        assert_equal(shop, duckdb_path, table)


def test_json_has_the_documented_keys_and_progress_is_elsewhere(dbmazz: Dbmazz) -> None:
    outcome = dbmazz.run("capture", "--json", "-v")
    result = outcome.json
    assert outcome.stdout.count("\n") == 1
    assert "INFO" in outcome.stderr
    wanted = {"start_lsn", "end_lsn", "changes", "transactions", "stop_reason", "duration_s", "lag_bytes", "tables"}
    assert wanted <= set(result)
    assert {"inserts", "updates", "deletes"} <= set(result["tables"]["public.orders"])


def test_text_is_short_and_aligned(dbmazz: Dbmazz) -> None:
    lines = dbmazz.run("capture").stdout.splitlines()
    assert lines[0].startswith("caught up at ")
    assert lines[1].split() == ["table", "inserts", "updates", "deletes", "truncates", "rows", "copied"]
    assert lines[2].split() == ["public.items", "0", "0", "0", "0", "120"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines) == 4


def test_an_idle_window_confirms_and_changes_nothing(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    dbmazz.run("capture")
    shop.execute("CREATE TABLE unrelated (id int); INSERT INTO unrelated SELECT generate_series(1, 1000)")
    idle = dbmazz.json("capture")
    assert idle["changes"] == 0
    assert confirmed_lsn(shop, shop.name) == idle["end_lsn"]


def test_without_snapshot_only_changes_arrive(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    first = dbmazz.json("capture", DO_SNAPSHOT="false")
    assert first["tables"]["public.orders"]["snapshot_rows"] is None
    shop.execute("INSERT INTO orders (id) VALUES (100)")
    shop.execute("DELETE FROM orders WHERE id <= 50")  # of which the destination knows nothing
    dbmazz.run("capture", "--do-snapshot", "false")
    assert_equal(shop, duckdb_path, "public.orders")
    with reading(duckdb_path) as duck:
        assert duck.execute("SELECT count(*) FROM public.items").fetchone() == (0,)


def test_limits_end_a_window_at_a_transaction(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.run("capture")
    for start in (1000, 2000, 3000, 4000):
        shop.execute(
            f"INSERT INTO orders (id, note) SELECT i, repeat('x', 150000) FROM generate_series({start}, {start + 9}) i"
        )
    limited = dbmazz.json("capture", "--max-changes", "15")
    assert limited["stop_reason"] == "max_changes"
    assert (limited["changes"], limited["transactions"]) == (20, 2)
    limited = dbmazz.json("capture", "--max-bytes", "1MB")  # a transaction has 1.5
    assert (limited["stop_reason"], limited["changes"]) == ("max_bytes", 10)
    rest = dbmazz.json("capture", WINDOW_MAX_CHANGES="100", WINDOW_MAX_SECONDS="600")
    assert (rest["stop_reason"], rest["changes"]) == ("caught_up", 10)
    assert_equal(shop, duckdb_path, "public.orders")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_at_a_flush_and_the_next_window_resumes(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path, number: signal.Signals
) -> None:
    start = dbmazz.json("capture")["end_lsn"]
    _backlog(shop, 10_000)
    process = dbmazz.start("capture", "--json", "--flush-size", "20")
    wait_until(lambda: confirmed_lsn(shop, shop.name) != start)  # in the middle of it
    outcome = end(process, number)
    assert outcome.code == 0, outcome.output
    stopped = outcome.json
    assert stopped["stop_reason"] == "stop_requested"
    assert 0 < stopped["changes"] < 10_000
    assert "stopping at the next flush" in outcome.stderr
    assert confirmed_lsn(shop, shop.name) == stopped["end_lsn"]

    resumed = dbmazz.json("capture")
    assert resumed["start_lsn"] == stopped["end_lsn"]
    assert resumed["changes"] == 10_000 - stopped["changes"]
    assert_equal(shop, duckdb_path, "public.orders")


def test_a_signal_ends_a_copy(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    shop.execute("INSERT INTO orders (id, note) SELECT i, repeat('x', 500) FROM generate_series(1000, 600000) i")
    process = dbmazz.start("capture", "--json", "--snapshot-chunk-size", "10000")
    wait_until(lambda: shop.fetch("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", shop.name))
    outcome = end(process, signal.SIGTERM)
    assert (outcome.code, outcome.json["stop_reason"]) == (0, "stop_requested"), outcome.output
    assert "public.orders" not in outcome.json["tables"]
    shop.execute("DELETE FROM orders WHERE id >= 1000")
    assert dbmazz.json("capture")["tables"]["public.orders"]["snapshot_rows"] < 1000
    assert_equal(shop, duckdb_path, "public.orders")


def test_a_second_ctrl_c_ends_at_once(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    start = dbmazz.json("capture")["end_lsn"]
    _backlog(shop, 3000)
    # Waits for the file, which knows nothing of the stop, until the second one.
    with duckdb.connect(str(duckdb_path)):
        process = dbmazz.start("capture", "--json", "--sink-lock-timeout-s", "60")
        wait_until(lambda: shop.fetch("SELECT 1 FROM pg_stat_activity WHERE application_name ~ 'dbmazz'"))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "stopping at the next flush, press Ctrl-C again" in process.stderr.readline()
        outcome = end(process, signal.SIGINT)
    assert outcome.code == 130
    assert json.loads(outcome.stdout)["exit_code"] == 130
    assert confirmed_lsn(shop, shop.name) == start
    assert dbmazz.json("capture")["changes"] == 3000
    assert_equal(shop, duckdb_path, "public.orders")


def test_cleanup_on_stop_leaves_nothing_behind_and_starts_over(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    dbmazz.variables["CLEANUP_ON_STOP"] = "true"
    dbmazz.run("capture")
    assert confirmed_lsn(shop, shop.name) is None
    assert shop.fetch("SELECT 1 FROM pg_publication") == []
    shop.execute("INSERT INTO orders (id) VALUES (100); DELETE FROM items WHERE id = 1")
    again = dbmazz.json("capture", "--cleanup-on-stop")  # the flag alone means true
    assert again["tables"]["public.orders"]["snapshot_rows"] == 51
    for table in BOTH:
        assert_equal(shop, duckdb_path, table)


def test_modes_by_table(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.variables["MODE"] = "changelog, public.items=soft_delete"
    dbmazz.run("capture")
    shop.execute("DELETE FROM items WHERE id <= 20; UPDATE orders SET note = 'new' WHERE id <= 5")
    dbmazz.run("capture")
    marks = ("_dbmazz_deleted", "_dbmazz_commit_lsn", "_dbmazz_commit_ts", "_dbmazz_synced_at")
    assert_equal(shop, duckdb_path, "public.items", where="NOT _dbmazz_deleted", ignore=marks)
    tables = dbmazz.json("status")["tables"]
    found = {name: (table["mode"], table["rows"], table["complete"]) for name, table in tables.items()}
    assert found == {"public.items": ("soft_delete", 100, True), "public.orders": ("changelog", 55, True)}
    lines = [line.split() for line in dbmazz.run("status").stdout.splitlines()]
    assert ["table", "rows", "mode", "state", "snapshot", "LSN"] in lines
    assert any(line[:4] == ["public.items", "100", "soft_delete", "streaming"] for line in lines)

    error = dbmazz.json("capture", "--mode", "mirror, public.items=soft_delete", code=2)
    assert (error["error"], error["object"]) == ("ConfigError", "MODE")
    assert "public.orders is kept in mode changelog" in error["what"]
    assert "dbmazz snapshot --tables 'public.orders'" in error["remedy"]
    dbmazz.variables["MODE"] = "mirror, public.items=soft_delete"
    dbmazz.run("snapshot", "--tables", "public.orders")
    dbmazz.run("capture")
    assert_equal(shop, duckdb_path, "public.orders")


def test_a_mask_needs_its_key_and_the_key_is_never_shown(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    dbmazz.variables["COLUMNS_MASK"] = "public.items.what=hash"
    error = dbmazz.json("capture", code=2)
    assert (error["error"], error["object"]) == ("ConfigError", "MASK_KEY")
    assert "openssl rand -hex 32" in error["remedy"]
    assert not duckdb_path.exists()

    key = "a-key-that-nobody-sees"
    said = []
    for command in (["capture", "-v"], ["status"], ["status", "--json"], ["peek"], ["check", "-v"]):
        shop.execute("UPDATE items SET what = what")
        outcome = dbmazz.run(*command, MASK_KEY=key)
        said.append(outcome.stdout + outcome.stderr)
    expected = hmac.new(key.encode(), b"thing", hashlib.sha256).hexdigest()
    with reading(duckdb_path) as duck:
        assert duck.execute("SELECT DISTINCT what FROM public.items").fetchall() == [(expected,)]
    assert key not in "".join(said)
    assert "thing" not in "".join(said)


def test_snapshot_of_some_tables_leaves_the_others(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.run("capture")
    with duckdb.connect(str(duckdb_path)) as duck:
        duck.execute("DELETE FROM public.orders; DELETE FROM public.items WHERE id > 7")
    shop.execute("UPDATE orders SET note = 'new'; UPDATE items SET what = 'new' WHERE id = 7")
    copied = dbmazz.json("snapshot", "--tables", "public.orders")
    assert copied["tables"] == {"public.orders": {"snapshot_rows": 50, "quarantined": 0}}
    dbmazz.run("capture")
    assert_equal(shop, duckdb_path, "public.orders")
    with reading(duckdb_path) as duck:
        # As it was, and the change.
        assert duck.execute("SELECT max(id), max(what) FROM public.items WHERE id <> 7").fetchall() == [(6, "thing")]
        assert duck.execute("SELECT what FROM public.items WHERE id = 7").fetchall() == [("new",)]


def test_snapshot_of_a_table_that_is_not_configured_is_refused(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    dbmazz.variables["TABLES"] = "public.orders"
    error = dbmazz.json("snapshot", "--tables", "public.items", code=4)
    assert error["error"] == "TableNotFound"
    assert "public.items is not one of the configured tables" in error["what"]
    assert "public.orders" in error["remedy"]
    assert confirmed_lsn(shop, shop.name) is None


def test_snapshot_by_flags_only_copies_all_and_gives_the_slot_a_new_position(
    dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    tables = dbmazz.variables.pop("TABLES")
    dbmazz.run("capture", "--tables", tables)
    shop.execute(f"SELECT pg_drop_replication_slot('{shop.name}')")
    shop.execute("DELETE FROM orders WHERE id = 1")
    assert dbmazz.json("capture", "--tables", tables, code=5)["error"] == "SlotNotFound"
    copied = dbmazz.json("snapshot", "--tables", tables)
    assert set(copied["tables"]) == set(BOTH)
    shop.execute("DELETE FROM orders WHERE id = 2")
    assert dbmazz.json("capture", "--tables", tables)["changes"] == 1
    for table in BOTH:
        assert_equal(shop, duckdb_path, table)


def _backlog(database: SourceDatabase, rows: int) -> None:
    """Ten rows a transaction, so that there are many places to stop."""
    database.execute(
        f"""
        DO $$ BEGIN
            FOR start IN 1000 .. {999 + rows} BY 10 LOOP
                INSERT INTO orders (id, note) SELECT i, 'backlog' FROM generate_series(start, start + 9) i;
                COMMIT;
            END LOOP;
        END $$
        """
    )


def test_a_change_of_shape_is_told(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    shop.execute("CREATE TABLE shapes (id int PRIMARY KEY, n int)")
    dbmazz.run("capture", TABLES="public.shapes")
    shop.execute("ALTER TABLE shapes ADD COLUMN note text DEFAULT 'x'; INSERT INTO shapes VALUES (1, 1, 'y')")
    result = dbmazz.run("capture", TABLES="public.shapes")
    assert """public.shapes: column "note" text was added with 'x' in older rows (apply)""" in " ".join(
        result.output.split()
    )
    shop.execute("ALTER TABLE shapes ALTER n TYPE bigint; INSERT INTO shapes VALUES (2, 2, 'z')")
    said = " ".join(dbmazz.run("capture", TABLES="public.shapes").stdout.split())
    assert 'public.shapes was rewritten when column "n" changed: re-snapshotted' in said
