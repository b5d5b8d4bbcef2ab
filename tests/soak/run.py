"""Runs a program against PostgreSQL and a pipeline, and judges the destination at every checkpoint.

After every flush of a window, and after any window, whatever ended it, the oracle compares the destination with the
source as it was at the checkpoint (`past.py`), not only when both have come to rest.
"""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import errors

from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.result import StopReason
from dbmazz_core.errors import SchemaChanged, SourceError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode, TableErrorPolicy
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.by_table import ByTable, parse_schema_policy
from dbmazz_core.settings.config import FlushConfig, TableConfig, WindowLimits
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef
from tests.soak.ddl import CHANGES
from tests.soak.past import Past
from tests.soak.program import SESSIONS, Capture, Change, CommitPrepared, Copy, Do, Kill, Program, Step, Vacuum
from tests.soak.statements import (
    EXCLUSIVE,
    STATEMENTS,
    Connection,
    Table,
    find,
    insert_first,
    look_up,
    rows,
    table_names,
)
from tests.soak.tables import TYPES, create
from tests.soak.tally import Tally
from tests.support.lab import Lab
from tests.support.worker_process import Worker

#: What generated statements may run into. Anything else is a mistake of the generator.
_REFUSED = (
    errors.IntegrityError,
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.CardinalityViolation,  # ON CONFLICT DO UPDATE twice of one row
    errors.ObjectNotInPrerequisiteState,  # PREPARE after something that cannot be prepared; an update without identity
)
#: With schema changes a statement may also be wrong for the table as it is now.
_REFUSED_WITH_DDL = (*_REFUSED, psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError)
#: The policy with schema changes: one table must not change.
STOPPED = "apply, public.t1=stop"
#: Every so many windows, a table is paused, or resumed.
_PAUSES_EVERY = 3
_LOCK_TIMEOUT = "SET lock_timeout = '20ms'"


