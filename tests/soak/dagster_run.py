"""One run of Dagster's job in this process, with the instance of DAGSTER_HOME: `python -m tests.soak.dagster_run`."""

from __future__ import annotations

import json
import os
import sys

import dagster as dg

from dbmazz_core.settings.config import Settings
from dbmazz_dagster import build_definitions


def main() -> int:
    job = build_definitions(Settings.from_env()).resolve_job_def("dbmazz_capture")
    with dg.DagsterInstance.local_temp(os.environ["DAGSTER_HOME"]) as instance:
        result = job.execute_in_process(instance=instance, raise_on_error=False)
        if result.success:
            print(json.dumps({"success": True}))  # noqa: T201
            return 0
        failures = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_FAILURE]
        data = failures[0].step_failure_data.user_failure_data
        print(json.dumps({"error": data.label if data else None}))  # noqa: T201
        # A failure of ours says what to do; anything else is a bug.
        return 5 if data is not None else 1


if __name__ == "__main__":
    sys.exit(main())
