"""The Dagster project of `examples/shop`: from the first capture to marts that follow PostgreSQL, and its processes."""

# No postponed annotations here: Dagster reads the annotations as objects.

import importlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from tests.docs.blocks import read_blocks
from tests.examples.conftest import EXAMPLES
from tests.support.oracle import assert_equal, connect_source
from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

PROJECT = EXAMPLES / "shop"
#: The marts, as PostgreSQL computes them from its own tables.
EXPECTED = """
CREATE SCHEMA expected;
CREATE VIEW expected.daily_revenue AS
    SELECT (placed_at AT TIME ZONE 'UTC')::date AS day, count(DISTINCT orders.id) AS orders,
           sum(quantity) AS items, sum(quantity * unit_price) AS revenue
    FROM orders JOIN order_items ON order_id = orders.id WHERE status <> 'cancelled' GROUP BY 1;
CREATE VIEW expected.stock_value AS
    SELECT code AS warehouse, sum(quantity) AS pieces, sum(price * quantity) AS value
    FROM stock JOIN products ON products.id = product_id JOIN warehouses ON warehouses.id = warehouse_id GROUP BY 1;
CREATE VIEW expected.return_rates AS
    SELECT categories.name AS category, sum(quantity) AS sold,
           sum((SELECT coalesce(sum(quantity), 0) FROM returns
                WHERE (order_id, line) = (order_items.order_id, order_items.line))) AS returned
    FROM order_items JOIN products ON products.id = product_id JOIN categories ON categories.id = category_id
    GROUP BY 1;
"""


