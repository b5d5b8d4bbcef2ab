"""The dbt project of `examples/dbt` on the read copy that a window has published, with the oldest DuckDB."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from dbmazz_core.settings.config import SinkConfig
from tests.examples.conftest import EXAMPLES
from tests.support.lab import Lab
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

PROJECT = EXAMPLES / "dbt"
DIRECTORY = Path(os.environ.get("DBMAZZ_DBT") or EXAMPLES.parent / ".cache" / "dbt")
#: Puts NEXT_COPY, if that is set, into the place of the read copy as soon as dbt has finished a model or a test.
PROGRAM = """
import os, sys
from dbt.cli.main import dbtRunner

def publish(event):
    if event.info.name == "NodeFinished" and os.path.exists(os.environ.get("NEXT_COPY", "")):
        os.replace(os.environ["NEXT_COPY"], os.environ["SINK_READ_COPY"])

done = dbtRunner(callbacks=[publish]).invoke(sys.argv[1:])
sys.exit(0 if done.success else 2 if done.exception else 1)
"""
#: The mart, as PostgreSQL computes it.
EXPECTED = """
CREATE SCHEMA expected;
CREATE VIEW expected.customer_value AS
    SELECT id AS customer_id, name,
           (SELECT count(*) FROM orders WHERE customer_id = customers.id AND status <> 'cancelled') AS orders,
           (SELECT coalesce(sum(unit_price * (quantity - coalesce(
                (SELECT sum(quantity) FROM returns
                 WHERE (order_id, line) = (order_items.order_id, order_items.line)), 0))), 0)
            FROM orders JOIN order_items ON order_id = orders.id
            WHERE customer_id = customers.id AND status <> 'cancelled') AS revenue,
           (SELECT max(placed_at) FROM orders WHERE customer_id = customers.id AND status <> 'cancelled')
                AS last_order_at
    FROM customers;
"""
CHANGES = """
INSERT INTO customers (email, name) VALUES ('new@example.com', 'New');
INSERT INTO orders (id, customer_id, address_id) SELECT md5('new')::uuid, id, 1 FROM customers WHERE name = 'New';
INSERT INTO order_items VALUES (md5('new')::uuid, 1, 1, 5, 9.99);
INSERT INTO returns (order_id, line, quantity, reason) VALUES (md5('new')::uuid, 1, 2, 'damaged');
UPDATE orders SET status = 'cancelled' WHERE id = md5('order 1')::uuid;
"""


@dataclass
class Shop:
    """The captured shop, and dbt's file beside its read copy."""

    lab: Lab
    directory: Path

    @property
    def copy(self) -> Path:
        return self.directory / "shop.read.duckdb"

    @property
    def marts(self) -> Path:
        return self.directory / "marts.duckdb"

    def dbt(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run dbt with the project's profile; return the exit code and the output."""
        # -S: without the packages of the tests' environment, since dbt has others.
        command = [sys.executable, "-S", "-c", PROGRAM, *arguments]
        done = subprocess.run(
            [*command, "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(DIRECTORY),
                "SINK_READ_COPY": str(self.copy),
                "DBT_FILE": str(self.marts),
                "DBT_TARGET_PATH": str(self.directory / "target"),
                "DBT_LOG_PATH": str(self.directory / "logs"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    def results(self) -> dict[str, str]:
        """Status of each model and test of the last command, by name."""
        text = (self.directory / "target" / "run_results.json").read_text()
        found: list[dict[str, Any]] = json.loads(text)["results"]
        return {result["unique_id"].split(".", 2)[2]: result["status"] for result in found}

    def equal(self) -> None:
        """The oracle: dbt's file has the mart that PostgreSQL would compute, and nothing that needs another file."""
        with reading(self.marts) as connection:
            assert connection.execute("SELECT table_name, table_type FROM information_schema.tables").fetchall() == [
                ("customer_value", "BASE TABLE")
            ]
        assert_equal(self.lab.database, self.marts, "expected.customer_value", as_table="main.customer_value")


@pytest.fixture
def captured(shop: SourceDatabase, tmp_path: Path) -> Shop:
    if not (DIRECTORY / "dbt").is_dir():
        pytest.skip(f"dbt is not in {DIRECTORY}; `make test-dbt` puts it there")
    shop.execute(EXPECTED)
    found = Shop(Lab(shop, tmp_path / "shop.duckdb"), tmp_path)
    sink = SinkConfig(url=str(found.lab.path), read_copy=str(found.copy))
    found.lab = found.lab.configured(sink=sink)
    found.lab.capture()
    return found


def test_builds_from_the_read_copy_and_follows_it(captured: Shop) -> None:
    published = hashlib.sha256(captured.copy.read_bytes()).digest()
    # As a window that commits, or a notebook that does not close it: dbt does not open the file itself.
    with duckdb.connect(str(captured.lab.path)):
        code, output = captured.dbt("build")
    assert code == 0, output
    results = captured.results()
    assert results.pop("customer_value") == "success"
    assert len(results) == 12
    assert set(results.values()) == {"pass"}, results
    assert hashlib.sha256(captured.copy.read_bytes()).digest() == published
    captured.equal()

    captured.lab.execute(CHANGES)
    captured.lab.capture()
    code, output = captured.dbt("build")
    assert code == 0, output
    captured.equal()


#: Rows that break two tests of the project.
BROKEN = "UPDATE orders SET status = 'lost' WHERE id = md5('order 2')::uuid; "
BROKEN += f"{CHANGES}; UPDATE returns SET quantity = 7 WHERE order_id = md5('new')::uuid"


def test_a_build_keeps_the_copy_that_it_opened(captured: Shop) -> None:
    """A window publishes the next copy while dbt works: all models and tests still see the first one."""
    captured.lab.execute("CREATE TABLE expected.at_first AS TABLE expected.customer_value")
    captured.lab.execute("ALTER TYPE order_status ADD VALUE 'lost'")
    first, following = captured.copy.read_bytes(), captured.directory / "next.duckdb"
    captured.lab.execute(BROKEN)
    captured.lab.capture()
    captured.copy.replace(following)
    captured.copy.write_bytes(first)
    code, output = captured.dbt("build", NEXT_COPY=str(following))
    assert (code, following.exists()) == (0, False), output
    assert_equal(captured.lab.database, captured.marts, "expected.at_first", as_table="main.customer_value")
    assert captured.dbt("build")[0] == 1


def test_a_broken_rule_fails_the_build(captured: Shop) -> None:
    """The tests of the project look at the captured rows."""
    captured.lab.execute("ALTER TYPE order_status ADD VALUE 'lost'")
    captured.lab.execute(BROKEN)
    captured.lab.capture()
    assert captured.dbt("build")[0] == 1
    failed = {name.partition(".")[0] for name, status in captured.results().items() if status == "fail"}
    assert failed == {
        "accepted_values_stg_orders_status__placed__paid__shipped__delivered",
        "no_line_returns_more_than_it_has",
    }


def test_freshness_is_the_age_of_the_read_copy(captured: Shop) -> None:
    code, output = captured.dbt("source", "freshness")
    assert (code, "PASS freshness of dbmazz.published" in output) == (0, True), output
    with duckdb.connect(str(captured.copy)) as connection:
        connection.execute("UPDATE _dbmazz.published SET published_at = published_at - INTERVAL 2 DAY")
    code, output = captured.dbt("source", "freshness")
    assert (code, "ERROR STALE freshness of dbmazz.published" in output) == (1, True), output
