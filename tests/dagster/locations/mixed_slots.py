"""Assets of one slot, and a resource of another: TEST_OTHER_SLOT."""

# No postponed annotations here: Dagster reads the annotation of `context` as an object.

import os
from typing import Any

import dagster as dg

from dbmazz_dagster import DbmazzResource, dbmazz_assets

shop = DbmazzResource.from_env()
other = DbmazzResource.from_env().model_copy(update={"slot": os.environ["TEST_OTHER_SLOT"]})


@dbmazz_assets(other)
def tables(context: dg.AssetExecutionContext, dbmazz: DbmazzResource) -> Any:
    yield from dbmazz.capture(context)


defs = dg.Definitions(
    assets=[tables],
    jobs=[dg.define_asset_job("mixed", executor_def=dg.in_process_executor)],
    resources={"dbmazz": shop},
)
