"""Apply the events of tables in the destination's open transaction."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dbmazz_core.engine.changelog import changelog
from dbmazz_core.engine.isolation import Isolation, LeftOut, mark_left_out
from dbmazz_core.engine.net_effect import compact
from dbmazz_core.engine.quarantine import Quarantine
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.engine.schema_following import WindowEvent, stopped
from dbmazz_core.errors import DbmazzError
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.records import SourcePosition
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Resnapshot, SchemaEvent
from dbmazz_core.model.sink import NoRoom, SinkTransaction
from dbmazz_core.model.stream import Truncation
from dbmazz_core.model.table_shape import TableShape
from dbmazz_core.table_ref import TableRef

#: Changes of rows, in stream order.
_Changes = list[ChangeBatch | Truncation]


@dataclass(slots=True)
class _OpenTransaction:
    """What an uncommitted transaction of the destination has done.

    Attributes:
        left_out: Tables without which the transaction is repeated: they left the stream since the last commit.
        abandoned: Tables that left the stream in this transaction.
        touched: Tables whose events were applied.
        quarantined: By table: the number of rows that went to quarantine.
        schema_changes: A sentence for each schema change.
        shapes: The tables when the transaction began.
    """

    left_out: set[TableRef] = field(default_factory=set)
    abandoned: set[TableRef] = field(default_factory=set)
    touched: set[TableRef] = field(default_factory=set)
    quarantined: dict[TableRef, int] = field(default_factory=dict)
    schema_changes: list[str] = field(default_factory=list)
    shapes: dict[TableRef, TableSchema] = field(default_factory=dict)


class Canceled(Exception):
    """`EventApplier.apply` was canceled: the window rolls back. It is not an error that a user sees."""


class EventApplier:
    """Applies events table by table, the events of each table in stream order.

    Args:
        shapes: The tables as the sink has them.
        modes: The mode of each table; tables without an entry are in mode `mirror`.
        quarantined: Returns whether rows of a table with bad values go to quarantine; None: bad values stop the window.
        result: Takes the seconds of the phases, and the schema changes once they are durable.
        isolation: Tells which errors concern single tables only; None: all stop the window.

    Attributes:
        left_out: Tables that have left the stream since the window began, each with the reason. Their events have no
            effect.
    """

    def __init__(
        self,
        shapes: Mapping[TableRef, TableSchema],
        modes: Mapping[TableRef, Mode],
        quarantined: Callable[[TableRef], bool] | None,
        result: WindowResult,
        isolation: Isolation | None = None,
    ) -> None:
        self.left_out: dict[TableRef, DbmazzError | SchemaEvent] = {}
        self._isolation = isolation or Isolation()
        self._shapes = dict(shapes)
        self._modes = modes
        self._quarantined = quarantined
        self._sink: SinkTransaction
        self._quarantine: Quarantine | None = None
        self._result = result
        self._canceled = threading.Event()
        # What the destination's open transaction did. It counts once the transaction is committed.
        self._open = _OpenTransaction()

    def begin(self, sink: SinkTransaction) -> None:
        """Begin a transaction of the destination: record the tables that have left the stream since the last commit."""
        self._open.shapes = dict(self._shapes)
        for table in self._open.left_out:
            mark_left_out(sink, table, self.left_out[table])

    def apply(self, events: Sequence[WindowEvent], sink: SinkTransaction) -> None:
        """Apply events in a transaction of the destination.

        Raises:
            LeftOut: The transaction must be rolled back, and repeated without some tables.
            DbmazzError: The transaction must be rolled back.
            Canceled: `cancel` was called. The transaction must be rolled back.
        """
        self._sink = sink
        self._quarantine = None if self._quarantined is None else Quarantine(sink, self._quarantined)
        for table, table_events in self.by_table(events).items():
            try:
                self._apply_table(table, table_events)
            except DbmazzError as error:
                if (left_out := self._isolation.left_out(error, table)) is None:
                    raise
                raise left_out from error
            self._open.touched.add(table)
        self._verify_not_canceled()

    def _apply_table(self, table: TableRef, events: Sequence[WindowEvent]) -> None:
        """Apply the events of one table, in their order."""
        resnapshot = next((e for e in events if isinstance(e, SchemaEvent) and e.resnapshot is not None), None)
        if resnapshot is not None and table not in self._open.touched and not self._is_changelog(table):
            self._abandon(resnapshot)  # the table keeps its rows of the last commit
            return
        changes: _Changes = []
        for event in events:
            if isinstance(event, SchemaEvent):
                self._apply_changes(table, changes)
                changes = []
                self._reshape(event)
            elif isinstance(event, ChangeBatch | Truncation):
                changes.append(event)
        self._apply_changes(table, changes)

    def by_table(self, events: Iterable[WindowEvent]) -> dict[TableRef, list[WindowEvent]]:
        """Return the events of each table that has not left the stream, in their order."""
        found: dict[TableRef, list[WindowEvent]] = {}
        for event in events:
            if event.table not in self.left_out:
                found.setdefault(event.table, []).append(event)
        return found

    def leave_out(self, tables: Mapping[TableRef, DbmazzError | SchemaEvent]) -> None:
        """Forget what the transaction did, which was rolled back; ignore all events of tables from now on.

        Args:
            tables: What `apply` raised.
        """
        self.rolled_back()
        self.left_out |= tables
        self._open.left_out |= tables.keys()

    def cancel(self) -> None:
        """Make `apply` end before its next statement, for good. May be called from any thread."""
        self._canceled.set()

    def _verify_not_canceled(self) -> None:
        if self._canceled.is_set():
            raise Canceled

    def committed(self) -> None:
        """Report what the transaction did: it is durable."""
        done, self._open = self._open, _OpenTransaction()
        for table, count in done.quarantined.items():
            self._result.tables[table].quarantined += count
        self._result.schema_changes += done.schema_changes
        for table in done.left_out | done.abandoned:
            self._result.leave_out(table, self.left_out[table])

    def rolled_back(self) -> None:
        """Forget what the transaction did: it was rolled back."""
        if self._open.shapes:
            self._shapes = dict(self._open.shapes)
        for table in self._open.abandoned:
            self.left_out.pop(table, None)
        self._open = _OpenTransaction(left_out=self._open.left_out, shapes=dict(self._shapes))

    def _apply_changes(self, table: TableRef, changes: _Changes) -> None:
        """Apply changes of rows to a table in its mode, unless the table was abandoned."""
        if not changes or table in self.left_out:
            return
        self._verify_not_canceled()
        if self._is_changelog(table):
            self._append(table, changes)
        else:
            self._merge(table, changes)

    def _merge(self, table: TableRef, changes: _Changes) -> None:
        """Apply the net effect of changes to a table in mode `mirror` or `soft_delete`."""
        soft_delete = self._modes.get(table) is Mode.SOFT_DELETE
        if not soft_delete:
            # Changes before the last TRUNCATE have no effect.
            last = max((at for at, change in enumerate(changes) if isinstance(change, Truncation)), default=0)
            changes = changes[last:]
        truncated: SourcePosition | None = None
        # Rows are found by other columns once the replica identity has changed.
        for _, run in itertools.groupby(changes, _identification):
            self._verify_not_canceled()
            batches: list[ChangeBatch] = []
            for change in run:
                if isinstance(change, Truncation):
                    truncated = truncated or change.position
                else:
                    batches.append(change)
            if not batches:
                continue
            started = time.perf_counter()
            kept = self._without_quarantined(batches, emptied=truncated is not None)
            effect = (
                compact(kept, truncated=truncated, soft_delete=soft_delete)
                if kept
                else NetEffect(batches[0].schema, truncated)
            )
            truncated = None
            compacted = time.perf_counter()
            try:
                self._sink.apply(effect)
            except NoRoom as no_room:
                # Without a table that leaves the stream, the transaction is repeated as it is.
                raise LeftOut({} if no_room.again else {table: _too_large(batches[-1])}) from no_room
            self._add_durations(started, compacted)
        if truncated:
            self._sink.apply(NetEffect(self._shapes[table], truncated))

    def _append(self, table: TableRef, changes: _Changes) -> None:
        """Append every change to a table in mode `changelog`."""
        schema = self._shapes[table]
        # For a quarantine, earlier changes must be in the changelog already: it tells which rows exist.
        runs = (
            [changes]
            if self._quarantine is None
            else [list(run) for _, run in itertools.groupby(changes, _identification)]
        )
        for run in runs:
            self._verify_not_canceled()
            started, kept = time.perf_counter(), run
            batches = [change for change in run if isinstance(change, ChangeBatch)]
            if len(batches) == len(run):
                kept = [*self._without_quarantined(batches, emptied=False, history=True)]
            if not kept:
                continue
            rows = changelog(schema, kept)
            compacted = time.perf_counter()
            self._sink.append_changes(schema, rows)
            self._add_durations(started, compacted)

    def _without_quarantined(
        self, batches: list[ChangeBatch], *, emptied: bool, history: bool = False
    ) -> list[ChangeBatch]:
        """Return the changes that the destination can hold. If a quarantine is configured, the others go there."""
        if self._quarantine is None:
            return batches
        kept, count = self._quarantine.separate_changes(batches, emptied=emptied, history=history)
        table = batches[0].table
        self._open.quarantined[table] = self._open.quarantined.get(table, 0) + count
        return kept

    def _reshape(self, event: SchemaEvent) -> None:
        """Change a table's shape; the table leaves the stream if it must be re-snapshotted.

        Raises:
            LeftOut: The table must be re-snapshotted, and has changes in this transaction.
        """
        if event.table in self.left_out:
            return
        self._verify_not_canceled()
        if (
            event.resnapshot is None
            and self._quarantine
            and (column := self._quarantine.unrepresentable_default(event))
        ):
            event = replace(event, resnapshot=Resnapshot.for_default(column).reason)
        if event.resnapshot is None and (reason := self._doubtful_labels(event)) is not None:
            event = replace(event, resnapshot=reason)
        if event.resnapshot is None and not self._sink.evolve(event):
            steps = "; ".join(str(step) for step, _ in event.steps)
            event = replace(event, resnapshot=f"changed in a transaction that had changed its rows: {steps}")
        if event.resnapshot is not None:
            if not self._is_changelog(event.table):
                raise LeftOut({event.table: event})
            # A changelog keeps the changes before this event: a re-snapshot does not bring them.
            self._abandon(event)
            return
        self._shapes[event.table] = event.schema
        self._open.schema_changes += [f"{event.table}: {step} ({action.value})" for step, action in event.steps]

    def _abandon(self, event: SchemaEvent) -> None:
        """Record in the open transaction that a table must be re-snapshotted, and ignore its later events."""
        self._sink.abandon(event)
        self.left_out[event.table] = event
        self._open.abandoned.add(event.table)

    def _is_changelog(self, table: TableRef) -> bool:
        return self._modes.get(table) is Mode.CHANGELOG

    def _doubtful_labels(self, event: SchemaEvent) -> str | None:
        """Return why a table must be re-snapshotted whose enums got labels; None if its values leave no doubt.

        Raises:
            SchemaChanged: The policy is to stop.
        """
        for labels in event.labels:
            held = self._sink.other_values(self._shapes[event.table], labels.column, labels.known)
            if not labels.are_in_doubt(held):
                continue
            reason = "has values of an enum's new labels, which may have been renamed since"
            if labels.stop:
                raise stopped(event.table, reason, event.commit_lsn, event.xid)
            return reason
        return None

    def _add_durations(self, started: float, compacted: float) -> None:
        """Add the seconds of compaction and of applying, which ends now, to the phases."""
        self._result.phases["compact"] += compacted - started
        self._result.phases["merge"] += time.perf_counter() - compacted


def _too_large(batch: ChangeBatch) -> SchemaEvent:
    """Return the event that asks for the re-snapshot of a table with a transaction that is too large."""
    reason = "had a transaction with more wide rows than the destination's memory holds"
    shape, lsn, xid = TableShape.of(batch.schema, None), Lsn(int(batch.commit_lsn[-1])), int(batch.xid[-1])
    return SchemaEvent(batch.table, (), shape, reason, lsn, xid)


def _identification(change: ChangeBatch | Truncation) -> tuple[object, ...] | None:
    """Return key and columns, which are equal for changes that are compacted together; None for a TRUNCATE."""
    return (change.schema.key, change.schema.columns) if isinstance(change, ChangeBatch) else None
