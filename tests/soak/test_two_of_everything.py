"""Two captures at once, in every way in which that happens: the one or the other may be refused, neither may be wrong.

`SOAK_ROUNDS` says how often (4, one of each kind but Dagster; `make soak`: 200), `SOAK_SEED` with which seed they
begin, `SOAK_KIND` which kind alone is run. A failure names its seed and kind.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.soak.two import KINDS, judge, run_together, scenario
from tests.support.lab import Lab
from tests.support.postgres_fixtures import create_database, drop_database

ROUNDS = int(os.environ.get("SOAK_ROUNDS") or len(KINDS) - 1)


@pytest.mark.timeout(60 * ROUNDS + 300)
def test_two_captures_started_together(server: EmbeddedPostgres) -> None:
    chosen = os.environ.get("SOAK_KIND")
    kinds = [chosen] if chosen else list(KINDS)
    begin = int(os.environ.get("SOAK_SEED") or os.environ.get("SOAK_BEGIN") or random.SystemRandom().randrange(1 << 32))
    ended: Counter[str] = Counter()
    failed: list[Exception | AssertionError] = []
    for number in range(ROUNDS):
        kind, seed = kinds[number % len(kinds)], begin + number
        database = create_database(server)
        with tempfile.TemporaryDirectory(prefix="dbmazz-two-") as directory:
            try:
                lab = Lab(database, Path(directory) / "destination.duckdb")
                first, second, writer = scenario(kind, lab, Path(directory))
                began = writer.batches[-1].after
                outcomes = run_together((first, second), writer, random.Random(seed))
                ended[f"{kind}: {', '.join(sorted(o.error or 'caught up' for o in outcomes))}"] += 1
                for side, outcome in zip((first, second), outcomes, strict=True):
                    judge(side, outcome, writer, began)
                if kind != "two new files":
                    assert any(outcome.code == 0 for outcome in outcomes), [o.said for o in outcomes]
            except Exception as error:  # noqa: BLE001 - all rounds are run, to tell how many failed
                error.add_note(f'to repeat it: SOAK_KIND="{kind}" SOAK_SEED={seed} SOAK_ROUNDS=1')
                failed.append(error)
            finally:
                drop_database(database)
    print(f"two of everything, {ROUNDS} rounds, {len(failed)} failed: {dict(ended)}")  # noqa: T201
    if failed:
        failed[0].add_note(f"{len(failed)} of {ROUNDS} rounds failed")
        raise failed[0]
