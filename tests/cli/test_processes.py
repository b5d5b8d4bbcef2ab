"""Every command as a user starts it: a process of its own, its exit code and its two streams."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import Dbmazz, confirmed_lsn
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase


def test_check(dbmazz: Dbmazz, duckdb_path: Path) -> None:
    outcome = dbmazz.run_in_process("check")
    assert outcome.stdout.endswith("ready to capture, 0 warnings\n")
    assert outcome.stderr == ""
    assert not duckdb_path.exists()


def test_setup_and_teardown(dbmazz: Dbmazz, shop: SourceDatabase) -> None:
    done = dbmazz.run_in_process("setup", "--json")
    assert done.json["done"][0] == f'created publication "{shop.name}_pub"'
    assert done.stderr == ""
    assert confirmed_lsn(shop, shop.name) is not None
    gone = dbmazz.run_in_process("teardown", "--yes")
    assert gone.stdout == f'dropped replication slot {shop.name}\ndropped publication "{shop.name}_pub"\n'
    assert confirmed_lsn(shop, shop.name) is None


def test_capture_status_peek_and_snapshot(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    first = dbmazz.run_in_process("capture", "--json", "-v")
    assert first.stdout.count("\n") == 1
    assert first.json["tables"]["public.orders"]["snapshot_rows"] == 50
    assert "INFO" in first.stderr
    shop.execute("INSERT INTO orders (id, note) VALUES (100, 'naïve')")
    assert "'naïve'" not in (peeked := dbmazz.run_in_process("peek")).stderr
    assert '"note": "naïve"' in peeked.stdout
    assert f"checkpoint     {first.json['end_lsn']}" in dbmazz.run_in_process("status").stdout
    copied = dbmazz.run_in_process("snapshot", "--tables", "public.orders", "--json").json
    assert copied["tables"] == {"public.orders": {"snapshot_rows": 51, "quarantined": 0}}
    assert_equal(shop, duckdb_path, "public.orders")


def test_an_error_is_its_exit_code_and_goes_to_stderr_or_as_json_to_stdout(dbmazz: Dbmazz) -> None:
    dbmazz.variables["TABLES"] = "public.itemz"
    text = dbmazz.run_in_process("capture", code=4)
    assert text.stdout == ""
    assert text.stderr.startswith("error: table public.itemz does not exist")
    described = dbmazz.run_in_process("capture", "--json", code=4)
    assert described.stderr == ""
    assert json.loads(described.stdout)["exit_code"] == 4
    assert dbmazz.run_in_process("captur", code=2).stdout == ""


def test_version_and_help(dbmazz: Dbmazz) -> None:
    assert dbmazz.run_in_process("--version").stdout.startswith("dbmazz 0.")
    assert "  capture " in dbmazz.run_in_process("--help").stdout
