"""Make the screenshots of `examples/shop` again: `python -m tests.examples.take_screenshots`; takes nine minutes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from dbmazz_core.demo.dagster_client import DagsterClient, NotReady
from dbmazz_core.demo.dagster_process import DagsterProcess
from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.demo.browser import Browser, browser
from tests.demo.pages import lineage, plots
from tests.demo.processes import until
from tests.demo.runs_in_ui import launch, wait_until_quiet
from tests.examples.conftest import EXAMPLES, SHOP_SQL

_PROJECT = EXAMPLES / "shop"
_IMAGES = EXAMPLES.parent / "docs" / "images"
_LOCATION = {"repositoryLocationName": "shop.definitions", "repositoryName": "__repository__"}
#: By name: the page, and how many pixels high it is.
_PAGES: dict[str, tuple[Callable[[Browser, str], None], int]] = {
    "shop-asset-graph": (partial(lineage, groups=("shop_source", "shop", "marts")), 2330),
    "shop-table": (plots, 960),
    "shop-checkpoint": (partial(plots, asset="dbmazz/shop", first="changes"), 1200),
}
#: Until the plots have something to show.
_TRAFFIC_S = 300
#: Two ticks of the sensors.
_QUIET_S = 75

_CHECKS = """{ assetNodes { assetKey { path } assetChecksOrError { ... on AssetChecks {
    checks { name executionForLatestMaterialization { status } } } } } }"""


def main() -> None:
    """Run the project beside its traffic for some minutes, and photograph it at rest, with all checks evaluated."""
    # The processes of Dagster get the path of this one. Dagster takes the first entry for the directory of a script.
    sys.path.append(str(_PROJECT))
    with tempfile.TemporaryDirectory() as directory, EmbeddedPostgres() as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        url = server.url("shop")
        with psycopg.connect(url) as connection:
            for path in SHOP_SQL:
                connection.execute(path.read_text().encode())
        with DagsterProcess(Path(directory), {"SOURCE_URL": url}, module="shop.definitions", port=0) as dagster:
            client = DagsterClient(dagster.url)
            until(lambda: _checks(client), 90, dagster.log.read_text)
            _run_traffic(url)
            wait_until_quiet(client, _QUIET_S)
            _evaluate_checks(client)
            for name, (page, height) in _PAGES.items():
                with browser(Path(directory) / name, height=height) as window:
                    page(window, dagster.url)
                    window.screenshot(_IMAGES / f"{name}.png")


def _run_traffic(url: str) -> None:
    traffic = subprocess.Popen(
        [sys.executable, "-m", "shop.traffic"],
        env={**os.environ, "SOURCE_URL": url, "PYTHONPATH": str(_PROJECT)},
    )
    try:
        time.sleep(_TRAFFIC_S)
        assert traffic.poll() is None, "the traffic has ended"
    finally:
        traffic.kill()
        traffic.wait()


def _checks(client: DagsterClient) -> list[dict[str, Any]]:
    """All assets with their checks; empty while Dagster is loading."""
    with suppress(NotReady):
        nodes: list[dict[str, Any]] = client.query(_CHECKS)["assetNodes"]
        return nodes
    return []


def _evaluate_checks(client: DagsterClient) -> None:
    """Run the checks that no run has evaluated since the last materialization."""
    selection = [
        {"assetKey": node["assetKey"], "name": check["name"]}
        for node in _checks(client)
        for check in node["assetChecksOrError"].get("checks", ())
        if check["executionForLatestMaterialization"] is None
    ]
    if selection:
        launch(
            client,
            {**_LOCATION, "pipelineName": "__ASSET_JOB", "assetSelection": [], "assetCheckSelection": selection},
            120,
        )


if __name__ == "__main__":
    main()
