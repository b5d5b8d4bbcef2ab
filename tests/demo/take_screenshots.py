"""Make the screenshots of the README again: `python -m tests.demo.take_screenshots`; takes six minutes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from dbmazz_core.demo.observe import DagsterClient
from dbmazz_core.demo.shop import TABLES
from tests.demo.browser import browser
from tests.demo.pages import lineage, plots, runs, sensor
from tests.demo.processes import Demo, running_demo, until

_IMAGES = Path(__file__).parents[2] / "docs" / "images"
_PAGES = {"asset-graph": lineage, "lag-plot": plots, "runs": runs, "sensor": sensor}
#: Until the plots have something to show.
_WARM_UP_S = 300
_CHECKS = [(["public", table.name], "key_is_unique") for table in TABLES] + [(["dbmazz", "shop"], "slot_health")]

_LAUNCH = """mutation ($params: ExecutionParams!) {
    launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
_STATUS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""


def main() -> None:
    """Run the demo for some minutes and photograph it in a lull, all checks passed."""
    with tempfile.TemporaryDirectory() as directory, running_demo(Path(directory)) as demo:
        client = DagsterClient(demo.url())
        time.sleep(_WARM_UP_S)
        _wait_for_lull(demo)
        _run_checks(client)
        _IMAGES.mkdir(parents=True, exist_ok=True)
        for name, page in _PAGES.items():
            with browser(Path(directory) / name) as window:
                page(window, demo.url())
                window.screenshot(_IMAGES / f"{name}.png")


def _wait_for_lull(demo: Demo) -> None:
    def lull() -> bool:
        return demo.text().splitlines()[-1].endswith("(a lull)")

    until(lambda: not lull(), 120, demo.text)
    until(lull, 120, demo.text)


def _run_checks(client: DagsterClient) -> None:
    selector = {
        "repositoryLocationName": "dbmazz_dagster.demo",
        "repositoryName": "__repository__",
        "pipelineName": "__ASSET_JOB",
        "assetSelection": [],
        "assetCheckSelection": [{"assetKey": {"path": path}, "name": name} for path, name in _CHECKS],
    }
    launched = client.query(_LAUNCH, params={"selector": selector, "mode": "default"})["launchPipelineExecution"]
    run = launched["run"]["runId"]
    until(lambda: client.query(_STATUS, id=run)["runOrError"]["status"] == "SUCCESS", 60, lambda: str(launched))


if __name__ == "__main__":
    main()
