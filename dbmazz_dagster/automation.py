"""When assets that are computed from captured tables are computed again."""

from __future__ import annotations

import dagster as dg


def follow_changes() -> dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]:
    """Return the condition of an asset that is computed again whenever captured tables that it depends on have changed.

        @dg.asset(deps=[dg.AssetKey(["public", "orders"])], automation_condition=follow_changes())
        def daily_revenue() -> None: ...

    Windows may follow each other without a pause. `AutomationCondition.eager()` waits for a moment without a running
    window, and loses a change that is committed while the asset is computed (dagster-io/dagster#33587); this condition
    does neither.
    """
    changed = dg.AutomationCondition.newly_missing() | dg.AutomationCondition.any_deps_updated()
    return (
        changed.since(dg.AutomationCondition.newly_requested() & ~changed)
        & ~dg.AutomationCondition.any_deps_missing()
        & ~dg.AutomationCondition.in_progress()
    ).with_label("follow_changes")
