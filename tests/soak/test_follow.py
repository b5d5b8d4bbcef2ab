"""Generated workloads and schema changes while `follow` runs, and is killed; with the settings of `test_soak.py`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.errors import SchemaChanged
from dbmazz_core.settings.config import FlushConfig
from tests.soak.program import Capture, Copy, Kill, Program, programs
from tests.soak.rounds import in_a_lab, one_round
from tests.soak.run import Run
from tests.soak.tally import Tally
from tests.soak.test_soak import HALVES, SECONDS
from tests.support.following import Follower


@dataclass(slots=True)
class FollowedRun(Run):
    """A program's run beside `follow`: it catches up where the program has a window, and is killed where one is."""

    def _run_steps(self, program: Program) -> None:
        follower = self._follow()
        try:
            follower.wait(lambda: follower.streams)  # before a table of the settings is renamed
            for step in program.steps:
                match step:
                    case Capture():
                        follower = self._unless_stopped(follower, follower.catch_up)
                    case Kill():
                        self.tally.kills += 1
                        self._say(str(step))
                        follower.kill()
                        self._compare()
                        follower = self._follow(size=step.flush_size)
                    case Copy():
                        pass  # it needs the slot
                    case _:
                        self._step(step)
            follower = self._unless_stopped(follower, follower.catch_up)
            self.tally.changes += follower.status.changes
            follower.end()
            self._compare()
        finally:
            follower.end(check=False)
        self._bring_back()
        self._capture(Capture(), pauses=False)
        if self._bring_back():  # a table has failed in this window
            self._capture(Capture(), pauses=False)

    def _follow(self, *, size: int = 1000) -> Follower:
        self._say("follow")
        # A copy waits for open transactions.
        self._end_sessions(everything=True)
        flush = FlushConfig(size=size, max_bytes=1 << 16, idle_wal_bytes=1)
        return Follower(self.lab.configured(flush=flush), interval_ms=20, look_interval_s=0.5)

    def _unless_stopped(self, follower: Follower, catch_up: Callable[[], None]) -> Follower:
        """Catch up; after a schema change that must not be, copy its table and follow again."""
        self._end_sessions(everything=True)
        self.tally.windows += 1
        try:
            catch_up()
        except SchemaChanged as error:
            if not self.ddl:
                raise
            follower.end(check=False)
            self._compare()
            self._copy_tables(str(error.object))
            follower = self._follow()
            return self._unless_stopped(follower, follower.catch_up)
        return follower


def run_program(server: EmbeddedPostgres, program: Program, ddl: bool, tally: Tally) -> None:
    """In a database of its own, into a file of its own; a failure has the history with it."""
    history: list[str] = []
    in_a_lab(server, lambda lab: FollowedRun(lab, ddl, tally, history).run(program), lambda: history)


@pytest.mark.timeout(SECONDS + 900)
@pytest.mark.parametrize("ddl", HALVES, ids=lambda ddl: "schemas change" if ddl else "schemas stay")
def test_generated_workloads_beside_follow(server: EmbeddedPostgres, ddl: bool) -> None:
    tally = Tally()
    deadline = time.monotonic() + SECONDS / len(HALVES)
    begin = os.environ.get("SOAK_SEED") or os.environ.get("SOAK_BEGIN")
    seed = int(begin or random.SystemRandom().randrange(1 << 32))
    try:
        while True:
            try:
                one_round(programs(ddl=ddl), seed, deadline, lambda p: run_program(server, p, ddl, tally))()
            except BaseException as error:
                error.add_note(f"to repeat it: make soak SEED={seed} DDL={int(ddl)}")
                raise
            if "SOAK_SEED" in os.environ or time.monotonic() > deadline:
                break
            seed += 1
    finally:
        print(f"soak beside follow, PostgreSQL {server.version}, last seed {seed}: {tally}")  # noqa: T201
    assert tally.changes > 0