@dataclass(slots=True)
class _Session:
    number: int
    connection: Connection
    open: bool = False
    savepoints: int = 0
    #: Locks out readers of some table.
    exclusive: bool = False
    #: OIDs of the tables whose schema its transaction has changed.
    reshaped: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Run:
    """One program's run. Fails with an AssertionError, or what dbmazz raises; `history` tells the SQL."""

    lab: Lab
    ddl: bool
    tally: Tally
    history: list[str] = field(default_factory=list)
    _sessions: list[_Session] = field(default_factory=list)
    _observer: Connection = field(init=False)
    _past: Past = field(init=False)
    _prepared: list[tuple[str, _Session]] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)
    #: Whether the next window may find tables that it has to copy anew.
    _copies_due: bool = False

    def run(self, program: Program) -> None:
        """Everything, then catch up and compare."""
        with ExitStack() as stack:
            self._observer = stack.enter_context(self.lab.database.connect())
            self._observer.execute(_LOCK_TIMEOUT)
            self._past = Past(self._observer)
            for number in range(SESSIONS + 1):
                connection = stack.enter_context(self.lab.database.connect())
                connection.execute(_LOCK_TIMEOUT)
                self._sessions.append(_Session(number, connection))
            stack.callback(self._roll_back_prepared)
            self._create(program)
            # A table whose schema changes must not change fails, and others are paused: the rest goes on without them.
            policy = parse_schema_policy("SCHEMA_CHANGES", self._schema_changes(program))
            config = TableConfig(mode=ByTable(program.mode), schema_changes=policy)
            self.lab = self.lab.configured(tables=config, on_error=ByTable(TableErrorPolicy.ISOLATE))
            self._say(f"MODE={program.mode.value}")
            try:
                self._run_steps(program)
            except SourceError as error:
                if "cannot decode its WAL" not in error.what:
                    raise
                # PostgreSQL 18.6 cannot, after several rewrites in subtransactions that were rolled back. The error's
                # remedy is the way out.
                self.tally.undecodable += 1
                self._end_sessions(everything=True)
                self._resume_all()
                self.lab.pipeline.snapshot()
            self.lab.assert_equal(*table_names(self._observer))
        self.tally.programs += 1

    def _run_steps(self, program: Program) -> None:
        for step in (Capture(), *program.steps):
            self._step(step)
        self._end_sessions(everything=True)
        self._bring_back()
        self._capture(Capture(), pauses=False)
        if self._bring_back():  # a table has failed in this window
            self._capture(Capture(), pauses=False)

    def _schema_changes(self, program: Program) -> str:
        return STOPPED if self.ddl and len(program.tables) > 1 else "apply"

    def _create(self, program: Program) -> None:
        first = self._sessions[0]
        self._execute(first, TYPES + "; CREATE SCHEMA history; CREATE TABLE history.noise (v text)")
        for number, spec in enumerate(program.tables):
            self._execute(first, create(spec, f"t{number}"))
            if count := program.rows[number]:
                self._execute(first, insert_first(look_up(first.connection, number), count))
        self._past.record(Lsn(0))

    def _step(self, step: Step) -> None:
        match step:
            case Do():
                self._do(step)
            case CommitPrepared():
                if self._prepared:
                    self._commit_prepared()
            case Capture():
                self._end_sessions(everything=self._copies_due or self._copies_wait)
                self._copies_due = False
                self._capture(step)
            case Kill():
                # In another process nobody ends them once a copy waits: a changelog is copied where its key changes.
                copies = self._copies_due or self._copies_wait or self.lab.mode is Mode.CHANGELOG
                self._end_sessions(everything=copies)
                self._copies_due = False
                self._kill(step)
            case Copy():
                # A slot's creation waits for all open transactions.
                self._end_sessions(everything=True)
                self._copy(step)
            case Vacuum():
                self._vacuum(step)

    # -- the source

    def _do(self, step: Do) -> None:
        session = self._sessions[step.session]
        for change in step.changes:
            if not session.open:
                self._execute(session, "BEGIN")
                session.open = True
            try:
                if isinstance(change, Change):
                    self._change(session, change)
                else:
                    self._mark(session, change)
            except psycopg.Error as error:
                if not isinstance(error, _REFUSED_WITH_DDL if self.ddl else _REFUSED):
                    raise
                self._refused(session, error)
        if session.open and step.end:
            self._write_to_reshaped(session)
        if session.open and step.end:
            self._end(session, step.end)

    def _write_to_reshaped(self, session: _Session) -> None:
        """The stream tells of a table's new columns with its next row; until then nobody can know."""
        for oid in sorted(session.reshaped):
            if session.open and (table := find(session.connection, oid)):
                name = table.columns[0].name
                # What is refused for one table must not undo what was written to another.
                self._mark(session, "savepoint")
                try:
                    self._execute(session, STATEMENTS["insert_new"](table, 24, 0, 1))
                    self._execute(session, f"UPDATE {table.name} SET {name} = {name}")
                except _REFUSED_WITH_DDL as error:
                    self._refused(session, error)
                self._mark(session, "release")

    def _change(self, session: _Session, change: Change) -> None:
        table = look_up(session.connection, change.table)
        if table is None or not table.columns:
            return
        session.exclusive |= change.kind in EXCLUSIVE or change.kind in CHANGES
        self._copies_due |= change.kind.startswith("truncate")  # the stream does not tell which partitions
        if change.kind == "copy":
            self._copy_in(session, table, change)
        elif change.kind == "truncate_several":
            count = 1 + change.a % 3
            names = {found.name for i in range(count) if (found := look_up(session.connection, change.table + i))}
            self._execute(session, f"TRUNCATE {', '.join(sorted(names))} RESTART IDENTITY CASCADE")
        else:
            if change.kind in CHANGES:
                self._copies_due = True
                session.reshaped.add(table.oid)
            render = (CHANGES if change.kind in CHANGES else STATEMENTS)[change.kind]
            self._execute(session, render(table, change.a, change.b, change.n))

    def _copy_in(self, session: _Session, table: Table, change: Change) -> None:
        names = ", ".join(column.name for column in table.columns)
        query = rows(table, change.a, change.a + change.b, change.n)
        statement = f"COPY {table.name} ({names}) FROM STDIN"
        self._tell(session, f"{statement}  -- what this gives: {query}")
        with session.connection.cursor() as cursor:
            with cursor.copy(f"COPY ({query}) TO STDOUT".encode()) as source:
                data = b"".join(bytes(part) for part in source)
            with cursor.copy(statement.encode()) as target:
                target.write(data)

    def _mark(self, session: _Session, kind: str) -> None:
        if kind == "savepoint":
            self._execute(session, f"SAVEPOINT s{session.savepoints}")
            session.savepoints += 1
        elif session.savepoints:
            word = "RELEASE" if kind == "release" else "ROLLBACK TO"
            self._execute(session, f"{word} s{session.savepoints - 1}")
            session.savepoints -= kind == "release"

    def _refused(self, session: _Session, error: psycopg.Error) -> None:
        self.tally.refused += 1
        self.history[-1] += f"\n--    refused: {str(error).splitlines()[0]}"
        if session.savepoints:
            self._execute(session, f"ROLLBACK TO s{session.savepoints - 1}")
        else:
            self._close(session, "ROLLBACK")

    def _end(self, session: _Session, how: str) -> None:
        if how == "rollback":
            self._close(session, "ROLLBACK")
        elif how == "prepare":
            name = f"p{next(self._names)}"
            held = dataclasses.replace(session, reshaped=set())
            try:
                self._close(session, f"PREPARE TRANSACTION '{name}'")
            except _REFUSED_WITH_DDL as error:
                self.history[-1] += f"\n--    refused: {str(error).splitlines()[0]}"
                self._close(session, "ROLLBACK")
                return
            self._prepared.append((name, held))
        else:
            with self._committing():
                self._close(session, "COMMIT")

    def _close(self, session: _Session, statement: str) -> None:
        session.open = session.exclusive = False
        session.savepoints = 0
        session.reshaped.clear()
        self._execute(session, statement)

    def _commit_prepared(self) -> None:
        name, _ = self._prepared.pop(0)
        with self._committing():
            self._execute(self._sessions[-1], f"COMMIT PREPARED '{name}'")

    def _vacuum(self, step: Vacuum) -> None:
        session = self._sessions[-1]
        if table := look_up(session.connection, step.table):
            self._copies_due = True  # of a partition
            try:
                self._execute(session, f"VACUUM FULL {table.name}")
            except _REFUSED as error:
                self.history[-1] += f"\n--    refused: {error}"

    @property
    def _copies_wait(self) -> bool:
        """Whether the next window copies tables first: those that one before has given up, and was stopped then."""
        waiting = "SELECT count(*) FROM _dbmazz.tables WHERE state IN ('pending', 'copying')"
        return not self.lab.path.exists() or self.lab.rows(waiting) != [(0,)]

    def _end_sessions(self, *, everything: bool) -> None:
        """Commit what would be in the way: a window reads from the catalog what an exclusive lock hides."""
        for session in self._sessions:
            if session.open and (everything or session.exclusive):
                self._write_to_reshaped(session)
                if session.open:
                    self._end(session, "commit")
        for name, held in list(self._prepared):
            if everything or held.exclusive:
                with self._committing():
                    self._execute(self._sessions[-1], f"COMMIT PREPARED '{name}'")
                self._prepared.remove((name, held))

    def _roll_back_prepared(self) -> None:
        for name, _ in self._prepared:
            self._observer.execute(f"ROLLBACK PREPARED '{name}'".encode())

    def _execute(self, session: _Session, statement: str) -> None:
        self._tell(session, statement)
        session.connection.execute(statement.encode())

    def _tell(self, session: _Session, statement: str) -> None:
        self.tally.statements += 1
        self.history.append(f"/* {session.number} */ " + statement + ";")

    def _say(self, what: str) -> None:
        self.history.append(f"\n-- {what}")

    # -- the comparison

    @contextmanager
    def _committing(self) -> Iterator[None]:
        with self._past.committing():
            yield
        self.tally.commits += 1

    def _compare(self) -> None:
        """Every table that the destination has, with the source at the position that it is at."""
        status = self.lab.pipeline.status(rows=False)
        checkpoint = status.checkpoint
        assert status.destination_error is None, status.destination_error
        if checkpoint is None:
            return
        confirmed = status.source.confirmed_lsn
        assert confirmed is None or confirmed <= checkpoint.lsn, "confirmed is more than is held"
        self.tally.comparisons += self._past.assert_equal(self.lab)
        self.tally.left_out += self._past.assert_left_out_equal(self.lab)

    def _compare_flush(self) -> None:
        self.tally.comparisons += self._past.assert_files_equal(self.lab)
        self.tally.flushes += 1

    # -- the destination

    def _capture(self, step: Capture, *, pauses: bool = True) -> None:
        lab = self.lab.configured(flush=FlushConfig(size=step.flush_size, max_bytes=step.flush_bytes))
        limits = WindowLimits(max_changes=step.max_changes, max_bytes=step.max_bytes)
        stop = threading.Event()
        during = list(step.during)
        flushes = 0
        self._say(str(step))

        def progress(report: Progress) -> None:
            nonlocal flushes
            if report.phase == "wait":  # for a slot, to copy a table anew
                self._end_sessions(everything=True)
            if report.phase == "stream":
                self._compare_flush()
                flushes += 1
                if during:
                    self._do(dataclasses.replace(during.pop(0), session=SESSIONS))
                if flushes == step.stop_after:
                    stop.set()

        def window() -> None:
            result = lab.capture(limits=limits, stop=stop, progress=progress)
            self.tally.changes += result.changes
            self.history.append(
                f"--    {result.stop_reason}: {result.changes} changes, {result.flushes} flushes, "
                f"{result.start_lsn} to {result.end_lsn}"
            )
            if result.stop_reason is StopReason.CAUGHT_UP:
                # The checkpoint stays where there is little WAL, and no change in it.
                assert result.upper_lsn - result.end_lsn < FlushConfig().idle_wal_bytes
            self._compare()

        self.tally.windows += 1
        if pauses and self.tally.windows % _PAUSES_EVERY == 0:
            self._pause_or_resume()
        self._unless_schema_changed(window)

    def _unless_schema_changed(self, window: Callable[[], None]) -> None:
        try:
            window()
        except SchemaChanged as error:
            if not self.ddl:
                raise
            self._compare()
            self.history.append(f"--    {error}")
            self._end_sessions(everything=True)
            self._copy_tables(str(error.object))
            self._unless_schema_changed(window)

    def _pause_or_resume(self) -> None:
        """Resume the paused tables; if there are none, pause one."""
        states = self.lab.pipeline.table_states(rows=False) if self.lab.path.exists() else []
        if paused := [state.table for state in states if state.state is TableStatus.PAUSED]:
            self._say(f"resume {', '.join(map(str, paused))}")
            self.lab.pipeline.resume(paused)
            self._end_sessions(everything=True)  # a copy waits for them
        elif states:
            table = states[self.tally.windows % len(states)].table
            self._say(f"pause {table}")
            self.lab.pipeline.pause([table])

    def _resume_all(self) -> bool:
        """Resume paused tables; return whether there were any."""
        states = self.lab.pipeline.table_states(rows=False)
        paused = [state.table for state in states if state.state is TableStatus.PAUSED]
        self.lab.pipeline.resume(paused)
        return bool(paused)

    def _bring_back(self) -> bool:
        """Resume paused tables, and copy all if one has failed; return whether there were any."""
        resumed = self._resume_all()
        states = self.lab.pipeline.table_states(rows=False)
        failed = any(state.state is TableStatus.FAILED for state in states)
        if failed:
            self._say("snapshot")
            self.lab.pipeline.snapshot()
        return failed or resumed

    def _kill(self, step: Kill) -> None:
        self.tally.kills += 1
        self._say(str(step))
        environment = {
            "FLUSH_SIZE": str(step.flush_size),
            "MODE": self.lab.mode.value,
            "ON_TABLE_ERROR": "isolate",
            "SCHEMA_CHANGES": str(self.lab.settings["tables"].schema_changes),
        }
        if step.after_flush is not None:
            environment["DBMAZZ_TEST_DIE_AT"] = f"stream:{step.after_flush}"
        worker = Worker(self.lab, **environment)
        if step.after_flush is None:
            threading.Event().wait(step.seconds)
            worker.kill()
        else:
            code, said = worker.end()
            schema_changed = self.ddl and "SchemaChanged" in said
            assert code in (0, -signal.SIGKILL) or schema_changed, said
        self._compare()

    def _copy(self, step: Copy) -> None:
        self._say(str(step))
        if step.table is None:
            self.tally.copies += 1
            self.lab.pipeline.snapshot()
        elif names := table_names(self._observer):
            try:
                self._copy_tables(f"public.{names[step.table % len(names)]}")
            except SchemaChanged as error:  # the table was renamed, and must not be
                if not self.ddl:
                    raise
                self.history.append(f"--    {error}")
        self._compare()

    def _copy_tables(self, name: str) -> None:
        self.tally.copies += 1
        (pattern,) = parse_tables(name)
        assert pattern.name is not None
        self.lab.pipeline.snapshot([TableRef(pattern.schema, pattern.name)])
