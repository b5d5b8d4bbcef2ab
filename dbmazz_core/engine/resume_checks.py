"""Whether source and destination fit each other, under the settings of today: looked at, nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from dbmazz_core.connectors.sources.postgres.catalog.identity import TableIdentity
from dbmazz_core.engine.renames import NameChanges, name_changes
from dbmazz_core.errors import ConfigError, DbmazzError, WrongServer
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import FoundTable, Source
from dbmazz_core.model.table_state import TableState
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef


class Agreement:
    """Between a source and a sink, both open. Every method raises what is wrong, with what to do."""

    def __init__(self, settings: Settings, source: Source, sink: Sink, recorded: Recorded) -> None:
        self.settings = settings
        self._source = source
        self._sink = sink
        self._recorded = recorded

    def problems(self, tables: Sequence[FoundTable], *, and_slot: bool) -> Iterator[DbmazzError]:
        """All that is wrong with the position and the tables, one after the other.

        Args:
            tables: The source's.
            and_slot: Whether the slot is looked at too.
        """
        states, followed = self._recorded.states, self._recorded.streaming
        origins: dict[TableRef, TableRef] = {}
        hidden = self.hidden()

        def look_at_hidden(table: FoundTable) -> None:
            self.verify_hidden([table], hidden)

        def look_at_names() -> None:
            renamed = self.name_changes(tables, followed).renamed
            origins.update({new: old for old, new in renamed.items()})

        def look_at(table: FoundTable) -> None:
            self.verify_tables([(table, states.get(origins.get(table.ref, table.ref)))], followed)

        looks: list[Callable[[], None]] = [partial(self.verify_position, and_slot=and_slot), look_at_names]
        looks += [partial(look_at_hidden, table) for table in tables]
        looks += [partial(look_at, table) for table in tables]
        for look in looks:
            try:
                look()
            except DbmazzError as error:
                yield error

    def checkpoint(self) -> Checkpoint | None:
        """The destination's checkpoint, after making sure that it is this server's."""
        checkpoint = self._recorded.checkpoint
        identity = self._source.identity
        if checkpoint is not None and (checkpoint.system_identifier, checkpoint.database) != (
            identity.system_identifier,
            identity.database,
        ):
            raise WrongServer(
                f"{self.settings.sink.url} holds the tables of database {checkpoint.database} of another PostgreSQL "
                f"cluster (system identifier {checkpoint.system_identifier}); SOURCE_URL leads to {identity.database} "
                f"of {identity.system_identifier}",
                object=self.settings.sink.url,
                remedy="correct SOURCE_URL, or choose another file (SINK_URL) for this server",
            )
        return checkpoint

    def verify_position(self, *, and_slot: bool) -> None:
        """The checkpoint is of this server, which leads on from there, and so does the slot, if that is asked for."""
        checkpoint = self.checkpoint()
        if checkpoint is not None:
            self._source.verify_history(checkpoint.lsn, checkpoint.timeline)
            if and_slot and not (self.settings.source.cleanup_on_stop and self._source.slot() is None):
                self._source.verify_slot(checkpoint.lsn)

    def name_changes(self, tables: Sequence[FoundTable], followed: Sequence[TableRef]) -> NameChanges:
        """What became of the tables' names.

        Args:
            tables: The source's.
            followed: Those of the destination that the stream goes on with.
        """
        recorded = self._recorded.tables
        identities = {ref: recorded[ref].identity for ref in followed}
        return name_changes(tables, identities, recorded, self.settings.tables.schema_changes)

    def hidden(self) -> dict[int, tuple[TableRef, TableIdentity]]:
        """By OID: tables of the destination of which rules hid columns when they were copied, and what they were."""
        return {
            table.identity.oid: (ref, table.identity)
            for ref, table in self._recorded.tables.items()
            if table.identity is not None and table.identity.hidden
        }

    def verify_hidden(self, tables: Iterable[FoundTable], hidden: Mapping[int, tuple[TableRef, TableIdentity]]) -> None:
        """What rules hid when a table was copied is hidden today, whatever it and its table are called now.

        Args:
            tables: The source's.
            hidden: See `hidden`.
        """
        for table in tables:
            if table.oid in hidden:
                self._source.verify_hidden(table.ref, *hidden[table.oid])

    def verify_tables(
        self, tables: Sequence[tuple[FoundTable, TableState | None]], followed: Collection[TableRef]
    ) -> None:
        """Tables of the destination are this slot's, and as they were left there, under the settings of today.

        Args:
            tables: The source's, each with the state of the destination's, which has another name if it was renamed;
                None if it is going to be made anew.
            followed: Tables of the destination that the stream goes on with.
        """
        refs = [state.table if state else info.ref for info, state in tables]
        conflicts = self._sink.owner_conflicts(refs, slot=self.settings.source.slot)
        for ref, (info, state) in zip(refs, tables, strict=True):
            if ref in conflicts:
                raise conflicts[ref]
            if state is None:
                continue
            self._verify_mode(state)
            if ref in followed:
                table = self._recorded.tables[ref]
                table.verify_unaltered()
                self._source.verify_rules(info.ref, table.schema)

    def _verify_mode(self, state: TableState) -> None:
        """A table is not made anew in another mode unless that is asked for: a history might go."""
        ref, wanted = state.table, self.settings.tables.mode.of(state.table)
        if state.mode is wanted:
            return
        gone = {Mode.MIRROR: "", Mode.SOFT_DELETE: " without the deleted rows", Mode.CHANGELOG: " without its history"}
        raise ConfigError(
            f"{ref} is kept in mode {state.mode} in {self.settings.sink.url}, and MODE asks for {wanted}",
            object="MODE",
            remedy=f"make the table anew{gone[state.mode]}: dbmazz snapshot --tables '{ref}'; "
            f'or leave it as it is: MODE="{ref}={state.mode}"',
        )

    def verify_names(self) -> None:
        """Before anything is changed: names that are one to the destination."""
        for conflict in self._sink.name_conflicts(self._source.column_names()):
            raise conflict
