"""Make the screenshots of the README again: `python -m tests.demo.take_screenshots`; takes six minutes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psycopg

from dbmazz_core.demo.dagster_client import DagsterClient
from dbmazz_core.demo.shop import TABLES
from tests.demo.browser import browser
from tests.demo.pages import failed_table, lineage, plots, runs, sensor
from tests.demo.processes import Demo, running_demo
from tests.demo.runs_in_ui import launch, wait_until_quiet

_IMAGES = Path(__file__).parents[2] / "docs" / "images"
#: By name: the page, and how many pixels high it is.
_PAGES = {
    "sensor": (sensor, 900),
    "runs": (runs, 900),
    "lag-plot": (plots, 960),
    "asset-graph": (lineage, 900),
    "failed-table": (failed_table, 900),
}
#: Until the plots have something to show.
_WARM_UP_S = 300
_CHECKS = [(["public", table.name], "key_is_unique") for table in TABLES] + [(["dbmazz", "shop"], "slot_health")]

#: Longer than the automation takes to ask for a run.
_QUIET_S = 20

_SENSOR = """{ sensorOrError(sensorSelector: {sensorName: "dbmazz_sensor", repositoryName: "__repository__",
    repositoryLocationName: "dbmazz_dagster.demo"}) { ... on Sensor { id } } }"""
_STOP = "mutation ($id: String!) { stopSensor(id: $id) { __typename } }"


def main() -> None:
    """Run the demo for some minutes and photograph it; the asset graph at rest, with all checks passed."""
    with tempfile.TemporaryDirectory() as directory, running_demo(Path(directory)) as demo:
        client = DagsterClient(demo.url())
        time.sleep(_WARM_UP_S)
        _IMAGES.mkdir(parents=True, exist_ok=True)
        for name, (page, height) in _PAGES.items():
            if page is lineage:
                _stop_sensor(client)
                wait_until_quiet(client, _QUIET_S)
                _run_checks(client)
            if page is failed_table:
                _make_trouble(demo, client)
            with browser(Path(directory) / name, height=height) as window:
                page(window, demo.url())
                window.screenshot(_IMAGES / f"{name}.png")


def _stop_sensor(client: DagsterClient) -> None:
    sensor_id = client.query(_SENSOR)["sensorOrError"]["id"]
    client.query(_STOP, id=sensor_id)


def _make_trouble(demo: Demo, client: DagsterClient) -> None:
    """Write a value that DuckDB cannot hold, and run a window."""
    environments = (Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid, _ in demo.processes())
    variables = (line.decode().split("=", 1) for lines in environments for line in lines if b"=" in line)
    url = next(value for name, value in variables if name == "SOURCE_URL")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE order_items SET unit_price = 'NaN' WHERE id = (SELECT max(id) FROM order_items)")
    selector = {
        "repositoryLocationName": "dbmazz_dagster.demo",
        "repositoryName": "__repository__",
        "pipelineName": "dbmazz_capture",
    }
    launch(client, selector, 120)


def _run_checks(client: DagsterClient) -> None:
    selector = {
        "repositoryLocationName": "dbmazz_dagster.demo",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [],
        "assetCheckSelection": [{"assetKey": {"path": path}, "name": name} for path, name in _CHECKS],
    }
    launch(client, selector, 60)


if __name__ == "__main__":
    main()
