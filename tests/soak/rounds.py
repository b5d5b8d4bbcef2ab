"""Rounds of generated programs: one seed each, in a database and a file of their own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dbmazz_core.demo.postgres import EmbeddedPostgres
from tests.support.lab import Lab
from tests.support.postgres_fixtures import create_database, drop_database

_Program = TypeVar("_Program")
#: Programs of one seed. Replaying a failure runs through all of them up to the one that fails.
ROUND = 8
#: How long a failure is made smaller.
REDUCE_S = float(os.environ.get("SOAK_REDUCE_SECONDS", "300"))


def in_a_lab(server: EmbeddedPostgres, run: Callable[[Lab], None], history: Callable[[], list[str]]) -> None:
    """Run something with a database and a file of its own; a failure has the history with it."""
    database = create_database(server)
    with tempfile.TemporaryDirectory(prefix="dbmazz-soak-") as directory:
        try:
            run(Lab(database, Path(directory) / "destination.duckdb"))
        except BaseException as error:
            error.add_note(f"what was done, PostgreSQL {server.version}:\n\n" + "\n".join(history()))
            raise
        finally:
            drop_database(database)


def one_round(
    programs: st.SearchStrategy[_Program], seed: int, deadline: float, run: Callable[[_Program], None]
) -> Callable[[], None]:
    """A hypothesis test of one seed's programs, of which none is begun after the deadline.

    A failure is reduced for `REDUCE_S`, whatever the deadline.
    """
    failed: list[_Program] = []
    end = deadline

    @hypothesis.seed(seed)
    @settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs)
    def check(program: _Program) -> None:
        nonlocal end
        if time.monotonic() > end and program not in failed:
            return
        try:
            run(program)
        except BaseException:
            end = end if failed else time.monotonic() + REDUCE_S
            failed.append(program)
            raise

    return check
