"""Dagster integration of dbmazz: captured PostgreSQL tables as assets, updated by bounded capture windows.

`__all__` is the public API.

>>> shop = DbmazzResource(source_url="postgres://localhost/shop", tables="orders")
>>> [spec.key.to_user_string() for spec in build_source_asset_specs(shop)]
['postgres/public/orders']
"""

from __future__ import annotations

from dbmazz_dagster.assets import build_source_asset_specs, dbmazz_assets
from dbmazz_dagster.automation import follow_changes
from dbmazz_dagster.build import build_definitions
from dbmazz_dagster.checks import build_dbmazz_checks
from dbmazz_dagster.io_manager import DbmazzIOManager
from dbmazz_dagster.reader import DbmazzReader
from dbmazz_dagster.resource import DbmazzResource
from dbmazz_dagster.run_config import DbmazzConfig
from dbmazz_dagster.sensor import build_dbmazz_sensor
from dbmazz_dagster.translator import DagsterDbmazzTranslator, DbmazzTableProps

__all__ = [
    "DagsterDbmazzTranslator",
    "DbmazzConfig",
    "DbmazzIOManager",
    "DbmazzReader",
    "DbmazzResource",
    "DbmazzTableProps",
    "build_dbmazz_checks",
    "build_dbmazz_sensor",
    "build_definitions",
    "build_source_asset_specs",
    "dbmazz_assets",
    "follow_changes",
]
