"""Copy tables: choose the tables, read them from a snapshot, and keep the checkpoint meanwhile.

A table is copied in one transaction of the destination, together with the LSN of its snapshot; small tables share one.
The stream leaves out transactions that committed before that LSN, for this table only, so tables may be copied at
different times. If a copy fails, complete tables stay, and the next run copies the other tables from a newer snapshot.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from dbmazz_core.engine.capture import quarantined_tables
from dbmazz_core.engine.isolation import Isolation, retry_when
from dbmazz_core.engine.progress import REPORT_S, Progress
from dbmazz_core.engine.resumable_copies import PartsLoader
from dbmazz_core.engine.table_states import record_facts, record_states
from dbmazz_core.errors import DbmazzError, SlotCreationBlocked, SourceNotReady
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import Recorded
from dbmazz_core.model.sink import Loader, NoRoom, Sink, SinkTransaction, StagedCopy
from dbmazz_core.model.source import FoundTable, ResumableCopy, Snapshot, Source, SourceTable
from dbmazz_core.model.stopping import StopRequested
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.model.table_state import TableStatus
from dbmazz_core.settings.config import Settings
from dbmazz_core.table_ref import TableRef

#: How often copying is tried if tables are altered while they are copied.
_ATTEMPTS = 5
#: How many small tables are copied in one transaction of the destination: a commit costs as much as a small table.
_GROUP = 50
#: Tables with at most so many rows, as estimated, are small; a transaction with more rows takes no further table.
_FEW_ROWS = 10_000


@dataclass(slots=True)
class Copying:
    """Copies the tables that need it.

    Attributes:
        settings: All settings.
        source: Set up, with nothing streaming.
        sink: Open, without a transaction.
        tables: The captured tables.
        needed: The tables to copy.
        checkpoint: The checkpoint at which streaming starts. If the destination had none, it is known after `copy`.
        position: The feed's confirmed position; None: the feed has to be created.
        first: Whether the destination had no checkpoint.
        with_rows: Whether rows are copied; otherwise tables begin empty.
        redacted: Tables of the destination, with their tokens: the copy must not show columns that were redacted when
            such a table was copied.
        progress: Called after rows were loaded.
        stop: Set from elsewhere to end before the next rows.
        quarantined: By table: the number of rows that went to quarantine.
        failed: Tables whose copy failed while others succeeded, with the error.
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
    failed: dict[TableRef, DbmazzError] = field(default_factory=dict)
    stopped: bool = False
    _alone: set[TableRef] = field(default_factory=set)

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
        again: Collection[TableRef] = (),
        redacted: Mapping[TableRef, TableToken] | None = None,
        progress: Callable[[Progress], None] | None = None,
        stop: Event | None = None,
    ) -> Copying:
        """Choose the tables to copy: requested tables, new tables, and tables whose copies are not complete.

        Args:
            settings: All settings.
            source: Set up, with nothing streaming.
            sink: Open, without a transaction.
            tables: The captured tables.
            recorded: The destination's bookkeeping.
            position: The feed's confirmed position; None: the feed has to be created.
            again: Tables that are copied even if their copies are complete.
            redacted: See `Copying.redacted`.
            progress: Called after rows were loaded.
            stop: Set from elsewhere to end before the next rows.
        """
        identity, states = source.identity, recorded.states
        start = recorded.checkpoint or Checkpoint(
            settings.source.slot, Lsn(0), identity.system_identifier, identity.timeline, identity.database
        )
        needed = [
            ref for ref in tables if ref in again or ref not in states or states[ref].state is not TableStatus.STREAMING
        ]
        # A table that was followed until its shape changed, or it got into trouble, is copied with its rows, whatever
        # `DO_SNAPSHOT` says.
        changed = any(states[ref].problem is not None for ref in needed if ref in states)
        return cls(
            settings=settings,
            source=source,
            sink=sink,
            tables=tables,
            needed=needed,
            checkpoint=start.on(identity),
            position=position,
            first=recorded.checkpoint is None,
            with_rows=settings.snapshot.enabled or bool(again) or changed,
            redacted=redacted or {},
            progress=progress or (lambda _: None),
            stop=stop or Event(),
        )

    def copy(self) -> dict[TableRef, int]:
        """Copy the tables that need a copy; return the number of rows by table.

        If `stop` is set, the table in progress keeps its old rows, and tables copied before have their new rows. A
        table whose copy fails, and must not stop the others, keeps its old rows too, and its state is recorded.

        Raises:
            DbmazzError: Tables copied before have their new rows.
        """
        copied: dict[TableRef, int] = {}
        try:
            if self.with_rows:
                self._copy(copied)
            else:
                self._begin_empty()
        except StopRequested:
            self.stopped = True
        self._record_failures(copied)
        return copied

    def _copy(self, copied: dict[TableRef, int]) -> None:
        """Copy the needed tables, from a new snapshot for tables that were altered meanwhile.

        Args:
            copied: Takes the number of rows by copied table.
        """
        attempts = 0
        while attempts < _ATTEMPTS:
            left = [ref for ref in self.needed if ref not in copied and ref not in self.failed]
            failed_before = len(self.failed), len(self._alone)
            self.sink.release()  # a new slot may have to wait for transactions of the source
            try:
                with self.source.snapshot(left, new_feed=self.position is None, hurried=self._hurried) as snapshot:
                    if self.first:
                        self.checkpoint, self.first = replace(self.checkpoint, lsn=snapshot.lsn), False
                    if self.position is None:
                        self.position = snapshot.lsn
                    self._copy_from(snapshot, left, copied)
            except DbmazzError as error:
                self._isolate(error, left)
            if all(ref in copied or ref in self.failed for ref in self.needed):
                return
            if (len(self.failed), len(self._alone)) > failed_before:
                continue  # the failed statement has ended the snapshot's transaction
            # A table was altered, or the publication was, during the copy.
            attempts += 1
            look = self.source.look()
            look = self.source.leave_out([table.ref for table in look.tables if table.ref not in self.tables])
            try:
                look.verify_tables()
            except DbmazzError as error:
                self._isolate(error, left)
            self.tables = {found.ref: found for found in look.tables}
            self.needed = [ref for ref in self.needed if ref in self.tables]
        missing = [ref for ref in self.needed if ref not in copied and ref not in self.failed]
        names = ", ".join(map(str, missing))
        altered = SourceNotReady(
            f"{names} changed shape, or the publication did, each time while being copied",
            object=names,
            remedy="run again when nobody alters or truncates the table, or alters the publication",
            tables=missing,
        )
        self._isolate(altered, missing)

    def _copy_from(self, snapshot: Snapshot, tables: Collection[TableRef], copied: dict[TableRef, int]) -> None:
        """Copy tables from a snapshot until the first one fails, or several fail together."""
        left = [ref for ref in tables if snapshot.table(ref) is not None]
        while left:
            self._verify_not_stopped()
            if len(group := self._first_group(left)) > 1:
                if (rows := self._copy_together(snapshot, group)) is None:
                    return
                left = [ref for ref in left if ref not in rows]
                copied |= rows
            elif not self._copy_alone(snapshot, left.pop(0), copied):
                return

    def _copy_together(self, snapshot: Snapshot, tables: Sequence[TableRef]) -> dict[TableRef, int] | None:
        """Copy small tables in one transaction; return the number of rows of the first ones, which are complete.

        If that fails, the tables are copied one after the other: from this snapshot, or, where the result is None, from
        a new one.
        """
        rows: dict[TableRef, int] | None = None
        try:
            rows = self._copy_tables(snapshot, tables)
        except NoRoom:
            rows = {}
        except DbmazzError:
            pass  # it comes again for the table that it is about
        if not rows:
            self._alone |= {*tables}
        return rows

    def _copy_alone(self, snapshot: Snapshot, table: TableRef, copied: dict[TableRef, int]) -> bool:
        """Copy one table, unless it was altered; return whether the snapshot can still be used."""
        try:
            resumable = self._resumable(snapshot, table)
            if resumable is not None:
                rows = self._copy_in_parts(snapshot, table, resumable)
            else:
                try:
                    rows = self._copy_tables(snapshot, [table])
                except NoRoom:
                    rows = self._copy_tables(snapshot, [table])  # in another way, see `NoRoom.again`
        except DbmazzError as error:
            if not self._isolation.concerned(error, table):
                raise
            self.failed[table] = error
            return False
        copied |= rows or {}
        return True

    def _first_group(self, tables: Sequence[TableRef]) -> Sequence[TableRef]:
        """Return the first tables that are copied in one transaction: small ones of one schema, or a single table."""

        def is_small(table: TableRef) -> bool:
            is_near = table.schema == tables[0].schema and table not in self._alone
            return is_near and self.tables[table].estimated_rows <= _FEW_ROWS

        return [*itertools.takewhile(is_small, tables[:_GROUP])] or tables[:1]

    @property
    def _isolation(self) -> Isolation:
        return Isolation(self.settings.tables.on_error)

    @property
    def _hurried(self) -> bool:
        """Whether locks and transactions at the source must not hold up others."""
        return not self.first and all(map(self._isolation.isolates, self.needed))

    def _isolate(self, error: DbmazzError, tables: Collection[TableRef]) -> None:
        """Leave out the tables whose trouble an error is; raise it if that are none of the tables to copy."""
        blocked = isinstance(error, SlotCreationBlocked) and self.position is not None
        concerned = {*self._isolation.concerned(error)} & {*tables}
        if blocked and all(map(self._isolation.isolates, tables)):
            concerned = {*tables}
        if not concerned:
            raise error
        self.failed |= dict.fromkeys(concerned, error)

    def _record_failures(self, copied: Collection[TableRef]) -> None:
        """Record the states of tables whose copies failed.

        Raises:
            DbmazzError: The first failure, if the destination has no table and no checkpoint.
        """
        if not self.failed:
            return
        recorded = self.sink.read()
        if recorded.checkpoint is None and not copied:
            raise next(iter(self.failed.values()))
        when = {ref: retry_when(error) for ref, error in self.failed.items()}
        recorded = record_states(self.sink, recorded, configured=None, problems=self.failed, retry_when=when)
        record_facts(self.sink, recorded, self.source, self.settings.tables)

    def _copy_tables(self, snapshot: Snapshot, tables: Sequence[TableRef]) -> dict[TableRef, int] | None:
        """Copy tables in one transaction of the destination, until they have many rows together.

        Returns:
            The number of rows by table, for the first tables; None if a table was altered during the copy.
        """
        rows: dict[TableRef, int] = {}
        bad: dict[TableRef, int] = {}
        with self.sink.begin() as transaction:
            for ref in tables:
                table = snapshot.table(ref)
                assert table is not None
                self.progress(Progress("snapshot", ref, 0, max(self.tables[ref].estimated_rows, 0)))
                if rows and self.stop.is_set():
                    break  # the tables before are complete
                rows[ref], bad[ref] = self._load(transaction, snapshot, table)
                if sum(rows.values()) > _FEW_ROWS:
                    break
            if snapshot.altered(rows):
                return None
            transaction.commit(self.checkpoint)
        self.quarantined |= bad
        for ref, count in rows.items():
            self.progress(Progress("snapshot", ref, count, count))
        return rows

    def _resumable(self, snapshot: Snapshot, table: TableRef) -> ResumableCopy | None:
        """Return the copy of a table in parts; None if it is copied in one transaction.

        Rows in quarantine, and the changes of a changelog, are in tables that another run could not set right.
        """
        applies_to = quarantined_tables(self.settings)
        is_changelog = self.settings.tables.mode.of(table) is Mode.CHANGELOG
        if is_changelog or (applies_to is not None and applies_to(table)):
            return None
        return snapshot.resumable(table)

    def _copy_in_parts(self, snapshot: Snapshot, ref: TableRef, copy: ResumableCopy) -> dict[TableRef, int] | None:
        """Copy a table in parts, which stay if the run ends before; see `_copy_tables`."""
        table = snapshot.table(ref)
        assert table is not None
        self.source.verify_redacted_in(table, self.redacted)
        total = max(self.tables[ref].estimated_rows, 0)
        self.progress(Progress("snapshot", ref, 0, total))
        shape = TableShape.of(table.schema, table.token)
        with self.sink.stage(shape, self.settings.tables.mode.of(ref)) as staged:
            PartsLoader(ref, copy, staged, snapshot.lsn, total, self.progress, self._verify_not_stopped).load()
            if snapshot.altered([ref]):
                staged.drop()
                return None
            with self.sink.begin() as transaction:
                self._create(transaction, table, snapshot.lsn, staged).finish()
                transaction.commit(self.checkpoint)
            rows = staged.rows
        self.progress(Progress("snapshot", ref, rows, rows))
        return {ref: rows}

    def _load(self, transaction: SinkTransaction, snapshot: Snapshot, table: SourceTable) -> tuple[int, int]:
        """Load a table in an open transaction; return the numbers of its rows, and of those in quarantine."""
        ref = table.table
        began = reported = time.monotonic()
        rows = bad = size = 0
        applies_to = quarantined_tables(self.settings)
        keep_unreadable = applies_to is not None and applies_to(ref)
        total = max(self.tables[ref].estimated_rows, 0)
        loader = self._create(transaction, table, snapshot.lsn)
        from dbmazz_core.engine.quarantine import Quarantine

        quarantine = Quarantine(transaction, applies_to) if applies_to is not None and keep_unreadable else None
        for copied in snapshot.rows(ref, keep_unreadable=keep_unreadable):
            self._verify_not_stopped()
            frame, count = copied.frame, 0
            if quarantine is not None:
                frame, count = quarantine.separate_copied_rows(table.schema, copied, snapshot.lsn)
            bad += count
            loader.append(frame)
            rows, size = rows + len(frame), size + copied.size
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                self.progress(Progress("snapshot", ref, rows, max(total, rows), size=size, seconds=reported - began))
        loader.finish()
        return rows, bad

    def _verify_not_stopped(self) -> None:
        if self.stop.is_set():
            raise StopRequested

    def _create(
        self, transaction: SinkTransaction, table: SourceTable, lsn: Lsn, staged: StagedCopy | None = None
    ) -> Loader:
        """Create a table in the destination, as of the LSN, after verifying its redacted columns."""
        self.source.verify_redacted_in(table, self.redacted)
        return transaction.create_table(
            TableShape.of(table.schema, table.token),
            snapshot_lsn=lsn,
            mode=self.settings.tables.mode.of(table.table),
            complete=self.with_rows,
            staged=staged,
        )

    def _begin_empty(self) -> None:
        """Create the tables without rows: they get only the changes from the feed's position on."""
        lsn = self.checkpoint.lsn
        if self.position is None:
            self.sink.release()
            with self.source.snapshot((), new_feed=True) as snapshot:
                lsn = snapshot.lsn
        elif self.first:
            lsn = self.position
        self.checkpoint = replace(self.checkpoint, lsn=lsn)
        tables = self.source.describe_tables(self.needed)
        while not self._create_empty([table for ref, table in tables.items() if ref not in self.failed], lsn):
            pass

    def _create_empty(self, tables: Collection[SourceTable], lsn: Lsn) -> bool:
        """Create tables without rows in one transaction; return False if that failed for a table, which is left out."""
        with self.sink.begin() as transaction:
            for table in tables:
                try:
                    self._create(transaction, table, lsn).finish()
                except DbmazzError as error:
                    if not self._isolation.concerned(error, table.table):
                        raise
                    self.failed[table.table] = error
                    return False
            transaction.commit(self.checkpoint)
        return True
