"""The steps before the first row of a window or a copy: verify, rename, set up the source, plan the copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.engine.copying import Copying
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.resume_checks import ResumeChecks
from dbmazz_core.errors import SlotError, TableNotFound
from dbmazz_core.model.managed_source import ManagedSource
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Look
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

_REPLACED = "was dropped and created again, or another table took its name"


@dataclass(slots=True)
class Preparation:
    """Prepares a capture window, or a copy of tables.

    Attributes:
        settings: All settings.
        source: Connected, with nothing streaming.
        sink: Open, so that no other capture can run, without a transaction.
        progress: Called after rows were loaded.
        stop: Set from elsewhere to end early.
        replaced: Tables that are copied because another table has their name now, with the reason.
        warnings: The source's warnings, one sentence each.
    """

    settings: Settings
    source: ManagedSource
    sink: Sink
    progress: Callable[[Progress], None] | None = None
    stop: Event | None = None
    replaced: dict[TableRef, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def for_window(self, resnapshot: Collection[TableRef] = ()) -> Copying:
        """Prepare a window that continues at the checkpoint. The order of the steps matters:

        1. Server, history and feed are verified before anything is changed, also at the source.
        2. Redacted columns are verified before tables are renamed in the destination: the errors give both names.
        3. Renames are made before tables are compared by name.
        4. Names, owners, modes and rules are verified before the source is set up.
        5. The source is set up. It knows which tables are followed: publishing these again would lose changes.
        6. Copies are planned.

        Args:
            resnapshot: Tables to re-snapshot. They are copied under today's rules.

        Raises:
            StopRequested: `stop` was set.
        """
        look = read_look(self.source)
        recorded = self.sink.read()
        checks = self._checks(recorded)
        point = self.source.resume(checks.checkpoint(), stopped=self._stopped)

        tables = [table.ref for table in look.tables]
        checks.verify_rule_tables(tables)
        checks.verify_redacted([table for table in tables if table not in resnapshot])
        redacted = {ref: token for ref, token in checks.tokens.items() if checks.names_today.get(ref) not in resnapshot}

        # A table that is re-snapshotted may have any shape, and may have been missing from the publication.
        followed = [] if point.restart else [ref for ref in recorded.streaming if ref not in resnapshot]
        names = checks.name_changes(tables, followed)
        if names.renamed:
            recorded = self._rename_tables(names.renamed)
            checks = self._checks(recorded)
            followed = [ref for ref in recorded.streaming if ref not in resnapshot]
        followed = [ref for ref in followed if ref not in names.replaced]
        self.replaced = dict.fromkeys(names.replaced, _REPLACED)

        _verify_configured(tables, resnapshot)
        checks.verify_names()
        kept = [(ref, None if ref in resnapshot else recorded.states.get(ref)) for ref in tables]
        checks.verify_tables(kept, {*followed})

        look = self._set_up(followed)
        if point.restart:
            recorded = self._mark_all_incomplete(recorded)
        return Copying.plan(
            self.settings,
            self.source,
            self.sink,
            {table.ref: table for table in look.tables},
            recorded,
            point.position,
            again=(*resnapshot, *names.replaced),
            redacted=redacted,
            progress=self.progress,
            stop=self.stop,
        )

    def for_new_feed(self, *, new_server: bool = False) -> Copying:
        """Prepare a re-snapshot of all tables, with a new position of the feed.

        Args:
            new_server: Whether the tables may have moved to another server or database since the last checkpoint.
        """
        look = read_look(self.source)
        recorded = self.sink.read()
        checks = self._checks(recorded)
        if not new_server:
            checks.checkpoint()
        checks.verify_rule_tables([table.ref for table in look.tables])
        checks.verify_names()
        checks.verify_tables([(table.ref, None) for table in look.tables], ())
        look = self._set_up()
        position = self.source.usable_feed()
        recorded = self._mark_all_incomplete(recorded)
        tables = {table.ref: table for table in look.tables}
        return Copying.plan(
            self.settings,
            self.source,
            self.sink,
            tables,
            recorded,
            position,
            again=tables,
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

    def _checks(self, recorded: Recorded) -> ResumeChecks:
        return ResumeChecks(self.settings, self.source, self.sink, recorded)

    def _set_up(self, captured: Collection[TableRef] = ()) -> Look:
        _, look = self.source.prepare(captured=captured)
        self.warnings = tuple(warning.what for warning in self.source.check_look(captured=captured).warnings)
        return look

    def _rename_tables(self, renamed: Mapping[TableRef, TableRef]) -> Recorded:
        """Rename tables in the destination, by old name; return the bookkeeping afterwards."""
        with self.sink.begin() as transaction:
            transaction.rename_tables(renamed)
            transaction.commit()
        return self.sink.read()

    def _mark_all_incomplete(self, recorded: Recorded) -> Recorded:
        """Record that every table must be re-snapshotted; return the bookkeeping without its checkpoint."""
        if recorded.tables:
            with self.sink.begin() as transaction:
                transaction.mark_incomplete(list(recorded.tables))
                transaction.commit()
        return Recorded(None, self.sink.read().tables)

    def _stopped(self) -> bool:
        return self.stop is not None and self.stop.is_set()


def read_look(source: ManagedSource) -> Look:
    """Look at the source; raise its first problem, except for problems of the feed, which depend on the checkpoint."""
    look = source.look()
    for error in source.check_look().errors:
        if not isinstance(error, SlotError):
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
