"""Launch runs through Dagster's web server, and wait for them."""

from __future__ import annotations

import time

from dbmazz_core.demo.dagster_client import DagsterClient
from tests.demo.processes import until

_UNFINISHED = """{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED]}) {
    ... on Runs { count } } }"""
_LAUNCH = """mutation ($params: ExecutionParams!) {
    launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } } }"""
_STATUS = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"""


def wait_until_quiet(client: DagsterClient, seconds: float) -> None:
    """Wait until no run was unfinished for this many seconds."""
    quiet_since = time.monotonic()
    while time.monotonic() < quiet_since + seconds:
        if client.query(_UNFINISHED)["runsOrError"]["count"]:
            quiet_since = time.monotonic()
        time.sleep(1)


def launch(client: DagsterClient, selector: dict[str, object], seconds: float) -> None:
    """Run a job, and wait until it has succeeded."""
    launched = client.query(_LAUNCH, params={"selector": selector, "mode": "default"})["launchPipelineExecution"]
    run = launched["run"]["runId"]
    until(lambda: client.query(_STATUS, id=run)["runOrError"]["status"] == "SUCCESS", seconds, lambda: str(launched))
