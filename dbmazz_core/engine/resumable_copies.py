"""Load a large table in parts, so that another run can resume the copy where this one ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

from dbmazz_core.engine.progress import REPORT_S, Progress
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.copy_progress import CopyProgress, Part
from dbmazz_core.model.sink import NoRoom, StagedCopy
from dbmazz_core.model.source import CopiedRows, ResumableCopy
from dbmazz_core.table_ref import TableRef

_T = TypeVar("_T")


@dataclass(slots=True)
class PartsLoader:
    """Loads the rows of one table from a snapshot.

    What is committed is always this: all rows of the recorded snapshot in the parts that are recorded as finished, and
    perhaps some rows of other parts. To resume the copy from a later snapshot, one transaction makes it the same of the
    later snapshot: it takes away every row that is not in a finished part of the table any more, or was written again
    since, and adds the rows that were written since. No change between the two snapshots is taken from the stream.

    Attributes:
        table: The table.
        copy: Its copy from the snapshot.
        staged: Takes the rows.
        lsn: LSN of the snapshot.
        total: Number of rows that the source estimates.
        progress: Called after rows were loaded.
        verify_not_stopped: Raises StopRequested if the run was asked to stop.
    """

    table: TableRef
    copy: ResumableCopy
    staged: StagedCopy
    lsn: Lsn
    total: int
    progress: Callable[[Progress], None]
    verify_not_stopped: Callable[[], None]
    _began: float = field(default_factory=time.monotonic)
    _reported: float = field(default_factory=time.monotonic)
    _kept: int = 0
    _size: int = 0

    def load(self) -> None:
        """Load all rows, and commit them.

        Raises:
            StopRequested: The run was asked to stop; parts that were finished before stay committed, as after every
                error.
        """
        finished = self._resume()
        if finished is None:
            self.staged.begin()
            finished = []
        uncommitted = 0
        with closing(self.copy.rows(self.copy.parts(finished))) as rows:
            for copied in self._until_stopped(rows):
                if copied.completes is not None:
                    finished.append(copied.completes)
                uncommitted += len(copied.frame)
                self._append(copied, finished)
                if copied.completes is not None and uncommitted:
                    self._commit(finished)
                    uncommitted = 0
        self._commit(finished)

    def _resume(self) -> list[Part] | None:
        """Make the rows of an earlier copy those of this snapshot; return the finished parts, None if it cannot."""
        before = self.staged.progress
        if before is None or not before.finished or not self.copy.continues(before):
            return None
        with closing(self.copy.kept_keys(before)) as keys:
            if not self.staged.keep(self._until_stopped(keys)):
                return None
        self._kept = self.staged.rows
        parts = len(before.finished) + len(self.copy.parts(before.finished))
        self._report(f"copying {self.table} resumes at {len(before.finished):,} of {parts:,} ranges")
        try:
            with closing(self.copy.changed_rows(before)) as changed:
                for copied in self._until_stopped(changed):
                    self._append(copied, None)
        except NoRoom:  # more wide rows were written since than one transaction can take
            self._kept = 0
            return None
        self._commit(before.finished)
        return [*before.finished]

    def _append(self, copied: CopiedRows, finished: list[Part] | None) -> None:
        """Append rows; commit what came before if there is no room for both.

        Args:
            copied: The rows.
            finished: The finished parts; None: what came before cannot be committed yet.

        Raises:
            NoRoom: There is no room, and `finished` is None.
        """
        if not len(copied.frame):
            return
        try:
            self.staged.append(copied.frame, self.lsn)
        except NoRoom:
            if finished is None:
                raise
            self._commit(finished)
            self.staged.append(copied.frame, self.lsn)
        self._size += copied.size
        if time.monotonic() - self._reported >= REPORT_S:
            self._report()

    def _commit(self, finished: Iterable[Part]) -> None:
        self.staged.commit(CopyProgress(self.copy.mark, tuple(finished), self.staged.rows))

    def _report(self, message: str = "") -> None:
        self._reported, rows = time.monotonic(), self.staged.rows
        seconds = self._reported - self._began
        self.progress(
            Progress(
                "snapshot",
                self.table,
                rows,
                max(self.total, rows),
                size=self._size,
                seconds=seconds,
                kept=self._kept,
                message=message,
            )
        )

    def _until_stopped(self, items: Iterable[_T]) -> Iterator[_T]:
        for item in items:
            self.verify_not_stopped()
            yield item
