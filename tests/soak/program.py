"""Programs: what one run does, as data, so that hypothesis can take steps away while the failure stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from hypothesis import strategies as st

from dbmazz_core.model.policies import Mode
from tests.soak.ddl import CHANGES
from tests.soak.statements import KEYS, STATEMENTS
from tests.soak.tables import TableSpec, specs

SESSIONS = 3


@dataclass(frozen=True, slots=True)
class Change:
    """Statements on one table, in the transaction of a session, which begins if there is none.

    Attributes:
        kind: A name of `STATEMENTS`, `copy`, `truncate_several`, or of the schema changes in `ddl.CHANGES`.
        table: Its number.
        a, b, n: Numbers that make it a special one; a and b of keys.
    """

    kind: str
    table: int
    a: int
    b: int
    n: int


@dataclass(frozen=True, slots=True)
class Do:
    """Changes of a session, then perhaps the end of its transaction.

    Attributes:
        session: Its number.
        changes: One after the other. A string is `savepoint`, `rollback to` or `release`.
        end: `commit`, `rollback`, `prepare`; empty: the transaction stays open, others come in between.
    """

    session: int
    changes: tuple[Change | str, ...]
    end: str = "commit"


@dataclass(frozen=True, slots=True)
class CommitPrepared:
    """The oldest prepared transaction commits."""


@dataclass(frozen=True, slots=True)
class Capture:
    """One window by a new pipeline.

    Attributes:
        flush_size, flush_bytes: When a flush is due.
        max_changes, max_bytes: The window's limits.
        stop_after: Flushes after which it is asked to stop.
        during: What another session does after each flush.
    """

    flush_size: int = 250_000
    flush_bytes: int = 1 << 26
    max_changes: int | None = None
    max_bytes: int | None = None
    stop_after: int | None = None
    during: tuple[Do, ...] = ()


@dataclass(frozen=True, slots=True)
class Kill:
    """A window in a process of its own that is killed by SIGKILL.

    Attributes:
        after_flush: It kills itself right after this flush; None: it is killed after `seconds`.
        flush_size: When a flush is due.
        seconds: Since its start.
    """

    after_flush: int | None
    flush_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Copy:
    """Tables are copied again.

    Attributes:
        table: Its number, None: all, with a new position of the slot.
    """

    table: int | None


@dataclass(frozen=True, slots=True)
class Vacuum:
    """VACUUM FULL: the table is rewritten, which is no change. It runs in no transaction."""

    table: int


Step = Do | CommitPrepared | Capture | Kill | Copy | Vacuum


@dataclass(frozen=True, slots=True)
class Program:
    """Tables to begin with, how many rows each has, how the destination keeps them, and what happens then."""

    tables: tuple[TableSpec, ...]
    rows: tuple[int, ...]
    mode: Mode
    steps: tuple[Step, ...]


_T = TypeVar("_T")


def _optional(strategy: st.SearchStrategy[_T]) -> st.SearchStrategy[_T | None]:
    return st.none() | strategy


@st.composite
def programs(draw: st.DrawFn, *, ddl: bool) -> Program:
    """Any program. Each knows some kinds of statements only, so that rare ones come often in a few.

    Args:
        ddl: Whether tables change their schema.
    """
    data_kinds = [*STATEMENTS, "copy", "truncate_several"]
    chosen = draw(st.lists(st.sampled_from(data_kinds), min_size=3, max_size=len(data_kinds), unique=True))
    kinds = ["insert", "update_some", *chosen]
    if ddl:
        kinds += draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=5, unique=True))
    number = st.integers(0, KEYS - 1)
    changes = st.builds(Change, st.sampled_from(kinds), st.integers(0, 3), number, number, st.integers(0, 999))
    marks = st.sampled_from(["savepoint", "rollback to", "release"])
    several = st.lists(changes | changes | changes | marks, min_size=1, max_size=16).map(tuple)
    sessions = st.integers(0, SESSIONS - 1)
    whole = st.builds(Do, sessions, several)
    part = st.builds(Do, sessions, several, st.sampled_from(["", "", "commit", "rollback", "prepare"]))
    window = st.builds(
        Capture,
        flush_size=st.sampled_from([250_000, 1, 3, 20]),
        flush_bytes=st.sampled_from([1 << 26, 1, 2_000, 20_000]),
        max_changes=_optional(st.integers(1, 30)),
        max_bytes=_optional(st.integers(1, 30_000)),
        stop_after=_optional(st.integers(1, 3)),
        during=st.just(()) | st.lists(whole, max_size=3).map(tuple),
    )
    kill = st.builds(Kill, _optional(st.integers(1, 4)), st.sampled_from([1, 5, 50]), st.floats(0.4, 1.0))
    weights: list[tuple[int, st.SearchStrategy[Step]]] = [
        (40, whole),
        (30, part),
        (4, st.just(CommitPrepared())),
        (2, st.just(Capture())),
        (7, window),
        (1, kill),
        (3, st.builds(Copy, _optional(st.integers(0, 3)))),
        (1, st.builds(Vacuum, st.integers(0, 3))),
    ]
    # Not `one_of`, which would make all alternatives of alternatives equally likely.
    steps = st.sampled_from([step for weight, step in weights for _ in range(weight)]).flatmap(lambda step: step)
    tables = draw(st.lists(specs(), min_size=1, max_size=4))
    return Program(
        tables=tuple(tables),
        rows=tuple(draw(st.sampled_from([KEYS, KEYS // 2, 0])) for _ in tables),
        mode=draw(st.sampled_from([Mode.MIRROR, Mode.MIRROR, Mode.SOFT_DELETE, Mode.CHANGELOG])),
        # Lists of hypothesis tend to be short.
        steps=tuple(step for _ in range(6) for step in draw(st.lists(steps, max_size=24))),
    )
