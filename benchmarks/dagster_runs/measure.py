"""Run jobs as Dagster's launchers do, each in a worker of its own, and read their time and events."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import psycopg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import create_execution_plan
from dagster._core.snap import snapshot_from_execution_plan
from dagster._grpc.types import ExecuteRunArgs

from benchmarks.process import run
from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.settings.config import Settings
from dbmazz_dagster import build_definitions

#: Rows of each table.
_ROWS = 10
_ROUNDS = 5

#: A code location with the capture that the environment configures.
_CAPTURE = """
from dbmazz_dagster import build_definitions

defs = build_definitions(name="bench")
"""
#: A code location without dbmazz, with a job that does nothing.
_EMPTY = """
import dagster as dg


@dg.op
def nothing() -> None: ...


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    nothing()


defs = dg.Definitions(jobs=[empty])
"""


def measure_dagster_runs(server: EmbeddedPostgres, directory: Path, counts: Sequence[int]) -> list[dict[str, float]]:
    """Measure runs with some numbers of tables, each beside a run that does nothing.

    Args:
        server: Server on which the tables are created, in a schema of their own.
        directory: Directory for the DuckDB files and Dagster's storage.
        counts: Numbers of tables.

    Returns:
        For each number, medians of some rounds: `tables`; `empty_s`, `idle_s` and `changed_s`, seconds from the start
        of the worker to the success of the run, for a job that does nothing, a window without changes, as the schedule
        requests it, and a window with one changed table, as the sensor requests it; `tick_s`, seconds of a tick that
        finds the change; `events` and `kb`, number and size in kB of the events of a run with one changed table.
    """
    return [_Project(server, directory / f"dagster_{count}", count).measure() for count in counts]


class _Project:
    """A capture of some tables, with an instance of Dagster."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, count: int) -> None:
        self._server, self._count = server, count
        self._schema = f"runs_{count}"
        self._tables = [f"{self._schema}.t{number:05}" for number in range(count)]
        home = directory / "home"
        home.mkdir(parents=True)
        (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        # Files of their own for each project: Python imports a module once.
        self._capture, self._empty = directory / f"capture_{count}.py", directory / f"empty_{count}.py"
        self._capture.write_text(_CAPTURE)
        self._empty.write_text(_EMPTY)
        self._variables = {
            "SOURCE_URL": server.url(socket=True),
            "TABLES": ",".join(self._tables),
            "SOURCE_SLOT_NAME": self._schema,
            "SOURCE_PUBLICATION_NAME": self._schema,
            "SINK_URL": str(directory / f"bench_{count}.duckdb"),
            "DAGSTER_HOME": str(home),
        }

    def measure(self) -> dict[str, float]:
        self._execute(f"CREATE SCHEMA {self._schema}")
        for table in self._tables:
            self._execute(
                f"CREATE TABLE {table} (id int PRIMARY KEY, n int, v text); "
                f"INSERT INTO {table} SELECT i, i, 'v' FROM generate_series(1, {_ROWS}) i"
            )
        with patch.dict(os.environ, self._variables), dg.DagsterInstance.get() as instance:
            self._run(instance, self._capture, "bench_capture")
            rounds = [self._round(instance) for _ in range(_ROUNDS)]
        return {
            "tables": self._count,
            **{name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        }

    def _round(self, instance: dg.DagsterInstance) -> dict[str, float]:
        empty_s, _ = self._run(instance, self._empty, "empty")
        idle_s, _ = self._run(instance, self._capture, "bench_capture", self._schedule(instance))
        self._execute(f"UPDATE {self._tables[0]} SET n = n + 1 WHERE id = 1")
        started = time.perf_counter()
        request = self._tick(instance)
        tick_s = time.perf_counter() - started
        changed_s, run_id = self._run(instance, self._capture, "bench_capture", request)
        events = instance.all_logs(run_id)
        kb = sum(len(dg.serialize_value(event)) for event in events) / 1000
        return {
            "empty_s": empty_s,
            "idle_s": idle_s,
            "changed_s": changed_s,
            "tick_s": tick_s,
            "events": len(events),
            "kb": kb,
        }

    def _definitions(self) -> dg.Definitions:
        return build_definitions(Settings.from_env(self._variables), name="bench")

    def _schedule(self, instance: dg.DagsterInstance) -> dg.RunRequest:
        schedule = self._definitions().resolve_schedule_def("bench_schedule")
        (request,) = schedule.evaluate_tick(dg.build_schedule_context(instance=instance)).run_requests or []
        return request

    def _tick(self, instance: dg.DagsterInstance) -> dg.RunRequest:
        definitions = self._definitions()
        sensor = definitions.resolve_sensor_def("bench_sensor")
        found = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, definitions=definitions))
        if not found.run_requests:
            raise RuntimeError(f"the sensor requested no run: {found.skip_message}")
        (request,) = found.run_requests
        return request

    def _run(
        self, instance: dg.DagsterInstance, project: Path, job: str, request: dg.RunRequest | None = None
    ) -> tuple[float, str]:
        """Run a job in a worker; return the seconds until it has succeeded, and the run's id.

        Raises:
            RuntimeError: The run did not succeed.
        """
        repository = ReconstructableRepository.for_file(str(project), "defs", working_directory=str(project.parent))
        reconstructable = repository.get_reconstructable_job(job)
        definition, selection, checks = reconstructable.get_definition(), None, None
        if request is not None:
            selection, checks = frozenset(request.asset_selection or ()), frozenset(request.asset_check_keys or ())
            definition = definition.get_subset(asset_selection=selection, asset_check_selection=checks)
        plan = create_execution_plan(definition, instance_ref=instance.get_ref())
        created = instance.create_run(  # as `create_run_for_job`, which knows no selection of checks
            job_name=job,
            run_id=None,
            run_config=None,
            status=None,
            tags=None if request is None else dict(request.tags),
            root_run_id=None,
            parent_run_id=None,
            step_keys_to_execute=plan.step_keys_to_execute,
            execution_plan_snapshot=snapshot_from_execution_plan(plan, definition.get_job_snapshot_id()),
            job_snapshot=definition.get_job_snapshot(),
            parent_job_snapshot=definition.get_parent_job_snapshot(),
            asset_selection=selection,
            asset_check_selection=checks,
            resolved_op_selection=None,
            op_selection=None,
            remote_job_origin=None,
            job_code_origin=reconstructable.get_python_origin(),
            asset_graph=definition.asset_layer.asset_graph,
        )
        arguments = dg.serialize_value(
            ExecuteRunArgs(reconstructable.get_python_origin(), created.run_id, instance.get_ref())
        )
        started = time.time()
        done = run([sys.executable, "-m", "dagster", "api", "execute_run", arguments], _environment(self._variables))
        record = instance.get_run_record_by_id(created.run_id)
        if record is None or not record.dagster_run.is_success or record.end_time is None:
            raise RuntimeError(f"run of {job} did not succeed: {done.stdout[-2000:]}")
        return record.end_time - started, created.run_id

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._server.url(socket=True)) as connection:
            # The server of the benchmarks does not wait for the disk; a tick looks only at WAL that was flushed.
            connection.execute(f"SET synchronous_commit = on; {statement}".encode())


def _environment(variables: Mapping[str, str]) -> Mapping[str, str]:
    return os.environ | variables
