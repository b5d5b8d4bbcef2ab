"""Definitions of the capture that the environment configures; `workspace.yaml` loads this module.

SOURCE_URL and TABLES are required; all other settings of the `dbmazz` command work too. Further variables:
DBMAZZ_SENSOR (running or stopped), DBMAZZ_SENSOR_INTERVAL_S (seconds), DBMAZZ_SCHEDULE_MINUTES, and
DBMAZZ_RESOLVE_TABLES (true or false); see `build_definitions`.
"""

from __future__ import annotations

from dbmazz_dagster.build import build_definitions

defs = build_definitions()
