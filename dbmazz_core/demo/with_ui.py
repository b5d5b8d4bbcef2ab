"""The demo with Dagster's UI: start everything, show how it goes, stop everything."""

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

#: The traffic works for so long, then rests until both sides have met, and so that one can see it; in seconds.
_WORK_S, _REST_AT_MOST_S, _MET_S = 40.0, 60.0, 5.0
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

    Parameters:
        seconds: Ends it by itself after so many seconds; None for never.
        port: Of the UI; None for 3000 or a free one.
        rate: Transactions a second.
        keep: Where to keep the DuckDB file, Dagster's home and the logs.
        stop: Ends it.
        console: Where to say how it goes.

    Raises:
        ConfigError: The extra `demo` is missing, the port is taken, or `keep` is in use.
        DbmazzError: A part of the demo does not start, or ended by itself.
    """
    _require_extra()
    console.print("Starting PostgreSQL ...", highlight=False)
    with running_shop(keep) as shop:
        dagster = DagsterProcess(shop.directory, shop.environment, port=port, remove=None if keep else shop.directory)
        console.print(f"PostgreSQL {shop.postgres_version} is up. Starting Dagster ...", highlight=False)
        started = time.monotonic()
        try:
            with Traffic(shop.url, rate=rate) as traffic, dagster:
                client = DagsterClient(dagster.url)
                if _wait_until_loaded(client, dagster, stop):
                    _introduce(console, dagster, shop)
                    deadline = None if seconds is None else started + seconds
                    _watch(shop, traffic, dagster, client, Display(console), stop, deadline)
                console.print("Stopping ...", highlight=False)
        finally:
            if keep is not None:
                console.print(f"Kept in {shop.directory}", highlight=False)


def _require_extra() -> None:
    if importlib.util.find_spec("dagster_webserver") is None:
        raise ConfigError(
            "the demo shows Dagster's UI, and the package dagster-webserver is not installed",
            object="dagster-webserver",
            remedy="pip install 'dbmazz[demo]', or do without a UI: dbmazz demo --headless",
        )


def _wait_until_loaded(client: DagsterClient, dagster: DagsterProcess, stop: threading.Event) -> bool:
    """Wait until the UI can show the definitions; False when asked to stop before."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not stop.wait(0.2):
        dagster.check()
        try:
            client.check_loaded()
        except LoadFailed as error:
            raise dagster.failure(f"Dagster cannot load the demo's definitions: {error}") from error
        except NotReady as error:
            if time.monotonic() > deadline:
                raise dagster.failure(f"Dagster is not up after {_START_TIMEOUT_S:.0f} s: {error}") from error
        else:
            return True
    return False


def _introduce(console: Console, dagster: DagsterProcess, shop: RunningShop) -> None:
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
    observed, rhythm = DagsterState(), _Rhythm()
    with display, psycopg.connect(shop.url, autocommit=True, application_name="demo status") as connection:
        while not stop.wait(_POLL_S) and (deadline is None or time.monotonic() < deadline):
            dagster.check()
            if traffic.error is not None:
                raise DbmazzError(
                    f"the demo's traffic failed: {traffic.error}",
                    object="traffic",
                    remedy="run the demo again; if it happens again, please report this",
                )
            # On a busy machine: what was seen last is shown until it answers.
            with contextlib.suppress(NotReady):
                observed = client.state()
            rows, lag = count_rows(connection), _lag(connection, shop.settings.source.slot)
            traffic.paused = rhythm.paused(met=rows == observed.rows)
            display.show(State(rows, observed, lag, traffic.transactions, traffic.paused))


class _Rhythm:
    """Work and rest in turn."""

    def __init__(self) -> None:
        self._resting = False
        self._until = time.monotonic() + _WORK_S

    def paused(self, *, met: bool) -> bool:
        """Whether to rest now, given whether source and destination have met."""
        now = time.monotonic()
        if self._resting and met:
            self._until = min(self._until, now + _MET_S)
        if now >= self._until:
            self._resting = not self._resting
            self._until = now + (_REST_AT_MOST_S if self._resting else _WORK_S)
        return self._resting


def _lag(connection: Connection, slot: str) -> int | None:
    row = connection.execute(_LAG, (slot,)).fetchone()
    return None if row is None else row[0]
