"""The whole demo: PostgreSQL, traffic, Dagster with its daemon, and its pages in a real browser."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import duckdb
import pytest

from dbmazz_core.cli import main
from dbmazz_core.demo.dagster_client import DagsterClient
from tests.demo.browser import browser
from tests.demo.pages import lineage, plots, runs, sensor
from tests.demo.processes import alive, running_demo, until


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_captures_refreshes_shows_and_stops(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with running_demo(tmp_path, "--keep", str(kept)) as demo:
        url = demo.url()
        client = DagsterClient(url)
        until(lambda: client.state().captures >= 2, 90, demo.text)
        until(lambda: client.state().revenue_at is not None, 120, demo.text)
        with browser(tmp_path / "profile") as window:
            for page in (lineage, plots, runs, sensor):
                page(window, url)
                window.screenshot(tmp_path / f"{page.__name__}.png")
        demo.wait_for(r"customers [\d,]+ [=>] [\d,]+ \| orders .* \| lag \d")
        assert client.state().failures == 0
        assert demo.ends(signal.SIGINT, within=10) == 0
    with duckdb.connect(str(kept / "shop.duckdb"), read_only=True) as connection:
        days = connection.execute("SELECT count(*), min(revenue) FROM analytics.daily_revenue").fetchall()
    assert days[0][0] > 10
    assert days[0][1] > 0


@pytest.mark.browser
def test_sigterm_while_starting(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        until(lambda: demo.runs("dagster_webserver") and demo.runs("dagster._daemon"), 60, demo.text)
        assert demo.ends(signal.SIGTERM, within=10) == 0


@pytest.mark.browser
def test_kill_9_takes_dagster_along(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        until(lambda: demo.runs("dagster_webserver") and demo.runs("dagster._daemon"), 60, demo.text)
        processes = demo.processes()
        demo.process.kill()
        until(lambda: not alive(processes), 15, lambda: str(alive(processes)))


def test_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["demo", "--port", port]) == 2
    assert f"port {port} is taken" in capsys.readouterr().err
