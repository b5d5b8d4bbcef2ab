"""Pages of Dagster's UI that show the demo, ready to look at."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from tests.demo.browser import Browser

_GROUPS = ("shop_source", "shop", "analytics")
#: What moves after the last text has come.
_SETTLE_S = 2.0


def lineage(window: Browser, url: str, groups: Sequence[str] = _GROUPS) -> None:
    """The asset graph, all groups expanded: source tables, captured tables, revenue."""
    window.open(f"{url}/asset-groups?expanded=" + ",".join(f"global%40global%3A{group}" for group in groups))
    window.wait_for("order_items", "daily_revenue", "Materialized")
    window.wait_until_gone("Loading")
    time.sleep(_SETTLE_S)


def plots(window: Browser, url: str, asset: str = "public/orders", first: str = "dagster/row_count") -> None:
    """The plots of an asset, by default a captured table, those from one on and of the lag in sight."""
    window.open(f"{url}/assets/{asset}?view=overview")
    window.wait_for("Metadata", "Plots")
    window.run("[...document.querySelectorAll('button')].find(b => b.innerText == 'Plots').click()")
    window.wait_for(first, "lag_bytes", "lag_seconds")
    # To the row of plots with this heading; the page's own heading covers what scrolls under it.
    window.run(
        f"""
        const headings = [...document.querySelectorAll('div')].filter(d => d.innerText == {json.dumps(first)});
        headings.at(-1).scrollIntoView({{block: 'start'}});
        """
    )
    time.sleep(_SETTLE_S)


def runs(window: Browser, url: str) -> None:
    """The list of runs."""
    window.open(f"{url}/runs")
    window.wait_for("dbmazz_capture", "dbmazz_sensor", "Success")
    time.sleep(_SETTLE_S)


def failed_table(window: Browser, url: str) -> None:
    """The checks of a table in trouble, with the reason."""
    window.open(f"{url}/assets/public/order_items?view=checks&checkDetail=is_streaming")
    window.wait_for("is_streaming", "Failed", "rows_as_of_lsn", "remedy")
    time.sleep(_SETTLE_S)


def sensor(window: Browser, url: str) -> None:
    """The sensor with its ticks and its cursor."""
    window.open(f"{url}/locations/dbmazz_dagster.demo/sensors/dbmazz_sensor")
    window.wait_for("confirmed_lsn", "dbmazz_capture", "Latest tick")
    time.sleep(_SETTLE_S)
