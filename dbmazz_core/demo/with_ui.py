"""The demo with Dagster's UI: start all parts, show the state of the capture, stop all parts."""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import time
from pathlib import Path

import psycopg
from rich.console import Console

from dbmazz_core.demo.dagster_client import DagsterClient, DagsterState, LoadFailed, NotReady
from dbmazz_core.demo.dagster_process import DagsterProcess
from dbmazz_core.demo.display import Display, State
from dbmazz_core.demo.running_shop import RunningShop, running_shop
from dbmazz_core.demo.shop import Connection, count_rows
from dbmazz_core.demo.traffic import Traffic
from dbmazz_core.errors import ConfigError, DbmazzError

#: Seconds of a phase of the workload, of the longest pause, and of a pause after the capture has caught up.
_WORK_S, _MAX_PAUSE_S, _PAUSE_CAUGHT_UP_S = 40.0, 60.0, 5.0
_START_TIMEOUT_S = 120.0
_POLL_S = 1.0

_LAG = """
SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint
FROM pg_replication_slots WHERE slot_name = %s
"""


def run_with_ui(
    *,
    seconds: float | None,
    port: int | None,
    rate: float,
    keep: Path | None,
    stop: threading.Event,
    console: Console,
) -> None:
    """Run the demo until `stop` is set.

    Args:
        seconds: Duration of the demo, None for no limit.
        port: Port of the UI; None for 3000, or a free port if 3000 is taken.
        rate: Transactions per second of the workload.
        keep: Directory in which to keep the DuckDB file, Dagster's home and the logs.
        stop: Ends the demo.
        console: Prints the state of the demo.

    Raises:
        ConfigError: The extra `demo` is not installed, the port is taken, or `keep` is not an empty directory.
        DbmazzError: A part of the demo does not start, or has ended unexpectedly.
    """
    _require_extra()
    console.print("Starting PostgreSQL ...", highlight=False)
    with running_shop(keep) as shop:
        dagster = DagsterProcess(shop.directory, shop.environment, port=port, remove=None if keep else shop.directory)
        console.print(f"PostgreSQL {shop.postgres_version} is running. Starting Dagster ...", highlight=False)
        started = time.monotonic()
        try:
            with Traffic(shop.url, rate=rate) as traffic, dagster:
                client = DagsterClient(dagster.url)
                if _wait_until_loaded(client, dagster, stop):
                    _print_addresses(console, dagster, shop)
                    deadline = None if seconds is None else started + seconds
                    _watch(shop, traffic, dagster, client, Display(console), stop, deadline)
                console.print("Stopping ...", highlight=False)
        finally:
            if keep is not None:
                console.print(f"Files are kept in {shop.directory}", highlight=False)


def _require_extra() -> None:
    if importlib.util.find_spec("dagster_webserver") is None:
        raise ConfigError(
            "the package dagster-webserver, which has Dagster's UI, is not installed",
            object="dagster-webserver",
            remedy="pip install 'dbmazz[demo]', or run the demo without the UI: dbmazz demo --headless",
        )


def _wait_until_loaded(client: DagsterClient, dagster: DagsterProcess, stop: threading.Event) -> bool:
    """Wait until Dagster has loaded the definitions; return False if `stop` is set before."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not stop.wait(0.2):
        dagster.check()
        try:
            client.check_loaded()
        except LoadFailed as error:
            raise dagster.failure(f"Dagster cannot load the demo's definitions: {error}") from error
        except NotReady as error:
            if time.monotonic() > deadline:
                raise dagster.failure(f"Dagster has not started after {_START_TIMEOUT_S:.0f} s: {error}") from error
        else:
            return True
    return False


def _print_addresses(console: Console, dagster: DagsterProcess, shop: RunningShop) -> None:
    console.print(f"\nDagster's UI:  [bold]{dagster.url}/asset-groups[/]", highlight=False)
    console.print(f"DuckDB file:   {shop.destination}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C stops everything. Rows in PostgreSQL and DuckDB:\n", highlight=False)


def _watch(
    shop: RunningShop,
    traffic: Traffic,
    dagster: DagsterProcess,
    client: DagsterClient,
    display: Display,
    stop: threading.Event,
    deadline: float | None,
) -> None:
    observed, phases = DagsterState(), _WorkloadPhases()
    with display, psycopg.connect(shop.url, autocommit=True, application_name="demo status") as connection:
        while not stop.wait(_POLL_S) and (deadline is None or time.monotonic() < deadline):
            dagster.check()
            if traffic.error is not None:
                raise DbmazzError(
                    f"the workload of the demo failed: {traffic.error}",
                    object="traffic",
                    remedy="run the demo again; if the error repeats, please report it",
                )
            # Dagster may not answer on a busy machine: the last known state is shown then.
            with contextlib.suppress(NotReady):
                observed = client.state()
            rows, lag = count_rows(connection), _lag(connection, shop.settings.source.slot)
            traffic.paused = phases.paused(caught_up=rows == observed.rows)
            display.show(State(rows, observed, lag, traffic.transactions, traffic.paused))


class _WorkloadPhases:
    """The workload runs and pauses by turns, so that the capture is seen to catch up."""

    def __init__(self) -> None:
        self._paused = False
        self._until = time.monotonic() + _WORK_S

    def paused(self, *, caught_up: bool) -> bool:
        """Return whether the workload is to pause now, given whether source and destination have equal row counts."""
        now = time.monotonic()
        if self._paused and caught_up:
            self._until = min(self._until, now + _PAUSE_CAUGHT_UP_S)
        if now >= self._until:
            self._paused = not self._paused
            self._until = now + (_MAX_PAUSE_S if self._paused else _WORK_S)
        return self._paused


def _lag(connection: Connection, slot: str) -> int | None:
    row = connection.execute(_LAG, (slot,)).fetchone()
    return None if row is None else row[0]
