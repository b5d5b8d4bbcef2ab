"""What the source was: all its tables after every commit, and which of these states a position in the WAL means."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg import errors

from dbmazz_core.lsn import Lsn
from tests.soak.statements import Connection, table_names
from tests.support.lab import Lab


@dataclass(slots=True)
class _State:
    """All tables after a commit.

    Attributes:
        before, after: Positions between which its commit record is.
        tables: Quoted name: the copy's name; None where a lock of another session was in the way.
    """

    before: Lsn
    after: Lsn
    tables: dict[str, str | None]


@dataclass(slots=True)
class Past:
    """Copies of the tables, in unlogged tables of the schema `history`; `observer` makes them."""

    observer: Connection
    _states: list[_State] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Around a commit: records what the tables are after it."""
        before = self._server_lsn()
        yield
        self.record(before)

    def record(self, before: Lsn) -> None:
        """Record the tables as they are, after a commit that began at `before`."""
        after = self._server_lsn()
        copies: dict[str, str | None] = {}
        for name in table_names(self.observer):
            copy: str | None = f"history.s{next(self._names)}"
            try:
                self.observer.execute(f"CREATE UNLOGGED TABLE {copy} AS SELECT * FROM {name}".encode())
            except errors.LockNotAvailable:
                copy = None
            copies[name] = copy
        self._states.append(_State(before, after, copies))

    def copies(self, name: str, position: Lsn) -> list[str]:
        """A table as it was at a position: its copy; two of them where a commit was under way then, so that either may
        be it. None where one could not be made."""
        passed = [state for state in self._states if state.before < position] or self._states[:1]
        states = [passed[-1], *passed[-2:-1]] if position < passed[-1].after else passed[-1:]
        copies = [state.tables.get(name) for state in states]
        return [copy for copy in copies if copy is not None] if None not in copies else []

    def assert_equal(self, lab: Lab) -> int:
        """The oracle, for all tables of a destination, each as of its position. Returns how many were compared."""
        # A table copied after the checkpoint is ahead of the others.
        position = "greatest(t.snapshot_lsn, (SELECT lsn FROM _dbmazz.checkpoints))"
        query = f"SELECT t.table_name, {position} FROM _dbmazz.tables t WHERE t.state = 'streaming'"
        return sum(self._assert_table_equal(lab, name, Lsn(lsn)) for name, lsn in lab.rows(query))

    def assert_left_out_equal(self, lab: Lab) -> int:
        """The same for tables that were left out: each as of the position that is shown for it."""
        query = "SELECT table_name, lsn FROM _dbmazz.tables WHERE state IN ('failed', 'paused') AND lsn IS NOT NULL"
        return sum(self._assert_table_equal(lab, name, Lsn(lsn)) for name, lsn in lab.rows(query))

    def assert_files_equal(self, lab: Lab) -> int:
        """The same while a window has the destination open between two flushes: with its files as a crash would leave
        them now."""
        with tempfile.TemporaryDirectory(prefix="dbmazz-soak-") as directory:
            for suffix in ("", ".wal"):
                file = lab.path.with_name(lab.path.name + suffix)
                if file.exists():
                    shutil.copy(file, directory)
            return self.assert_equal(replace(lab, path=Path(directory, lab.path.name)))

    def _assert_table_equal(self, lab: Lab, name: str, position: Lsn) -> bool:
        failures = []
        for copy in self.copies(name, position):
            try:
                lab.assert_equal_as((copy, f"public.{name}"))
            except AssertionError as error:
                failures.append(error)
            else:
                return True
        if failures:
            failures[0].add_note(f"that is {name} as it was in the source at {position}")
            raise failures[0]
        return False

    def _server_lsn(self) -> Lsn:
        ((lsn,),) = self.observer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchall()
        return Lsn.parse(lsn)
