"""A small shop in PostgreSQL and its definitions, both real."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.execution.plan.objects import UserFailureData

from dbmazz_core.lsn import Lsn
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import DbmazzResource, build_dbmazz_sensor, build_definitions
from dbmazz_dagster.owed import DATA_VERSION_TAG
from tests.support.oracle import assert_equal
from tests.support.postgres_fixtures import SourceDatabase

TABLES = ("customers", "orders")

SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, amount numeric(12,2), note text);
CREATE TABLE unrelated (id bigint, filler text);
INSERT INTO customers SELECT i, 'customer ' || i FROM generate_series(1, 3) i;
INSERT INTO orders SELECT i, 1 + i % 3, i * 1.5, NULL FROM generate_series(1, 10) i;
"""


def key(*path: str) -> dg.AssetKey:
    return dg.AssetKey(path)


@dataclass
class Ticked:
    """What a tick of the sensor gave."""

    requests: Sequence[dg.RunRequest]
    skipped: str | None
    events: Sequence[Any]


@dataclass
class Shop:
    """A source with tables, where it goes, and the definitions that capture it."""

    database: SourceDatabase
    destination: Path
    instance: dg.DagsterInstance
    env: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None

    @property
    def slot(self) -> str:
        return self.env["SOURCE_SLOT_NAME"]

    @property
    def checkpoint(self) -> dg.AssetKey:
        return key("dbmazz", self.slot)

    def with_env(self, **changes: str) -> Shop:
        """The same shop, Dagster instance included, with other settings."""
        return replace(self, env={**self.env, **changes})

    def definitions(self) -> dg.Definitions:
        return build_definitions(Settings.from_env(self.env), **self.options)

    def run(
        self,
        *tables: str,
        config: Mapping[str, Any] | None = None,
        request: dg.RunRequest | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run the job, of all assets or of some tables only."""
        job = self.definitions().resolve_job_def("dbmazz_capture")
        if request is not None and request.asset_selection is not None:
            job = job.get_subset(
                asset_selection={*request.asset_selection}, asset_check_selection={*(request.asset_check_keys or ())}
            )
        return job.execute_in_process(
            instance=self.instance,
            raise_on_error=False,
            asset_selection=[key("public", table) for table in tables] or None,
            run_config={"ops": {"dbmazz": {"config": dict(config)}}} if config else None,
            tags=dict(request.tags) if request else None,
        )

    def tick(self, **options: Any) -> Ticked:
        """Evaluate the sensor once, with other options if given; the cursor is kept as by the daemon."""
        definitions = self.definitions()
        sensor = definitions.resolve_sensor_def("dbmazz_sensor")
        if options:
            resource = DbmazzResource.from_settings(Settings.from_env(self.env))
            job = definitions.resolve_job_def("dbmazz_capture")
            tables = definitions.resolve_asset_graph().get(self.checkpoint).assets_def
            sensor = build_dbmazz_sensor(resource, name="dbmazz_sensor", job=job, target=tables, **options)
        data = sensor.evaluate_tick(
            dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=definitions)
        )
        self.cursor = data.cursor
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return Ticked(data.run_requests or [], data.skip_message, data.asset_events)

    def equal(self) -> None:
        """The oracle: both tables are in the destination, exactly."""
        for table in TABLES:
            assert_equal(self.database, self.destination, f"public.{table}")

    def materializations(self, result: dg.ExecuteInProcessResult) -> dict[dg.AssetKey, dict[str, Any]]:
        """Metadata by asset of everything that a run recorded as materialized, logged or yielded."""
        found: dict[dg.AssetKey, dict[str, Any]] = {}
        for record in self.instance.get_records_for_run(result.run_id).records:
            event = record.event_log_entry.asset_materialization
            if event is not None:
                found[event.asset_key] = {name: value.value for name, value in event.metadata.items()}
        return found

    def events(self, asset: dg.AssetKey) -> list[dg.AssetMaterialization]:
        """All materializations of an asset that Dagster has, the oldest first."""
        records = self.instance.fetch_materializations(asset, limit=100).records
        return [record.asset_materialization for record in reversed(records) if record.asset_materialization]

    def versions(self, asset: dg.AssetKey) -> list[str]:
        """The data version of each of them."""
        return [(event.tags or {})[DATA_VERSION_TAG] for event in self.events(asset)]

    def changed_lsn(self, table: str) -> str:
        """The LSN of the last change that the file has of a table, from its bookkeeping."""
        ((lsn,),) = self.in_file(
            "SELECT greatest(snapshot_lsn, last_change_lsn) FROM _dbmazz.tables WHERE slot = ? AND table_name = ?",
            self.slot,
            table,
        )
        return str(Lsn(lsn))

    def in_file(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Query the file, also one that a killed process has left."""
        with duckdb.connect(str(self.destination), read_only=True) as connection:
            return connection.execute(query, values).fetchall()

    def log(self, run_id: str) -> str:
        """Everything that Dagster keeps about a run, as text."""
        records = self.instance.get_records_for_run(run_id).records
        run = self.instance.get_run_by_id(run_id)
        return "\n".join([repr(run), *(repr(record.event_log_entry) for record in records)])


def failure(result: dg.ExecuteInProcessResult) -> UserFailureData:
    """What the failed step said."""
    (event,) = (e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_FAILURE)
    data = event.step_failure_data.user_failure_data
    assert data is not None, event
    return data


@pytest.fixture
def shop(database: SourceDatabase, duckdb_path: Path, instance: dg.DagsterInstance) -> Shop:
    """Two tables with rows, nothing captured yet."""
    database.execute(SCHEMA)
    # Slots are the server's, not the database's.
    unique = uuid.uuid4().hex[:12]
    env = {
        "SOURCE_URL": database.url,
        "TABLES": "public.customers, public.orders",
        "SOURCE_SLOT_NAME": f"shop_{unique}",
        "SINK_URL": str(duckdb_path),
    }
    return Shop(database, duckdb_path, instance, env)


@pytest.fixture
def captured(shop: Shop) -> Shop:
    """The shop after its first window."""
    result = shop.run()
    assert result.success
    return shop
