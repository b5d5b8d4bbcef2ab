"""Definitions configured from the environment; `workspace.yaml` loads them.

SOURCE_URL and TABLES are required, every other setting of the `dbmazz` command works too. Besides:
DBMAZZ_SENSOR (running or stopped), DBMAZZ_SENSOR_INTERVAL_S, DBMAZZ_SCHEDULE_MINUTES, DBMAZZ_RESOLVE_TABLES.
"""

from __future__ import annotations

from dbmazz_dagster.build import build_definitions

defs = build_definitions()
