"""`dbmazz tables`, and what `capture`, `snapshot` and `status` say of tables in trouble."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Dbmazz
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

TROUBLE = "INSERT INTO orders (id, amount) VALUES (1000, 'NaN')"


@pytest.fixture
def in_trouble(dbmazz: Dbmazz, shop: SourceDatabase) -> Dbmazz:
    """`public.orders` has failed, `public.items` streams."""
    dbmazz.run("capture")
    shop.execute(TROUBLE)
    shop.execute("DELETE FROM items WHERE order_id = 1")
    return dbmazz


def test_capture_ends_with_a_code_of_its_own_and_names_the_table(
    in_trouble: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    outcome = in_trouble.run("capture", code=8)
    assert "public.orders is failed, with its rows as of" in outcome.stderr
    assert "what to do: change the value in PostgreSQL and re-snapshot the table" in outcome.stderr
    assert_equal(shop, duckdb_path, "public.items")
    states = in_trouble.json("capture", code=8)["table_states"]
    assert (states["public.orders"]["state"], states["public.orders"]["error"]) == ("failed", "BadValue")
    assert states["public.items"]["state"] == "streaming"
    status = in_trouble.json("status")["tables"]
    assert status["public.orders"].items() >= states["public.orders"].items()
    assert "public.orders is failed: public.orders, column amount" in in_trouble.run("status").stdout

    shop.execute("DELETE FROM orders WHERE id = 1000")
    in_trouble.run("snapshot", "--tables", "public.orders")
    in_trouble.run("capture")
    assert_equal(shop, duckdb_path, "public.orders")


def test_a_snapshot_of_all_tables_copies_the_others(
    in_trouble: Dbmazz, shop: SourceDatabase, duckdb_path: Path
) -> None:
    result = in_trouble.json("snapshot", code=8)
    assert list(result["tables"]) == ["public.items"]
    assert result["table_states"]["public.orders"]["error"] == "BadValue"
    assert_equal(shop, duckdb_path, "public.items")


def test_tables_lists_pauses_and_resumes(dbmazz: Dbmazz, shop: SourceDatabase, duckdb_path: Path) -> None:
    dbmazz.run("capture")
    shop.execute("INSERT INTO items VALUES (999, 1, 'x')")
    dbmazz.run("tables", "pause", "public.orders")
    shop.execute("INSERT INTO orders (id) VALUES (999)")
    dbmazz.run("capture")
    listed = dbmazz.json("tables")["tables"]
    assert listed["public.orders"]["state"] == "paused"
    assert listed["public.orders"]["rows"] == 50
    assert listed["public.items"]["last_change_lsn"] is not None
    shown = dbmazz.run("tables").stdout
    assert [line.split()[:3] for line in shown.splitlines()[1:3]] == [
        ["public.items", "streaming", "121"],
        ["public.orders", "paused", "50"],
    ]
    assert dbmazz.json("tables", "resume", "orders")["tables"]["public.orders"]["state"] == "copying"
    dbmazz.run("capture")
    assert_equal(shop, duckdb_path, "public.orders")
    assert "did you mean public.orders" in dbmazz.run("tables", "pause", "public.oders", code=4).stderr
    assert "name each table" in dbmazz.run("tables", "pause", "public.*", code=2).stderr


def test_the_queries_of_the_document_find_a_table_that_is_behind(in_trouble: Dbmazz, duckdb_path: Path) -> None:
    in_trouble.run("capture", code=8)
    blocks = Path("docs/tables-in-trouble.md").read_text().split("```sql\n")[1:]
    first, second = (block.split("```")[0] for block in blocks)
    lsn = in_trouble.json("tables")["tables"]["public.orders"]["lsn"]
    with reading(duckdb_path) as connection:
        (row,) = connection.execute(first).fetchall()
        assert (row[1], row[2], row[-1]) == ("orders", "failed", lsn)
        with pytest.raises(Exception, match="tables are behind: orders"):
            connection.execute(second)
