"""What Dagster knows of the capture, asked of its web server.

The destination is never opened for it: a window must not find the file locked because somebody looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from dbmazz_core.demo.shop import TABLES
from dbmazz_core.table_ref import TableRef

_TIMEOUT_S = 2.0
#: A window that could not read the row counts (another process had the file just then) records none; then those
#: of the one before are shown.
_MATERIALIZATIONS = 3

REVENUE = ("analytics", "daily_revenue")

_LOCATIONS = """{ workspaceOrError { __typename
    ... on Workspace { locationEntries { loadStatus locationOrLoadError { __typename
        ... on PythonError { message } } } } } }"""

_STATE = """query ($assets: [AssetKeyInput!], $limit: Int!, $capture: RunsFilter!, $failed: RunsFilter!) {
    assetNodes(assetKeys: $assets) { assetKey { path } assetMaterializations(limit: $limit) { timestamp
        metadataEntries { label ... on IntMetadataEntry { intValue } } } }
    captures: runsOrError(filter: $capture) { ... on Runs { count } }
    failures: runsOrError(filter: $failed) { ... on Runs { count } } }"""


@dataclass(frozen=True, slots=True)
class DagsterState:
    """The state of the capture.

    Attributes:
        rows: Rows in the destination after the last window that counted them.
        captures: Capture runs that succeeded.
        failures: Runs that failed.
        captured_at: When a table was last materialized, in seconds since the epoch; None if never.
        revenue_at: When `daily_revenue` was.
    """

    rows: Mapping[TableRef, int] = field(default_factory=dict)
    captures: int = 0
    failures: int = 0
    captured_at: float | None = None
    revenue_at: float | None = None


class NotReady(Exception):
    """Dagster does not answer yet."""


class LoadFailed(Exception):
    """The definitions do not load."""


class DagsterClient:
    """GraphQL of Dagster's web server."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/graphql"
        # Never by way of a proxy that the environment names: it is this machine.
        self._opener = build_opener(ProxyHandler({}))

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query and return its data.

        Raises:
            NotReady: No answer, or one with errors.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as response:
                answer = json.load(response)
        except (URLError, OSError, ValueError) as error:
            raise NotReady(str(error)) from error
        if answer.get("errors"):
            raise NotReady(str(answer["errors"]))
        data: dict[str, Any] = answer["data"]
        return data

    def check_loaded(self) -> None:
        """Return once the definitions are loaded.

        Raises:
            NotReady: They are loading.
            LoadFailed: They cannot be loaded.
        """
        entries = self.query(_LOCATIONS)["workspaceOrError"].get("locationEntries") or []
        for entry in entries:
            loaded = entry["locationOrLoadError"] or {}
            if loaded.get("__typename") == "PythonError":
                raise LoadFailed(loaded["message"])
            if entry["loadStatus"] == "LOADED" and loaded:
                return
        raise NotReady("the definitions are loading")

    def state(self) -> DagsterState:
        """Look at the assets and runs.

        Raises:
            NotReady: No answer.
        """
        assets: dict[tuple[str, ...], TableRef | None] = {(t.schema, t.name): t for t in TABLES}
        data = self.query(
            _STATE,
            assets=[{"path": list(path)} for path in (*assets, REVENUE)],
            limit=_MATERIALIZATIONS,
            capture={"pipelineName": "dbmazz_capture", "statuses": ["SUCCESS"]},
            failed={"statuses": ["FAILURE"]},
        )
        rows: dict[TableRef, int] = {}
        times: dict[tuple[str, ...], float] = {}
        for node in data["assetNodes"]:
            path = tuple(node["assetKey"]["path"])
            events = node["assetMaterializations"]
            if events:
                times[path] = float(events[0]["timestamp"]) / 1000
            table, counts = assets.get(path), [count for event in events if (count := _row_count(event)) is not None]
            if table is not None and counts:
                rows[table] = counts[0]
        return DagsterState(
            rows=rows,
            captures=data["captures"].get("count") or 0,
            failures=data["failures"].get("count") or 0,
            captured_at=max((times[path] for path in assets if path in times), default=None),
            revenue_at=times.get(REVENUE),
        )


def _row_count(event: Mapping[str, Any]) -> int | None:
    values = {entry["label"]: entry.get("intValue") for entry in event["metadataEntries"]}
    return values.get("dagster/row_count")
