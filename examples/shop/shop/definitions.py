"""What Dagster loads. It needs no database for that."""

import dagster as dg

from shop import capture, marts

defs = dg.Definitions(
    assets=[capture.shop_tables, *capture.sources, marts.stock_value, marts.daily_revenue, marts.return_rates],
    asset_checks=[*capture.checks, marts.one_row_for_each_day, marts.stock_is_worth_something],
    sensors=[
        capture.sensor,
        # Runs the marts, and their checks, when their tables have changed.
        dg.AutomationConditionSensorDefinition(
            "marts",
            target=dg.AssetSelection.groups("marts"),
            default_status=dg.DefaultSensorStatus.RUNNING,
        ),
    ],
    resources=capture.resources,
    executor=dg.in_process_executor,  # a process for each step would take longer than the steps
)
