"""A code location without dbmazz, with a job that does nothing."""

from __future__ import annotations

import dagster as dg


@dg.op
def nothing() -> None:
    """Do nothing."""


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    """Run an operation that does nothing."""
    nothing()


defs = dg.Definitions(jobs=[empty])
