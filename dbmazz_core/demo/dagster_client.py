"""A GraphQL client of Dagster's web server, which reads the state of the capture.

The demo does not open the destination for that: a window would find the file locked.
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
#: Number of materializations to read. A window that cannot read the row counts, because another process holds the file,
#: records none; the counts of an earlier window are shown then.
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
    """The state of the capture in Dagster.

    Attributes:
        rows: Rows by table in the destination after the last window that counted them.
        captures: Number of capture runs that succeeded.
        failures: Number of runs that failed.
        captured_at: Last materialization of a table, in seconds since the epoch; None if there is none.
        revenue_at: Last materialization of `daily_revenue`, in seconds since the epoch; None if there is none.
    """

    rows: Mapping[TableRef, int] = field(default_factory=dict)
    captures: int = 0
    failures: int = 0
    captured_at: float | None = None
    revenue_at: float | None = None


class NotReady(Exception):
    """Dagster does not answer yet, or is still loading. Try again."""


class LoadFailed(Exception):
    """Dagster cannot load the definitions. The message has its error."""


class DagsterClient:
    """A client of Dagster's web server.

    Args:
        url: URL of the web server.
    """

    def __init__(self, url: str) -> None:
        self._url = f"{url}/graphql"
        # The server is on this machine: a proxy in the environment is not used.
        self._opener = build_opener(ProxyHandler({}))

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """Send a query and return its data.

        Raises:
            NotReady: The server does not answer, or its answer has errors.
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
        """Check that the definitions are loaded.

        Raises:
            NotReady: The definitions are loading.
            LoadFailed: The definitions cannot be loaded.
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
        """Return the state of assets and runs.

        Raises:
            NotReady: The server does not answer.
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
