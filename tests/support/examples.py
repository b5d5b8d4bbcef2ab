"""How many examples the property tests try: `make soak` tries ten times as many (`DBMAZZ_TEST_EXAMPLES=10`)."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_FACTOR = float(os.environ.get("DBMAZZ_TEST_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """Settings of hypothesis for a test that tries so many examples in `make test`."""
    return settings(max_examples=int(count * _FACTOR), deadline=None, suppress_health_check=list(HealthCheck))
