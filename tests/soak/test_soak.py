"""Generated workloads against the oracle, for a while.

Half of the time tables keep their schema, and are compared after every window; half of it they change that too.
`SOAK_SECONDS` says for how long (40; `make soak` runs for an hour), `SOAK_BEGIN` with which seed it begins (`make test`
always with the same one), `SOAK_SEED` repeats one round, `SOAK_DDL=0` or `1` runs one half only. A failure names its
seed, and tells the SQL of the smallest program that was found to fail.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.soak.program import Program, programs
from tests.soak.rounds import in_a_lab, one_round
from tests.soak.run import Run
from tests.soak.tally import Tally

SECONDS = float(os.environ.get("SOAK_SECONDS", "40"))
#: Whether tables change their schema, by half.
HALVES = {"0": [False], "1": [True]}.get(os.environ.get("SOAK_DDL", ""), [False, True])


def run_program(server: EmbeddedPostgres, program: Program, ddl: bool, tally: Tally) -> None:
    """In a database of its own, into a file of its own; a failure has the history with it."""
    history: list[str] = []
    in_a_lab(server, lambda lab: Run(lab, ddl, tally, history).run(program), lambda: history)


@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("ddl", HALVES, ids=lambda ddl: "schemas change" if ddl else "schemas stay")
def test_generated_workloads(server: EmbeddedPostgres, ddl: bool) -> None:
    tally = Tally()
    repeated = os.environ.get("SOAK_SEED")
    deadline = float("inf") if repeated else time.monotonic() + SECONDS / len(HALVES)
    begin = os.environ.get("SOAK_BEGIN")
    seed = int(repeated or begin or random.SystemRandom().randrange(1 << 32))
    try:
        while True:
            try:
                one_round(programs(ddl=ddl), seed, deadline, lambda p: run_program(server, p, ddl, tally))()
            except BaseException as error:
                error.add_note(f"to repeat it: make soak SEED={seed} DDL={int(ddl)}")
                raise
            if repeated or time.monotonic() > deadline:
                break
            seed += 1
    finally:
        print(f"soak, PostgreSQL {server.version}, last seed {seed}: {tally}")  # noqa: T201
    assert tally.comparisons > 0
    assert tally.refused < tally.statements / 4, "the generator mostly makes statements that PostgreSQL refuses"
