"""Copying tables: which ones, from which snapshot, and what the checkpoint is meanwhile.

A table is copied in one destination transaction, together with its snapshot LSN; the stream leaves out what was
committed before that LSN, for this table only. So tables may be copied at different times, and a copy that breaks
leaves the tables that were complete; the next run copies the others, from a newer snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.connectors.sources.postgres.catalog.identity import (
    SourceTable,
    TableIdentity,
    verify_still_hidden,
)
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.quarantine import Quarantine
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import BadValuePolicy
from dbmazz_core.model.sink import Sink
from dbmazz_core.model.source import FoundTable, Snapshot, Source
from dbmazz_core.model.table_state import TableState
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

#: Least time between two progress reports of a table.
_REPORT_S = 0.1
#: How often a table that is altered while it is copied is copied again.
_ATTEMPTS = 5


class StopRequested(Exception):
    """Copying was asked to stop in the middle of a table, or while it waited for a slot."""


@dataclass(slots=True)
class SnapshotRun:
    """What has to be copied, and how.

    Attributes:
        tables: The captured tables.
        needed: Those to copy.
        checkpoint: The checkpoint when streaming starts; known once `copy` is done if there was none.
        slot_lsn: What the slot has confirmed; None if it has to be created.
        fresh: Whether there was no checkpoint.
        with_rows: Whether rows are copied, or tables begin empty.
        replaced: Tables that are copied since another one has their name now, and what happened.
        hidden: By OID: tables that are not to show what was hidden when they were copied; what they were called, and
            what they were.
        quarantined: Rows that went to quarantine, by table.
        stop: Set from elsewhere to end before the next rows.
        stopped: Whether that was before all was copied.
    """

    settings: Settings
    source: Source
    sink: Sink
    tables: Mapping[TableRef, FoundTable]
    needed: list[TableRef]
    checkpoint: Checkpoint
    slot_lsn: Lsn | None
    fresh: bool
    with_rows: bool
    progress: Callable[[Progress], None] = field(default=lambda _: None)
    replaced: dict[TableRef, str] = field(default_factory=dict)
    hidden: Mapping[int, tuple[TableRef, TableIdentity]] = field(default_factory=dict)
    quarantined: dict[TableRef, int] = field(default_factory=dict)
    stop: Event = field(default_factory=Event)
    stopped: bool = False

    def forced(self) -> SnapshotRun:
        """The same, but with rows whatever DO_SNAPSHOT says: copying was asked for."""
        return replace(self, with_rows=True)

    def copy(self) -> dict[TableRef, int]:
        """Copy what is needed; rows by table.

        Asked to stop, it copies no more: the table that it is at stays as it was, those that were complete are new.

        Raises:
            DbmazzError: Tables that were complete stay.
        """
        copied: dict[TableRef, int] = {}
        try:
            if self.with_rows:
                self._copy(copied)
            else:
                self._begin_empty()
        except StopRequested:
            self.stopped = True
        return copied

    def _copy(self, copied: dict[TableRef, int]) -> None:
        for _ in range(_ATTEMPTS):
            left = [ref for ref in self.needed if ref not in copied]
            with self.source.snapshot(left, new_slot=self.slot_lsn is None) as snapshot:
                if self.fresh:
                    self.checkpoint, self.fresh = replace(self.checkpoint, lsn=snapshot.lsn), False
                if self.slot_lsn is None:
                    self.slot_lsn = snapshot.lsn
                for ref in left:
                    self._verify_not_stopped()
                    table = snapshot.table(ref)
                    if table is not None and (rows := self._copy_table(snapshot, table)) is not None:
                        copied[ref] = rows
            if len(copied) == len(self.needed):
                return
            # Somebody changed their shape meanwhile, or what is published of them.
            look = self.source.look()
            look.verify_tables()
            self.tables = {info.ref: info for info in look.tables if info.ref in self.tables}
            self.needed = [ref for ref in self.needed if ref in self.tables]
        missing = ", ".join(str(ref) for ref in self.needed if ref not in copied)
        raise SourceNotReady(
            f"{missing} changed shape, or the publication did, each time while being copied",
            object=missing,
            remedy="run again when nobody alters or truncates the table, or alters the publication",
        )

    def _copy_table(self, snapshot: Snapshot, table: SourceTable) -> int | None:
        """Copy a table; its rows, or None if it was altered meanwhile."""
        ref, schema = table.table, table.schema
        info = self.tables[ref]
        reported, rows, bad = time.monotonic(), 0, 0
        quarantine = quarantine_of(self.settings, self.sink)
        total = max(info.estimated_rows, 0)
        self.progress(Progress("snapshot", ref, 0, total))
        self.sink.begin()
        try:
            self._create(table, snapshot.lsn)
            lenient = quarantine is not None and quarantine.wanted(ref)
            for copied in snapshot.rows(ref, lenient=lenient):
                self._verify_not_stopped()
                frame, count = copied.frame, 0
                if quarantine is not None and lenient:
                    frame, count = quarantine.copied(schema, copied, snapshot.lsn)
                bad += count
                self.sink.append(schema, frame)
                rows += len(frame)
                if time.monotonic() - reported >= _REPORT_S:
                    reported = time.monotonic()
                    self.progress(Progress("snapshot", ref, rows, max(total, rows)))
            if not snapshot.is_unaltered(ref):
                self.sink.rollback()
                return None
            self.sink.finish_copy(schema)
            self.sink.commit(self.checkpoint)
        except BaseException:
            self.sink.rollback()
            raise
        self.quarantined[ref] = bad
        self.progress(Progress("snapshot", ref, rows, rows))
        return rows

    def _verify_not_stopped(self) -> None:
        if self.stop.is_set():
            raise StopRequested

    def _create(self, table: SourceTable, lsn: Lsn) -> None:
        if table.identity.oid in self.hidden:
            verify_still_hidden(*self.hidden[table.identity.oid], table)
        self.sink.create_table(
            table.schema,
            slot=self.settings.source.slot,
            snapshot_lsn=lsn,
            mode=self.settings.tables.mode.of(table.schema.table),
            complete=self.with_rows,
            identity=table.identity,
        )

    def _begin_empty(self) -> None:
        """Make the tables without rows: only what changes from the slot's position on will be in them."""
        lsn = self.checkpoint.lsn
        if self.slot_lsn is None:
            with self.source.snapshot((), new_slot=True) as snapshot:
                lsn = snapshot.lsn
        elif self.fresh:
            lsn = self.slot_lsn
        self.checkpoint = replace(self.checkpoint, lsn=lsn)
        tables = self.source.describe_tables(self.needed)
        self.sink.begin()
        try:
            for table in tables.values():
                self._create(table, lsn)
                self.sink.finish_copy(table.schema)
            self.sink.commit(self.checkpoint)
        except BaseException:
            self.sink.rollback()
            raise


