"""Apply the events of tables in the destination's open transaction."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dbmazz_core.engine.changelog import changelog
from dbmazz_core.engine.net_effect import compact
from dbmazz_core.engine.quarantine import Quarantine
from dbmazz_core.engine.result import WindowResult
from dbmazz_core.engine.schema_following import WindowEvent, stopped
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.records import SourcePosition
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import Resnapshot, SchemaEvent
from dbmazz_core.model.sink import SinkTransaction
from dbmazz_core.model.stream import Truncation
from dbmazz_core.table_ref import TableRef

#: Changes of rows, in stream order.
_Changes = list[ChangeBatch | Truncation]


class Canceled(Exception):
    """`EventApplier.apply` was canceled: the window rolls back. It is not an error that a user sees."""


class EventApplier:
    """Applies events table by table, the events of each table in stream order.

    Args:
        shapes: The tables as the sink has them.
        modes: The mode of each table; tables without an entry are in mode `mirror`.
        quarantined: Returns whether rows of a table with bad values go to quarantine; None: bad values stop the window.
        result: Takes the seconds of the phases, and the schema changes.
    """

    def __init__(
        self,
        shapes: Mapping[TableRef, TableSchema],
        modes: Mapping[TableRef, Mode],
        quarantined: Callable[[TableRef], bool] | None,
        result: WindowResult,
    ) -> None:
        self._shapes = dict(shapes)
        self._modes = modes
        self._quarantined = quarantined
        self._sink: SinkTransaction
        self._quarantine: Quarantine | None = None
        self._result = result
        self._canceled = threading.Event()
        # Tables that must be re-snapshotted: the rest of their events in this window is left out.
        self._abandoned: set[TableRef] = set()
        # Rows that the destination's open transaction put in quarantine, by table; they count once it is committed.
        self._uncommitted_quarantine: dict[TableRef, int] = {}

    def apply(self, events: Sequence[WindowEvent], sink: SinkTransaction) -> None:
        """Apply events in a transaction of the destination.

        Raises:
            DbmazzError: The transaction must be rolled back.
            Canceled: `cancel` was called. The transaction must be rolled back.
        """
        self._sink = sink
        self._quarantine = None if self._quarantined is None else Quarantine(sink, self._quarantined)
        by_table: dict[TableRef, list[WindowEvent]] = {}
        for event in events:
            by_table.setdefault(event.table, []).append(event)
        for table, table_events in by_table.items():
            changes: _Changes = []
            for event in table_events:
                if isinstance(event, SchemaEvent):
                    self._apply_changes(table, changes)
                    changes = []
                    self._reshape(event)
                elif isinstance(event, ChangeBatch | Truncation):
                    changes.append(event)
            self._apply_changes(table, changes)
        self._verify_not_canceled()

    def cancel(self) -> None:
        """Make `apply` end before its next statement, for good. May be called from any thread."""
        self._canceled.set()

    def _verify_not_canceled(self) -> None:
        if self._canceled.is_set():
            raise Canceled

    def committed(self) -> None:
        """Count the rows in quarantine: the destination's transaction is durable."""
        for table, count in self._uncommitted_quarantine.items():
            self._result.tables[table].quarantined += count
        self._uncommitted_quarantine.clear()

    def rolled_back(self) -> None:
        """Forget the rows in quarantine: the destination's transaction was rolled back."""
        self._uncommitted_quarantine.clear()

    def _apply_changes(self, table: TableRef, changes: _Changes) -> None:
        """Apply changes of rows to a table in its mode, unless the table was abandoned."""
        if not changes or table in self._abandoned:
            return
        self._verify_not_canceled()
        if self._modes.get(table) is Mode.CHANGELOG:
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
            self._sink.apply(effect)
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
        self._uncommitted_quarantine[table] = self._uncommitted_quarantine.get(table, 0) + count
        return kept

    def _reshape(self, event: SchemaEvent) -> None:
        """Change a table's shape, or abandon the table in this window if it must be re-snapshotted."""
        if event.table in self._abandoned:
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
            self._sink.abandon(event)
            self._abandoned.add(event.table)
            self._result.copy_anew[event.table] = event.resnapshot
            return
        self._shapes[event.table] = event.schema
        self._result.schema_changes += [f"{event.table}: {step} ({action.value})" for step, action in event.steps]

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


def _identification(change: ChangeBatch | Truncation) -> tuple[object, ...] | None:
    """Return key and columns, which are equal for changes that are compacted together; None for a TRUNCATE."""
    return (change.schema.key, change.schema.columns) if isinstance(change, ChangeBatch) else None