@dataclass
class Project:
    """The project in a directory of its own, which has its DuckDB files and its Dagster instance."""

    source: SourceDatabase
    directory: Path
    instance: dg.DagsterInstance

    @property
    def definitions(self) -> dg.Definitions:
        found = importlib.import_module("shop.definitions").defs
        assert isinstance(found, dg.Definitions)
        return found

    @property
    def capture(self) -> ModuleType:
        return importlib.import_module("shop.capture")

    @property
    def environment(self) -> dict[str, str]:
        commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": commands, "DAGSTER_HOME": self.instance.root_directory}

    def traffic(self, seed: int) -> None:
        """A transaction of each kind, and some more."""
        traffic = importlib.import_module("shop.traffic")
        rng = random.Random(seed)
        with self.source.connect() as connection:
            for kind in [*traffic.KINDS, *rng.choices(list(traffic.KINDS), list(traffic.KINDS.values()), k=30)]:
                kind(connection, rng)

    def tick(self) -> list[dg.RunRequest]:
        """What the sensor requests."""
        sensor = self.definitions.resolve_sensor_def("shop_sensor")
        context = dg.build_sensor_context(instance=self.instance, definitions=self.definitions)
        return list(sensor.evaluate_tick(context).run_requests or [])

    def follow(self) -> None:
        """Run the window that the sensor requests."""
        (request,) = self.tick()
        job = self.definitions.resolve_job_def("shop_capture")
        result = job.execute_in_process(
            instance=self.instance, tags=dict(request.tags), asset_selection=request.asset_selection
        )
        assert result.success

    def look(self, cursor: AssetDaemonCursor | None) -> tuple[set[dg.AssetKey], AssetDaemonCursor]:
        """Which marts the automation conditions request, as a tick of Dagster's daemon."""
        found = dg.evaluate_automation_conditions(
            self.definitions, self.instance, cursor=cursor, asset_selection=dg.AssetSelection.groups("marts")
        )
        return {key for key in MARTS if found.get_num_requested(key)}, found.cursor

    def run(self, *assets: dg.AssetKey) -> None:
        """Run assets with their checks; without arguments, all as \"Materialize all\" does."""
        job = self.definitions.resolve_implicit_global_asset_job_def()
        result = job.execute_in_process(instance=self.instance, asset_selection=list(assets) or None)
        assert result.success

    def equal(self) -> None:
        """The oracle: the file, its read copy and the marts are what PostgreSQL has."""
        file, copy = (self.directory / name for name in (self.capture.FILE, self.capture.READ_COPY))
        with connect_source(self.source) as source:
            for path in (file, copy):
                with reading(path):
                    for table in self.capture.TABLES:
                        assert_equal(source, path, f"public.{table}")

    def marts_equal(self) -> None:
        """The oracle: the marts are what PostgreSQL would compute."""
        file = self.directory / self.capture.FILE
        for name in ("daily_revenue", "stock_value"):
            assert_equal(self.source, file, f"expected.{name}", as_table=f"marts.{name}")
        with duckdb.connect() as connection:
            connection.execute(f"CREATE VIEW rates AS FROM '{self.directory / 'return_rates.parquet'}'")
            assert_equal(self.source, connection, "expected.return_rates", as_table="rates")

    @contextmanager
    def running(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command in the project's directory."""
        process = subprocess.Popen(
            command,
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def shell(self, text: str) -> None:
        """Run a block of the README; every command has to succeed."""
        with self.running("bash", "-euo", "pipefail", "-c", text) as process:
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output


STOCK_VALUE = dg.AssetKey(["marts", "stock_value"])
MARTS = {dg.AssetKey(["marts", "daily_revenue"]), dg.AssetKey(["marts", "return_rates"]), STOCK_VALUE}


@pytest.fixture
def project(
    shop: SourceDatabase, tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Project:
    shop.execute(EXPECTED)
    directory = tmp_path / "project"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.syspath_prepend(PROJECT)
    monkeypatch.setenv("SOURCE_URL", shop.url)
    return Project(shop, directory, instance)


def test_captures_computes_and_follows(project: Project) -> None:
    # Dagster's daemon looks at the conditions before the first window: nothing is there yet.
    requested, cursor = project.look(None)
    assert not requested
    project.follow()
    project.equal()
    requested, cursor = project.look(cursor)
    assert requested == MARTS
    project.run(*MARTS)
    project.marts_equal()
    assert not project.tick()

    # A window between the end of the marts and the next look at their conditions.
    project.traffic(1)
    project.follow()
    project.equal()
    requested, cursor = project.look(cursor)
    assert requested == MARTS

    # A window between that look and the end of the marts.
    project.traffic(2)
    project.follow()
    project.run(*MARTS)
    requested, cursor = project.look(cursor)
    assert requested == MARTS
    project.run(*MARTS)
    project.marts_equal()
    for _ in range(2):
        requested, cursor = project.look(cursor)
        assert not requested

    # Only one table changes: only the mart that is computed from it follows.
    project.source.execute("UPDATE warehouses SET code = 'BER' WHERE code = 'CGN'")
    project.follow()
    requested, _ = project.look(cursor)
    assert requested == {STOCK_VALUE}
    project.run(STOCK_VALUE)
    project.equal()
    project.marts_equal()


def test_all_checks_are_green_and_a_wrong_mart_is_found(project: Project) -> None:
    project.run()
    project.equal()
    project.marts_equal()
    checks = project.definitions.resolve_asset_graph().asset_check_keys
    names = [key.name for key in checks]
    assert names.count("key_is_unique") == names.count("is_streaming") == len(project.capture.TABLES)
    assert {key.name for key in checks if key.asset_key in MARTS} == {
        "one_row_for_each_day",
        "stock_is_worth_something",
    }
    assert statuses(project.instance, checks) == dict.fromkeys(checks, AssetCheckExecutionRecordStatus.SUCCEEDED)

    with duckdb.connect(project.capture.FILE) as connection:
        connection.execute("INSERT INTO marts.daily_revenue FROM marts.daily_revenue LIMIT 1")
        connection.execute("UPDATE marts.stock_value SET pieces = 0 WHERE warehouse = 'DUB'")
    own = [key for key in checks if key.asset_key in MARTS]
    job = dg.define_asset_job("own_checks", dg.AssetSelection.checks(*own))
    definitions = dg.Definitions.merge(project.definitions, dg.Definitions(jobs=[job]))
    assert definitions.resolve_job_def("own_checks").execute_in_process(instance=project.instance).success
    assert statuses(project.instance, own) == dict.fromkeys(own, AssetCheckExecutionRecordStatus.FAILED)


def statuses(
    instance: dg.DagsterInstance, checks: object
) -> dict[dg.AssetCheckKey, AssetCheckExecutionRecordStatus | None]:
    """The status of the latest evaluation of each check, None without one."""
    found = {}
    for key in checks:
        records = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        found[key] = records[0].status if records else None
    return found


def test_loads_without_a_database(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for `dagster dev`, a code server loads the definitions that the workspace names."""
    monkeypatch.delenv("SOURCE_URL")
    shutil.copytree(PROJECT, project.directory, dirs_exist_ok=True)
    validate = ("dagster", "definitions", "validate", "--load-with-grpc", "-w", "workspace.yaml")
    with project.running(sys.executable, "-m", *validate) as process:
        output, _ = process.communicate(timeout=120)
    assert (process.returncode, "Validation successful" in output) == (0, True), output


def test_the_commands_of_the_readme(project: Project) -> None:
    """The job in a process of its own, beside the project's traffic; then slot and publication are dropped."""
    shutil.copytree(PROJECT, project.directory, dirs_exist_ok=True)
    blocks = read_blocks("examples/shop/README.md")
    assert [bool(block.not_run) for block in blocks] == [True, True, False, False]
    traffic, capture, teardown = (block.text for block in blocks[1:])
    orders = "SELECT count(*) FROM orders WHERE status <> 'cancelled'"
    before = project.source.fetch(orders)
    with project.running(*shlex.split(traffic)) as process:
        project.shell(capture)
        deadline = time.monotonic() + 60
        while project.source.fetch(orders) <= before:
            assert process.poll() is None, process.stdout and process.stdout.read()
            assert time.monotonic() < deadline, "no order was placed"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
        assert (process.returncode, output) == (0, "")
    project.shell(capture)
    project.equal()
    project.shell(teardown)
    for catalog in ("pg_replication_slots WHERE slot_name = 'shop'", "pg_publication"):
        assert not project.source.fetch(f"SELECT FROM {catalog}")
