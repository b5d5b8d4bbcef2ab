"""Generated DDL that takes names again, against the oracle after every window.

`DEFINITIONS_SECONDS` says for how long (60; `make soak` runs for an hour), `SOAK_BEGIN` with which seed it begins
(`make test` always with the same one), `DEFINITIONS_SEED` repeats one round. A failure names its seed, and tells the
SQL of the smallest program that was found to fail.
"""

from __future__ import annotations

import dataclasses
import os
import random
import time
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import strategies as st

from dbmazz_core.demo.postgres import EmbeddedPostgres
from dbmazz_core.engine.result import StopReason
from dbmazz_core.model.policies import Mode
from dbmazz_core.settings.config import WindowLimits
from tests.soak.definitions import CHANGES
from tests.soak.rounds import in_a_lab, one_round
from tests.soak.world import PUBLICATIONS, SETUP, Connection, World, rows
from tests.support.lab import Lab

SECONDS = float(os.environ.get("DEFINITIONS_SECONDS", "60"))


@dataclass(frozen=True, slots=True)
class Change:
    """A change of definitions, then rows. `a`, `b` and `n` make it a special one."""

    kind: str
    a: int
    b: int
    n: int


@dataclass(frozen=True, slots=True)
class Do:
    """Several changes, each statement a transaction of its own, or all of them one, perhaps in savepoints."""

    changes: tuple[Change, ...]
    how: str


@dataclass(frozen=True, slots=True)
class Window:
    """One window, perhaps ended early."""

    max_changes: int | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """What is published, how tables are kept, and what happens."""

    publication: str
    mode: Mode
    steps: tuple[Do | Window, ...]


@dataclass(slots=True)
class Tally:
    """What was done, for the report at the end."""

    programs: int = 0
    statements: int = 0
    refused: int = 0
    windows: int = 0
    changes: int = 0
    copied_anew: int = 0
    comparisons: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, f.name)} {f.name}" for f in dataclasses.fields(self))


@st.composite
def programs(draw: st.DrawFn, major: int) -> Program:
    """Any program. Each knows some kinds of changes only, so that rare ones meet in a few.

    Args:
        major: Version of PostgreSQL. Publications of schemas came with 15.
    """
    kinds = draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=2, max_size=8, unique=True))
    number = st.integers(0, 11)
    change = st.builds(Change, st.sampled_from(kinds), number, number, number)
    do = st.builds(
        Do,
        st.lists(change, min_size=1, max_size=4).map(tuple),
        st.sampled_from(["each", "each", "together", "savepoints"]),
    )
    window = st.builds(Window, st.none() | st.none() | st.integers(1, 12))
    steps = st.sampled_from([do, do, do, window]).flatmap(lambda step: step)
    return Program(
        publication=draw(st.sampled_from(sorted(PUBLICATIONS.keys() - ({"schemas"} if major < 15 else set())))),
        mode=draw(st.sampled_from([Mode.MIRROR, Mode.MIRROR, Mode.SOFT_DELETE])),
        steps=tuple(step for _ in range(2) for step in draw(st.lists(steps, max_size=14))),
    )


@dataclass(slots=True)
class Run:
    """One program's run. Fails with an AssertionError, or what dbmazz raises; `history` tells the SQL."""

    tally: Tally
    history: list[str] = field(default_factory=list)

    def run(self, lab: Lab, program: Program) -> None:
        """Everything, then catch up and compare."""
        lab = dataclasses.replace(lab.kept(program.mode), tables="public.*,other.*")
        with lab.database.connect() as connection:
            for statement in (SETUP, PUBLICATIONS[program.publication]):
                self._execute(connection, statement)
            for step in (Window(), *program.steps, Window()):
                if isinstance(step, Window):
                    self._window(lab, connection, step)
                else:
                    self._do(connection, step)
        self.tally.programs += 1

    def _do(self, connection: Connection, step: Do) -> None:
        together = step.how != "each"
        if together:
            self._execute(connection, "BEGIN")
        try:
            for change in step.changes:
                self._change(connection, change, step.how)
        except psycopg.Error as error:
            self._refused(error)
            self._execute(connection, "ROLLBACK")
        else:
            if together:
                self._execute(connection, "COMMIT")

    def _change(self, connection: Connection, change: Change, how: str) -> None:
        world = World(connection)
        for statement in CHANGES[change.kind](world, change.a, change.b, change.n):
            self._try(connection, statement, how)
        world = World(connection)
        if world.captured:
            table = world.captured[change.a % len(world.captured)]
            for statement in rows(world, table, change.b, change.n):
                self._try(connection, statement, how)

    def _try(self, connection: Connection, statement: str, how: str) -> None:
        if how == "together":
            self._execute(connection, statement)
            return
        if how == "savepoints":
            self._execute(connection, "SAVEPOINT s")
        try:
            self._execute(connection, statement)
        except psycopg.Error as error:
            self._refused(error)
            if how == "savepoints":
                self._execute(connection, "ROLLBACK TO s")
        if how == "savepoints":
            self._execute(connection, "RELEASE s")

    def _window(self, lab: Lab, connection: Connection, step: Window) -> None:
        self.history.append(f"\n-- {step}")
        result = lab.capture(limits=WindowLimits(max_changes=step.max_changes))
        self.history.append(
            f"--    {result.stop_reason}: {result.changes} changes; {result.schema_changes}; {result.copy_anew}"
        )
        self.tally.windows += 1
        self.tally.changes += result.changes
        self.tally.copied_anew += len(result.copy_anew)
        # Before that, changes that no row has come after are not known yet.
        if result.stop_reason is StopReason.CAUGHT_UP:
            names = [table.name for table in World(connection).captured]
            lab.assert_equal(*names)
            self.tally.comparisons += len(names)

    def _execute(self, connection: Connection, statement: str) -> None:
        if statement:
            self.tally.statements += 1
            self.history.append(f"{statement};")
            connection.execute(statement.encode())

    def _refused(self, error: psycopg.Error) -> None:
        self.tally.refused += 1
        self.history[-1] += f"\n--    refused: {str(error).splitlines()[0]}"


@pytest.mark.timeout(SECONDS + 900)
def test_names_that_are_taken_again(server: EmbeddedPostgres) -> None:
    tally = Tally()
    repeated = os.environ.get("DEFINITIONS_SEED")
    deadline = float("inf") if repeated else time.monotonic() + SECONDS
    seed = int(repeated or os.environ.get("SOAK_BEGIN") or random.SystemRandom().randrange(1 << 32))

    def run_program(program: Program) -> None:
        run = Run(tally)
        in_a_lab(server, lambda lab: run.run(lab, program), lambda: run.history)

    try:
        while True:
            try:
                one_round(programs(server.major), seed, deadline, run_program)()
            except BaseException as error:
                error.add_note(
                    f"to repeat it: DEFINITIONS_SEED={seed} python -m pytest -s tests/soak/test_definitions.py"
                )
                raise
            if repeated or time.monotonic() > deadline:
                break
            seed += 1
    finally:
        print(f"definitions, PostgreSQL {server.version}, last seed {seed}: {tally}")  # noqa: T201
    assert tally.comparisons > 0
    assert tally.refused < tally.statements / 3, "the generator mostly makes statements that PostgreSQL refuses"
