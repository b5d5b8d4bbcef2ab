"""What happened to each table, in order, into the destination's open transaction."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from dbmazz_core.engine.changelog import changelog
from dbmazz_core.engine.compact import compact
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
    """The window does not want what is being applied any more; it rolls it back. No error of anybody's."""


class EventApplier:
    """Applies events of tables; of each in stream order, the tables one after the other.

    Args:
        shapes: The tables as the sink has them.
        modes: How each is kept; `mirror` where nothing is said.
        wanted: The tables whose rows with bad values go to quarantine; None: bad values stop the window.
        result: Takes the phases' seconds, and what became of tables' shapes.
    """

    def __init__(
        self,
        shapes: Mapping[TableRef, TableSchema],
        modes: Mapping[TableRef, Mode],
        wanted: Callable[[TableRef], bool] | None,
        result: WindowResult,
    ) -> None:
        self._shapes = dict(shapes)
        self._modes = modes
        self._wanted = wanted
        self._sink: SinkTransaction
        self._quarantine: Quarantine | None = None
        self._result = result
        self._canceled = threading.Event()
        # Tables that have to be copied anew: the window passes over the rest of their events.
        self._given_up: set[TableRef] = set()
        # Of the destination's open transaction: counted when it is committed.
        self._quarantined: dict[TableRef, int] = {}

    def apply(self, events: Sequence[WindowEvent], sink: SinkTransaction) -> None:
        """Apply events in a transaction of the destination.

        Raises:
            DbmazzError: What was applied since the transaction began has to be rolled back.
            Canceled: Likewise.
        """
        self._sink = sink
        self._quarantine = None if self._wanted is None else Quarantine(sink, self._wanted)
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
        self._go_on()

    def cancel(self) -> None:
        """Have `apply` end before its next statement; for good, and from any thread."""
        self._canceled.set()

    def _go_on(self) -> None:
        if self._canceled.is_set():
            raise Canceled

    def committed(self) -> None:
        """The destination's transaction is durable."""
        for table, count in self._quarantined.items():
            self._result.tables[table].quarantined += count
        self._quarantined.clear()

    def rolled_back(self) -> None:
        """It is not, and never will be."""
        self._quarantined.clear()

    def _apply_changes(self, table: TableRef, changes: _Changes) -> None:
        if not changes or table in self._given_up:
            return
        self._go_on()
        if self._modes.get(table) is Mode.CHANGELOG:
            self._append(table, changes)
        else:
            self._merge(table, changes)

    def _merge(self, table: TableRef, changes: _Changes) -> None:
        """The net effect, on a table that holds the source's rows."""
        soft_delete = self._modes.get(table) is Mode.SOFT_DELETE
        if not soft_delete:
            # Whatever happened before the last TRUNCATE is gone.
            last = max((at for at, change in enumerate(changes) if isinstance(change, Truncation)), default=0)
            changes = changes[last:]
        truncated: SourcePosition | None = None
        # Where the replica identity changes, so does what rows are found by.
        for _, run in itertools.groupby(changes, _found_by):
            self._go_on()
            batches: list[ChangeBatch] = []
            for change in run:
                if isinstance(change, Truncation):
                    truncated = truncated or change.position
                else:
                    batches.append(change)
            if not batches:
                continue
            clock = time.perf_counter()
            left = self._held(batches, emptied=truncated is not None)
            effect = (
                compact(left, truncated=truncated, soft_delete=soft_delete)
                if left
                else NetEffect(batches[0].schema, truncated)
            )
            truncated = None
            compacted = time.perf_counter()
            self._sink.apply(effect)
            self._count(clock, compacted)
        if truncated:
            self._sink.apply(NetEffect(self._shapes[table], truncated))

    def _append(self, table: TableRef, changes: _Changes) -> None:
        """Every change, to a changelog."""
        schema = self._shapes[table]
        # With a quarantine, what came before has to be in the changelog already: it tells which rows are there.
        runs = (
            [changes] if self._quarantine is None else [list(run) for _, run in itertools.groupby(changes, _found_by)]
        )
        for run in runs:
            self._go_on()
            clock, held = time.perf_counter(), run
            batches = [change for change in run if isinstance(change, ChangeBatch)]
            if len(batches) == len(run):
                held = [*self._held(batches, emptied=False, history=True)]
            if not held:
                continue
            rows = changelog(schema, held)
            made = time.perf_counter()
            self._sink.append_changes(schema, rows)
            self._count(clock, made)

    def _held(self, batches: list[ChangeBatch], *, emptied: bool, history: bool = False) -> list[ChangeBatch]:
        """What of a table's changes the destination can hold; the rest goes to quarantine, where that is wanted."""
        if self._quarantine is None:
            return batches
        left, count = self._quarantine.separate(batches, emptied=emptied, history=history)
        table = batches[0].table
        self._quarantined[table] = self._quarantined.get(table, 0) + count
        return left

    def _reshape(self, event: SchemaEvent) -> None:
        """Change a table's shape, or give it up for this window where that has to be done by copying it anew."""
        if event.table in self._given_up:
            return
        self._go_on()
        if event.copy_anew is None and self._quarantine and (column := self._quarantine.unheld_default(event)):
            event = replace(event, copy_anew=Resnapshot.for_default(column).reason)
        if event.copy_anew is None and (reason := self._labels_tell(event)) is not None:
            event = replace(event, copy_anew=reason)
        if event.copy_anew is None and not self._sink.evolve(event):
            steps = "; ".join(str(step) for step, _ in event.steps)
            event = replace(event, copy_anew=f"changed in a transaction that had changed its rows: {steps}")
        if event.copy_anew is not None:
            self._sink.abandon(event)
            self._given_up.add(event.table)
            self._result.copy_anew[event.table] = event.copy_anew
            return
        self._shapes[event.table] = event.schema
        self._result.schema_changes += [f"{event.table}: {step} ({action.value})" for step, action in event.steps]

    def _labels_tell(self, event: SchemaEvent) -> str | None:
        """Why a table has to be copied anew whose enums got labels, if its values leave doubt.

        Raises:
            SchemaChanged: If the policy is to stop then.
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

    def _count(self, started: float, compacted: float) -> None:
        self._result.phases["compact"] += compacted - started
        self._result.phases["merge"] += time.perf_counter() - compacted


def _found_by(change: ChangeBatch | Truncation) -> tuple[object, ...] | None:
    """What changes that are compacted together have in common; None for what is not compacted."""
    return (change.schema.key, change.schema.columns) if isinstance(change, ChangeBatch) else None