def quarantine_of(settings: Settings, sink: Sink) -> Quarantine | None:
    """Where bad rows go, None if they stop everything."""
    policy = settings.tables.on_bad_value
    if BadValuePolicy.QUARANTINE not in (policy.default, *(value for _, value in policy.exceptions)):
        return None
    return Quarantine(sink, settings.source.slot, lambda table: policy.of(table) is BadValuePolicy.QUARANTINE)


def plan(
    settings: Settings,
    source: Source,
    sink: Sink,
    tables: Mapping[TableRef, FoundTable],
    states: Mapping[TableRef, TableState],
    checkpoint: Checkpoint | None,
    slot_lsn: Lsn | None,
    again: Sequence[TableRef],
    progress: Callable[[Progress], None] | None,
    stop: Event | None = None,
) -> SnapshotRun:
    """Find out which tables have to be copied: those asked for, new ones, and those whose copy was not completed."""
    identity = source.identity
    start = checkpoint or Checkpoint(
        settings.source.slot, Lsn(0), identity.system_identifier, identity.timeline, identity.database
    )
    needed = [ref for ref in tables if ref in again or ref not in states or states[ref].state != "streaming"]
    return SnapshotRun(
        settings=settings,
        source=source,
        sink=sink,
        tables=tables,
        needed=needed,
        checkpoint=replace(start, timeline=identity.timeline),
        slot_lsn=slot_lsn,
        fresh=checkpoint is None,
        # Of what was followed, the rows are wanted.
        with_rows=settings.snapshot.enabled
        or bool(again)
        or any(states[ref].state == "changed" for ref in needed if ref in states),
        progress=progress or (lambda _: None),
        stop=stop or Event(),
    )
