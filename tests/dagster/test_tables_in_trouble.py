"""Tables in trouble: the run succeeds, and the table's check fails with the reason."""

from __future__ import annotations

import dagster as dg

from tests.dagster.conftest import Shop, key

CUSTOMERS, ORDERS = key("public", "customers"), key("public", "orders")
TROUBLE = "INSERT INTO orders VALUES (1000, 1, 'NaN', 'bad'); INSERT INTO customers VALUES (1000, 'good')"


def checks(result: dg.ExecuteInProcessResult) -> dict[dg.AssetKey, dg.AssetCheckEvaluation]:
    return {found.asset_key: found for found in result.get_asset_check_evaluations()}


def test_a_table_fails_and_comes_back(captured: Shop) -> None:
    assert not checks(captured.run())
    captured.database.execute(TROUBLE)
    result = captured.run()
    assert result.success
    assert CUSTOMERS in captured.materializations(result)
    assert ORDERS not in captured.materializations(result)
    failed = checks(result)[ORDERS]
    assert (failed.check_name, failed.passed, failed.severity) == ("is_streaming", False, dg.AssetCheckSeverity.ERROR)
    assert "NaN" in (failed.description or "")
    assert {"state", "since", "rows_as_of_lsn", "error", "reason", "remedy"} <= failed.metadata.keys()
    assert "public.orders is failed" in captured.log(result.run_id)
    observation = captured.instance.fetch_observations(ORDERS, 1).records[0].asset_observation
    assert observation is not None
    assert observation.metadata["error"].value == "BadValue"

    captured.database.execute("DELETE FROM orders WHERE id = 1000")
    result = captured.run(config={"resnapshot_tables": ["public.orders"]})
    assert checks(result)[ORDERS].passed
    assert captured.materializations(result)[ORDERS]["state"] == "streaming"
    captured.equal()
    assert not checks(captured.run())


def test_pause_and_resume_from_the_launchpad(captured: Shop) -> None:
    captured.database.execute("INSERT INTO orders VALUES (11, 1, 5, 'new')")
    result = captured.run(config={"pause_tables": ["public.orders"]})
    paused = checks(result)[ORDERS]
    assert (paused.passed, paused.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert ORDERS not in captured.materializations(result)
    result = captured.run(config={"resume_tables": ["public.orders"]})
    assert checks(result)[ORDERS].passed
    captured.equal()
