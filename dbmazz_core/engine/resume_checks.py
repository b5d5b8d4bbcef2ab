"""Verify that source and destination fit each other, and today's settings. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial

from dbmazz_core.engine.renames import NameChanges, name_changes
from dbmazz_core.errors import ConfigError, DbmazzError
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import Source
from dbmazz_core.model.table_shape import TableToken
from dbmazz_core.model.table_state import TableState
from dbmazz_core.settings.config import Settings
from dbmazz_core.settings.rule_tables import unknown_tables
from dbmazz_core.table_ref import TableRef


class ResumeChecks:
    """Verifies a source and a sink, both open. Every method raises the first problem, with a remedy.

    Args:
        settings: All settings.
        source: The source.
        sink: The destination.
        recorded: The destination's bookkeeping.
    """

    def __init__(self, settings: Settings, source: Source, sink: Sink, recorded: Recorded) -> None:
        self.settings = settings
        self._source = source
        self._sink = sink
        self._recorded = recorded
        tokens = ((ref, table.shape.token) for ref, table in recorded.tables.items())
        #: The recorded tokens of the destination's tables. Older versions recorded none.
        self.tokens: Mapping[TableRef, TableToken] = {ref: token for ref, token in tokens if token is not None}

    @cached_property
    def names_today(self) -> Mapping[TableRef, TableRef]:
        """Today's names of the destination's tables, by the names under which they were copied."""
        return self._source.names_today(self.tokens)

    @cached_property
    def _tokens_by_name_today(self) -> Mapping[TableRef, Mapping[TableRef, TableToken]]:
        """By today's name: the destination's tables that have it now, with their tokens."""
        found: dict[TableRef, dict[TableRef, TableToken]] = {}
        for ref, name in self.names_today.items():
            found.setdefault(name, {})[ref] = self.tokens[ref]
        return found

    def problems(self, tables: Sequence[TableRef], *, and_feed: bool) -> Iterator[DbmazzError]:
        """Yield every problem with the position and the tables.

        Args:
            tables: The configured tables.
            and_feed: Whether the feed is verified too.
        """
        states, followed = self._recorded.states, self._recorded.streaming
        origins: dict[TableRef, TableRef] = {}

        def verify_names_today() -> None:
            names = self.name_changes(tables, followed)
            origins.update({new: old for old, new in names.renamed.items()})
            for _, error in names.refused.values():
                raise error

        checks: list[Callable[[], None]] = [
            partial(self.verify_rule_tables, tables),
            partial(self.verify_position, and_feed=and_feed),
            verify_names_today,
        ]
        checks += [partial(self.verify_redacted, [table]) for table in tables]
        for check in checks:
            try:
                check()
            except DbmazzError as error:
                yield error
        yield from self.table_problems(
            {table: states.get(origins.get(table, table)) for table in tables}, followed
        ).values()

    def checkpoint(self) -> Checkpoint | None:
        """Return the destination's checkpoint after verifying that it belongs to this server."""
        checkpoint = self._recorded.checkpoint
        if checkpoint is not None:
            self._source.verify_origin(checkpoint, destination=self.settings.sink.url)
        return checkpoint

    def verify_position(self, *, and_feed: bool) -> None:
        """Verify that the checkpoint belongs to this server, and that the stream can continue at it.

        Without a checkpoint: verify that the feed does not serve another destination.
        """
        checkpoint = self.checkpoint()
        if checkpoint is not None:
            self._source.verify_position(checkpoint, and_feed=and_feed)
        elif and_feed:
            self.verify_claim()

    def verify_claim(self) -> None:
        """Verify that the feed does not serve another destination."""
        self._source.verify_claim(self._sink.identity())

    def name_changes(self, tables: Collection[TableRef], followed: Collection[TableRef]) -> NameChanges:
        """Return which tables were renamed or replaced.

        Args:
            tables: The configured tables.
            followed: The destination's tables that the stream continues to follow.
        """
        known = {ref: self.names_today.get(ref) for ref in followed if ref in self.tokens}
        names_today = {ref: name for ref, name in known.items() if name is not None}
        return name_changes(tables, names_today, known, self._recorded.tables, self.settings.tables.schema_changes)

    def verify_rule_tables(self, tables: Collection[TableRef]) -> None:
        """Verify that the rules by table name captured tables.

        Args:
            tables: The configured tables.
        """
        known = {*tables, *self._recorded.all_states}
        for problem in unknown_tables(self.settings.tables, self.settings.source.tables, known):
            raise problem

    def verify_redacted(self, tables: Collection[TableRef]) -> None:
        """Verify that columns that were redacted when a table was copied are redacted under today's names."""
        for table in tables:
            if table in self._tokens_by_name_today:
                self._source.verify_redacted([table], self._tokens_by_name_today[table])

    def table_problems(
        self, tables: Mapping[TableRef, TableState | None], followed: Collection[TableRef]
    ) -> dict[TableRef, DbmazzError]:
        """Return the first problem of each table that does not belong to this feed, was altered, or does not fit.

        Args:
            tables: The configured tables, each with the state of the destination's table, which has another name if the
                table was renamed; None if the table is going to be created or re-snapshotted.
            followed: The destination's tables that the stream continues to follow.
        """
        names = {table: state.table if state else table for table, state in tables.items()}
        conflicts, followed = self._sink.owner_conflicts(names.values()), frozenset(followed)
        found: dict[TableRef, DbmazzError] = {}
        for table, state in tables.items():
            try:
                if names[table] in conflicts:
                    raise conflicts[names[table]]
                if state is not None:
                    self._verify_table(table, state, is_followed=names[table] in followed)
            except DbmazzError as error:
                found[table] = error
        return found

    def _verify_table(self, table: TableRef, state: TableState, *, is_followed: bool) -> None:
        """Verify that a table of the destination is unaltered, and fits today's settings."""
        self._verify_mode(state)
        if is_followed:
            recorded = self._recorded.tables[state.table]
            recorded.verify_unaltered()
            self._source.verify_rules(table, recorded.schema)

    def _verify_mode(self, state: TableState) -> None:
        """Verify the mode. A new mode needs a re-snapshot on request, because a history might be lost."""
        ref, wanted = state.table, self.settings.tables.mode.of(state.table)
        if state.mode is wanted:
            return
        lost = {Mode.MIRROR: "", Mode.SOFT_DELETE: " without the deleted rows", Mode.CHANGELOG: " without its history"}
        raise ConfigError(
            f"{ref} is kept in mode {state.mode} in {self.settings.sink.url}, and MODE asks for {wanted}",
            object="MODE",
            remedy=f"re-snapshot the table{lost[state.mode]}: dbmazz snapshot --tables '{ref}'; "
            f'or leave it as it is: MODE="{ref}={state.mode}"',
        )
