"""Benchmark of runs in Dagster: what a window costs beside a run that does nothing."""

from benchmarks.dagster_runs.measure import measure_dagster_runs

__all__ = ["measure_dagster_runs"]
