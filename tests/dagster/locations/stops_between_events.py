"""A capture that stops behind its window, after TEST_EVENTS events, for as long as the file TEST_STOPPED exists."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

import os
import time
from pathlib import Path
from typing import Any

import dagster as dg

from dbmazz_dagster import DbmazzResource, dbmazz_assets

shop = DbmazzResource.from_env()


@dbmazz_assets(shop)
def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
    stopped = Path(os.environ["TEST_STOPPED"])
    for number, event in enumerate(dbmazz.capture(context)):
        if number == int(os.environ["TEST_EVENTS"]):
            stopped.touch()
            while stopped.exists():
                time.sleep(0.05)
        yield event


defs = dg.Definitions(
    assets=[tables],
    jobs=[dg.define_asset_job("stopping", executor_def=dg.in_process_executor, tags=shop.run_tags)],
    resources={"dbmazz": shop},
)
