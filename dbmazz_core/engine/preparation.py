"""The steps before the first row of a window or a copy: verify, rename, set up the source, plan the copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.engine.copying import Copying
from dbmazz_core.engine.isolation import UNRECORDED, Isolation
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.resume_checks import ResumeChecks
from dbmazz_core.engine.table_states import bring_back, held_tables, record_states
from dbmazz_core.errors import DbmazzError, PublicationLacksTable, SlotError, TableNotFound, TableNotSupported
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import FoundTable, Look, ResumePoint
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

_REPLACED = "was dropped and created again, or another table took its name"
_REQUESTED = "was requested again"
_UNPUBLISHED = "was not in the publication: changes since its removal are not in the stream"


@dataclass(frozen=True, slots=True)
class Plan:
    """A verified source and destination, before the source is set up.

    Attributes:
        tables: The tables to capture: without tables that are in trouble, paused, or wait for a person.
        recorded: The destination's bookkeeping.
        point: Where the feed resumes.
        followed: Tables that the stream continues to follow.
        again: Tables that are copied although their copies are complete.
        redacted: See `Copying.redacted`.
    """

    tables: Mapping[TableRef, FoundTable]
    recorded: Recorded
    point: ResumePoint
    followed: Sequence[TableRef]
    again: Collection[TableRef]
    redacted: Mapping[TableRef, TableToken]

    @property
    def waiting(self) -> dict[TableRef, str]:
        """Tables that an earlier window left to be copied, with the reason: a sentence without its subject."""
        states = {ref: self.recorded.states[ref] for ref in self.recorded.in_state(TableStatus.COPYING)}
        reasons = {
            ref: state.problem.reason.removeprefix(f"{ref} ")
            for ref, state in states.items()
            if ref in self.tables and state.problem is not None
        }
        return {ref: reason for ref, reason in reasons.items() if reason != _REQUESTED}

    @property
    def needs_copies(self) -> bool:
        """Whether a table must be copied."""
        return not self.tables.keys() <= {*self.followed}


@dataclass(slots=True)
class Preparation:
    """Prepares a capture window, or a copy of tables.

    Attributes:
        settings: All settings.
        source: Connected, with nothing streaming.
        sink: Open, so that no other capture can run, without a transaction.
        progress: Called after rows were loaded.
        stop: Set from elsewhere to end early.
        replaced: Tables that are copied for a reason that the source gives, with the reason.
        problems: Tables that are left out because of an error.
        warnings: The source's warnings, one sentence each.
    """

    settings: Settings
    source: ManagedSource
    sink: Sink
    progress: Callable[[Progress], None] | None = None
    stop: Event | None = None
    replaced: dict[TableRef, str] = field(default_factory=dict)
    problems: dict[TableRef, DbmazzError] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def for_window(self, resnapshot: Collection[TableRef] = ()) -> Copying:
        """Verify and set up what a window needs that continues at the checkpoint, see `verify` and `set_up`."""
        return self.set_up(self.verify(resnapshot))

    def verify(self, resnapshot: Collection[TableRef] = ()) -> Plan:
        """Verify a window that continues at the checkpoint. The order of the steps matters:

        1. Server, history and feed are verified before anything is changed, also at the source.
        2. Redacted columns are verified before tables are renamed in the destination: the errors give both names.
        3. Renames are made before tables are compared by name.
        4. Names, owners, modes and rules are verified before the source is set up.

        A table whose trouble must not stop the others is left out, and its state is recorded.

        Args:
            resnapshot: Tables to re-snapshot. They are copied under today's rules.

        Raises:
            StopRequested: `stop` was set.
        """
        look = read_look(self.source)
        recorded = self.sink.read()
        checks = self._checks(recorded)
        checkpoint = checks.checkpoint()
        if checkpoint is None:
            checks.verify_claim()
        point = self.source.resume(checkpoint, stopped=self._stopped)

        tables = [table.ref for table in look.tables]
        if (brought_back := bring_back(self.sink, recorded, {*tables}.difference(resnapshot))) is not recorded:
            recorded, checks = brought_back, self._checks(brought_back)
        self._take_out_unusable(recorded.tables)
        checks.verify_rule_tables(tables)
        for table in tables:
            if table not in resnapshot and table not in self.problems:
                try:
                    checks.verify_redacted([table])
                except DbmazzError as error:
                    self._refuse(table, error)
        redacted = {ref: token for ref, token in checks.tokens.items() if checks.names_today.get(ref) not in resnapshot}

        # A table that is re-snapshotted may have any shape, and may have been missing from the publication.
        followed = [] if point.restart else [ref for ref in recorded.streaming if ref not in resnapshot]
        known = [*followed, *(ref for ref in recorded.in_state(TableStatus.FAILED) if ref not in resnapshot)]
        names = checks.name_changes(tables, known)
        for old, (new, refusal) in names.refused.items():
            if new in resnapshot:
                raise refusal
            self._refuse(old, refusal)
            tables.remove(new)
        if renamed := self._rename_tables(names.renamed):
            recorded = self.sink.read()
            checks = self._checks(recorded)
            followed = [renamed.get(ref, ref) for ref in followed]
        configured = frozenset(tables)
        followed = [ref for ref in followed if ref in configured and ref not in names.replaced]
        self.replaced = dict.fromkeys(names.replaced, _REPLACED)
        again = {*resnapshot, *names.replaced}

        _verify_configured(tables, resnapshot)
        self._verify_names(frozenset(followed))
        self._sort_out_tables(
            checks, {ref: None if ref in again else recorded.states.get(ref) for ref in tables}, followed
        )
        followed = self._verify_source([ref for ref in followed if ref not in self.problems], again)

        usable = [ref for ref in tables if ref not in self.problems]
        held = held_tables(recorded, [ref for ref in usable if ref not in again], self.source, self.settings.tables)
        chosen = frozenset(ref for ref in usable if ref not in held)
        self._verify_any(chosen, recorded)
        look = self.source.leave_out([table.ref for table in look.tables if table.ref not in chosen])
        altered = {ref: table.altered for ref, table in recorded.tables.items()}
        recorded = record_states(
            self.sink,
            recorded,
            configured={*configured, *self.problems},
            problems=self.problems,
            # Nothing looks at the columns of a table that is not followed: its trouble would seem to be gone.
            retry_when={ref: UNRECORDED for ref, error in self.problems.items() if error is altered.get(ref)},
            again={**dict.fromkeys(resnapshot, _REQUESTED), **self.replaced},
        )
        return Plan(
            {table.ref: table for table in look.tables},
            recorded,
            point,
            [ref for ref in followed if ref in chosen and ref not in again],
            again,
            redacted,
        )

    def set_up(self, plan: Plan) -> Copying:
        """Set up the source, and plan the copies.

        The source knows which tables are followed: publishing these again would lose changes. A table that cannot be
        set up now is left out, and its state is recorded.
        """
        look, failed = self._set_up(plan.followed)
        recorded = plan.recorded
        if recorded.checkpoint is None:
            self.source.claim(self.sink.identify())
        if plan.point.restart:
            recorded = self._mark_all_incomplete(recorded)
        tables = {table.ref: table for table in look.tables if table.ref in plan.tables and table.ref not in failed}
        self._verify_any(tables, recorded)
        marked = record_states(self.sink, recorded, configured=None, problems=failed)
        return Copying.plan(
            self.settings,
            self.source,
            self.sink,
            tables,
            replace(marked, checkpoint=recorded.checkpoint),
            plan.point.position,
            again=[ref for ref in plan.again if ref in tables],
            redacted=plan.redacted,
            progress=self.progress,
            stop=self.stop,
        )

    def for_new_feed(self, *, new_server: bool = False, take_over: bool = False) -> Copying:
        """Prepare a re-snapshot of all tables, with a new position of the feed.

        Args:
            new_server: Whether the tables may have moved to another server or database since the last checkpoint.
            take_over: Whether the feed may have served another destination until now.
        """
        look = read_look(self.source)
        recorded = self.sink.read()
        checks = self._checks(recorded)
        if not new_server:
            checks.checkpoint()
        if not take_over:
            checks.verify_claim()
        self._take_out_unusable(recorded.tables)
        tables = [table.ref for table in look.tables]
        checks.verify_rule_tables(tables)
        self._verify_names(())
        self._sort_out_tables(checks, dict.fromkeys(tables), ())
        self._verify_source((), None)
        chosen = [ref for ref in tables if ref not in self.problems]
        paused = recorded.in_state(TableStatus.PAUSED)
        self._verify_any(chosen, Recorded())
        self.source.leave_out([ref for ref in tables if ref not in chosen or ref in paused])
        look, _ = self._set_up()
        position = self.source.usable_feed()
        self.source.claim(self.sink.identify())
        recorded = self._mark_all_incomplete(recorded)
        recorded = replace(
            record_states(self.sink, recorded, configured={*tables, *self.problems}, problems=self.problems),
            checkpoint=None,
        )
        found = {table.ref: table for table in look.tables if table.ref not in self.problems}
        return Copying.plan(
            self.settings,
            self.source,
            self.sink,
            found,
            recorded,
            position,
            again=found,
            progress=self.progress,
            stop=self.stop,
        )

    def for_upgraded_server(self) -> Copying:
        """Prepare a window on a server that was upgraded with its feed. Tables that are the same are not copied.

        The upgrade has rewritten the source's catalog, so the tables' tokens are replaced.
        """
        read_look(self.source)
        recorded = self.sink.read()
        if recorded.checkpoint is None:
            return self.for_window()
        tokens, followed = self._checks(recorded).tokens, recorded.streaming
        known = {ref: tokens[ref] for ref in followed if ref in tokens}
        checkpoint = self.source.checkpoint_after_upgrade(recorded.checkpoint, known)
        tokens_now = self.source.tokens_after_upgrade(known)
        shapes = [replace(recorded.tables[ref].shape, token=token) for ref, token in tokens_now.items()]
        with self.sink.begin() as transaction:
            transaction.record_shapes(shapes)
            transaction.commit(checkpoint)
        return self.for_window()

    # -- tables in trouble

    @property
    def _isolation(self) -> Isolation:
        return Isolation(self.settings.tables.on_error)

    def _refuse(self, table: TableRef, error: DbmazzError) -> None:
        """Leave out a table because of an error; raise the error if it must stop the run."""
        if not self._isolation.concerned(error, table):
            raise error
        self.problems.setdefault(table, error)

    def _sort_out_tables(
        self, checks: ResumeChecks, tables: Mapping[TableRef, TableState | None], followed: Collection[TableRef]
    ) -> None:
        """Leave out tables that fail their verification, see `ResumeChecks.table_problems`."""
        left = {table: state for table, state in tables.items() if table not in self.problems}
        for table, error in checks.table_problems(left, followed).items():
            self._refuse(table, error)

    def _take_out_unusable(self, captured: Collection[TableRef]) -> None:
        """Leave out captured tables that were dropped, or cannot be captured any more.

        A table that was never captured and is named in the settings is an error of the settings.
        """
        for error in self.source.check_look().errors:
            if isinstance(error, TableNotFound | TableNotSupported):
                for table in error.tables or [None]:
                    if table is None or table not in captured:
                        raise error
                    self._refuse(table, error)
        self.source.leave_out(self.problems)

    def _verify_names(self, followed: Collection[TableRef]) -> None:
        """Leave out tables whose names the destination cannot hold; a captured table keeps a name that two have."""
        names = self.source.column_names()
        ordered = sorted(names, key=lambda ref: ref not in followed)
        for conflict in self.sink.name_conflicts({ref: names[ref] for ref in ordered}):
            if not self._isolation.concerned(conflict):
                raise conflict
            self.problems |= {ref: conflict for ref in conflict.tables if ref not in self.problems}

    def _verify_source(self, followed: Sequence[TableRef], again: set[TableRef] | None) -> list[TableRef]:
        """Leave out tables with which the source has a problem; return the tables that are still followed.

        Args:
            followed: Tables that the stream follows.
            again: Takes followed tables that the publication lacks, which are copied again; None: that is a problem.
        """
        self.source.leave_out(self.problems)
        kept = list(followed)
        while errors := [e for e in self.source.check_look(captured=kept).errors if not isinstance(e, SlotError)]:
            before = len(kept), len(self.problems)
            for error in errors:
                tables = self._isolation.concerned(error)
                if not tables:
                    raise error
                if isinstance(error, PublicationLacksTable) and again is not None and {*kept}.issuperset(tables):
                    kept = [ref for ref in kept if ref not in tables]
                    again |= {*tables}
                    self.replaced |= dict.fromkeys(tables, _UNPUBLISHED)
                else:
                    self.problems |= {ref: error for ref in tables if ref not in self.problems}
            if before == (len(kept), len(self.problems)):
                raise errors[0]
            self.source.leave_out(self.problems)
        return [ref for ref in kept if ref not in self.problems]

    def _verify_any(self, tables: Collection[TableRef], recorded: Recorded) -> None:
        """Raise the first problem if no table is left, and there is no checkpoint to move."""
        if not tables and recorded.checkpoint is None:
            for error in self.problems.values():
                raise error

    # -- steps

    def _checks(self, recorded: Recorded) -> ResumeChecks:
        return ResumeChecks(self.settings, self.source, self.sink, recorded)

    def _set_up(self, captured: Collection[TableRef] = ()) -> tuple[Look, Mapping[TableRef, DbmazzError]]:
        """Set up the source; return a look at it, and the tables for which that failed, which are left out."""
        report, look = self.source.prepare(captured=captured, isolates=self._isolation.isolates)
        self.warnings = tuple(warning.what for warning in self.source.check_look(captured=captured).warnings)
        self.warnings += tuple(
            warning.what for warning in self.sink.name_warnings([table.ref for table in look.tables])
        )
        failed = {table: error for table, error in report.problems.items() if table not in captured}
        # A captured table streams as it is; the next window tries the statement again.
        kept = dict.fromkeys(error.what for table, error in report.problems.items() if table in captured)
        self.warnings += tuple(kept)
        self.problems |= failed
        return look, failed

    def _rename_tables(self, renamed: Mapping[TableRef, TableRef]) -> Mapping[TableRef, TableRef]:
        """Rename tables in the destination, by old name; return those whose names were free."""
        while renamed:
            try:
                with self.sink.begin() as transaction:
                    transaction.rename_tables(renamed)
                    transaction.commit()
            except DbmazzError as error:
                taken = [old for old, new in renamed.items() if old in error.tables or new in error.tables]
                if not taken:
                    raise
                for old in taken:
                    self._refuse(old, error)
                renamed = {old: new for old, new in renamed.items() if old not in taken}
            else:
                break
        return renamed

    def _mark_all_incomplete(self, recorded: Recorded) -> Recorded:
        """Record that every table must be re-snapshotted; return the bookkeeping without its checkpoint."""
        tables = [ref for ref, state in recorded.states.items() if state.state is not TableStatus.PAUSED]
        if tables:
            with self.sink.begin() as transaction:
                for table in tables:
                    transaction.mark(table, TableStatus.COPYING)
                transaction.commit()
        return replace(self.sink.read(), checkpoint=None)

    def _stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()


def read_look(source: ManagedSource) -> Look:
    """Look at the source; raise the first problem that concerns all tables.

    Problems of the feed depend on the checkpoint, and are not raised.
    """
    look = source.look()
    for error in source.check_look().errors:
        if not isinstance(error, SlotError) and not error.tables:
            raise error
    return look


def _verify_configured(tables: Sequence[TableRef], chosen: Collection[TableRef]) -> None:
    for ref in chosen:
        if ref not in tables:
            raise TableNotFound(
                f"{ref} is not one of the configured tables",
                object=str(ref),
                remedy=f"add it to TABLES, or choose from: {', '.join(map(str, tables))}",
            )
