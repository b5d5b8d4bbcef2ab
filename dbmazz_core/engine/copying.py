"""Copying tables: which tables, from which snapshot, and where the checkpoint is meanwhile.

A table is copied in one transaction of the destination, together with its snapshot LSN; the stream leaves out what
committed before that LSN, for this table only. So tables may be copied at different times. If a copy breaks, tables
that were complete stay, and the next run copies the others from a newer snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.engine.capture import quarantined_tables
from dbmazz_core.engine.progress import Progress
from dbmazz_core.engine.quarantine import Quarantine
from dbmazz_core.errors import SourceNotReady
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Loader, Sink, SinkTransaction
from dbmazz_core.model.source import FoundTable, Snapshot, Source, SourceTable
from dbmazz_core.model.stopping import StopRequested
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

#: Least seconds between two progress reports of a table.
_REPORT_S = 0.1
#: How often a table that is altered while it is copied is copied again.
_ATTEMPTS = 5


@dataclass(slots=True)
class Copying:
    """Copies the tables that need it.

    Attributes:
        settings: All settings.
        source: Set up, with nothing streaming.
        sink: Open, without a transaction.
        tables: The captured tables.
        needed: The tables to copy.
        checkpoint: The checkpoint when streaming starts. If there was none, it is known once `copy` has run.
        position: The feed's confirmed position; None: the feed has to be created.
        first: Whether there was no checkpoint.
        with_rows: Whether rows are copied, or tables begin empty.
        redacted: Tables that must not show columns that were redacted when they were copied, with their tokens.
        progress: Called as rows come.
        stop: Set from elsewhere to end before the next rows.
        quarantined: Rows that went to quarantine, by table.
        stopped: Whether `stop` was set before all tables were copied.
    """

    settings: Settings
    source: Source
    sink: Sink
    tables: Mapping[TableRef, FoundTable]
    needed: list[TableRef]
    checkpoint: Checkpoint
    position: Lsn | None
    first: bool
    with_rows: bool
    redacted: Mapping[TableRef, TableToken] = field(default_factory=dict)
    progress: Callable[[Progress], None] = field(default=lambda _: None)
    stop: Event = field(default_factory=Event)
    quarantined: dict[TableRef, int] = field(default_factory=dict)
    stopped: bool = False

    @classmethod
    def plan(
        cls,
        settings: Settings,
        source: Source,
        sink: Sink,
        tables: Mapping[TableRef, FoundTable],
        recorded: Recorded,
        position: Lsn | None,
        *,
        again: Sequence[TableRef] = (),
        redacted: Mapping[TableRef, TableToken] | None = None,
        progress: Callable[[Progress], None] | None = None,
        stop: Event | None = None,
    ) -> Copying:
        """Find out which tables have to be copied: those asked for, new ones, and those whose copy is not complete.

        Args:
            settings: All settings.
            source: Set up, with nothing streaming.
            sink: Open, without a transaction.
            tables: The captured tables.
            recorded: The destination's bookkeeping.
            position: The feed's confirmed position; None: the feed has to be created.
            again: Tables that are copied whatever the destination holds.
            redacted: See `Copying.redacted`.
            progress: Called as rows come.
            stop: Set from elsewhere to end before the next rows.
        """
        identity, states = source.identity, recorded.states
        start = recorded.checkpoint or Checkpoint(
            settings.source.slot, Lsn(0), identity.system_identifier, identity.timeline, identity.database
        )
        needed = [ref for ref in tables if ref in again or ref not in states or states[ref].state != "streaming"]
        # A table that was followed until its shape changed is wanted with its rows.
        changed = any(states[ref].state == "changed" for ref in needed if ref in states)
        return cls(
            settings=settings,
            source=source,
            sink=sink,
            tables=tables,
            needed=needed,
            checkpoint=replace(start, timeline=identity.timeline),
            position=position,
            first=recorded.checkpoint is None,
            with_rows=settings.snapshot.enabled or bool(again) or changed,
            redacted=redacted or {},
            progress=progress or (lambda _: None),
            stop=stop or Event(),
        )

    def copy(self) -> dict[TableRef, int]:
        """Copy the tables that need it; return the rows by table.

        Asked to stop, it copies no more: the table in progress stays as it was, complete tables are new.

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
            with self.source.snapshot(left, new_feed=self.position is None) as snapshot:
                if self.first:
                    self.checkpoint, self.first = replace(self.checkpoint, lsn=snapshot.lsn), False
                if self.position is None:
                    self.position = snapshot.lsn
                for ref in left:
                    self._verify_not_stopped()
                    table = snapshot.table(ref)
                    if table is not None and (rows := self._copy_table(snapshot, table)) is not None:
                        copied[ref] = rows
            if len(copied) == len(self.needed):
                return
            # A table, or what is published of it, changed meanwhile.
            look = self.source.look()
            look.verify_tables()
            self.tables = {found.ref: found for found in look.tables if found.ref in self.tables}
            self.needed = [ref for ref in self.needed if ref in self.tables]
        missing = ", ".join(str(ref) for ref in self.needed if ref not in copied)
        raise SourceNotReady(
            f"{missing} changed shape, or the publication did, each time while being copied",
            object=missing,
            remedy="run again when nobody alters or truncates the table, or alters the publication",
        )

    def _copy_table(self, snapshot: Snapshot, table: SourceTable) -> int | None:
        """Copy a table; return its rows, or None if it was altered meanwhile."""
        ref = table.table
        reported, rows, bad = time.monotonic(), 0, 0
        wanted = quarantined_tables(self.settings)
        lenient = wanted is not None and wanted(ref)
        total = max(self.tables[ref].estimated_rows, 0)
        self.progress(Progress("snapshot", ref, 0, total))
        with self.sink.begin() as transaction:
            loader = self._create(transaction, table, snapshot.lsn)
            quarantine = Quarantine(transaction, wanted) if wanted is not None and lenient else None
            for copied in snapshot.rows(ref, lenient=lenient):
                self._verify_not_stopped()
                frame, count = copied.frame, 0
                if quarantine is not None:
                    frame, count = quarantine.separate_copied_rows(table.schema, copied, snapshot.lsn)
                bad += count
                loader.append(frame)
                rows += len(frame)
                if time.monotonic() - reported >= _REPORT_S:
                    reported = time.monotonic()
                    self.progress(Progress("snapshot", ref, rows, max(total, rows)))
            if not snapshot.is_unaltered(ref):
                return None
            loader.finish()
            transaction.commit(self.checkpoint)
        self.quarantined[ref] = bad
        self.progress(Progress("snapshot", ref, rows, rows))
        return rows

    def _verify_not_stopped(self) -> None:
        if self.stop.is_set():
            raise StopRequested

    def _create(self, transaction: SinkTransaction, table: SourceTable, lsn: Lsn) -> Loader:
        self.source.verify_redacted_in(table, self.redacted)
        return transaction.create_table(
            TableShape.of(table.schema, table.token),
            snapshot_lsn=lsn,
            mode=self.settings.tables.mode.of(table.table),
            complete=self.with_rows,
        )

    def _begin_empty(self) -> None:
        """Create the tables without rows: they get only what changes from the feed's position on."""
        lsn = self.checkpoint.lsn
        if self.position is None:
            with self.source.snapshot((), new_feed=True) as snapshot:
                lsn = snapshot.lsn
        elif self.first:
            lsn = self.position
        self.checkpoint = replace(self.checkpoint, lsn=lsn)
        tables = self.source.describe_tables(self.needed)
        with self.sink.begin() as transaction:
            for table in tables.values():
                self._create(transaction, table, lsn).finish()
            transaction.commit(self.checkpoint)
