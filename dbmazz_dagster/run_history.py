"""The recent runs of a slot, from Dagster's run storage."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from dbmazz_core.lsn import Lsn
from dbmazz_dagster.tags import ATTEMPT_TAG, END_LSN_TAG, FROM_LSN_TAG, SLOT_TAG

_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]

#: Number of runs that are read. The back-off reaches its maximum after fewer failures.
_LIMIT = 30


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A summary of the recent runs of a slot, for the sensor.

    Attributes:
        unfinished: Id of the newest run that has not finished, None if all have.
        last_failed: Id of the newest finished run if its window did not succeed, else None.
        without_progress: Number of the newest finished runs in a row that failed, or succeeded without moving the slot.
        last_end: End of the newest finished run, in seconds since the epoch; 0 if no run has finished.
    """

    unfinished: str | None
    last_failed: str | None
    without_progress: int
    last_end: float

    def seconds_to_wait(self, interval: float, maximum: float, now: float) -> float:
        """Return the seconds until the back-off ends: 0 for the first retry, `interval` for the second, then twice as
        many each time, at most `maximum`.

        >>> [RunHistory(None, "r", n, 100.0).seconds_to_wait(30, 900, now=100.0) for n in (0, 1, 2, 3, 9)]
        [0.0, 0.0, 30.0, 60.0, 900.0]
        """
        if self.without_progress < 2:
            return 0.0
        return max(0.0, self.last_end + min(maximum, interval * 2.0 ** (self.without_progress - 2)) - now)


def unfinished_runs(instance: dg.DagsterInstance, slot: str) -> Sequence[dg.RunRecord]:
    """Return the runs of a slot that are queued or running, the newest first."""
    return instance.get_run_records(dg.RunsFilter(tags={SLOT_TAG: slot}, statuses=_UNFINISHED), limit=_LIMIT)


def read_run_history(
    instance: dg.DagsterInstance, slot: str, confirmed: Lsn | None, *, abandoned_after: float | None
) -> RunHistory:
    """Return a summary of the newest runs of a slot.

    Args:
        instance: The Dagster instance.
        slot: Name of the slot.
        confirmed: The slot's confirmed LSN. A run that started from it and succeeded made no progress.
        abandoned_after: A started run whose log has no new entry for this many seconds counts as failed: its machine
            may have stopped without a report to Dagster. A window logs every 30 s. None if the slot is in use: then the
            process of the run is alive.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={SLOT_TAG: slot}), limit=_LIMIT)
    unfinished: str | None = None
    finished: list[dg.RunRecord] = []
    for record in records:
        if record.dagster_run.status in _FINISHED or _abandoned(instance, record, abandoned_after):
            finished.append(record)
        elif unfinished is None:
            unfinished = record.dagster_run.run_id
    without_progress = 0
    for record in finished:
        run = record.dagster_run
        stuck = run.tags.get(FROM_LSN_TAG) == lsn_text(confirmed)
        if _captured(run) and not stuck:
            break
        without_progress += 1
    newest = finished[0] if finished else None
    return RunHistory(
        unfinished=unfinished,
        last_failed=newest.dagster_run.run_id if newest and not _captured(newest.dagster_run) else None,
        without_progress=without_progress,
        last_end=(newest.end_time or newest.update_timestamp.timestamp()) if newest else 0.0,
    )


def _captured(run: dg.DagsterRun) -> bool:
    """Return whether the window of a finished run succeeded, whatever became of the run's checks and other steps."""
    return run.status is dg.DagsterRunStatus.SUCCESS or bool(run.tags.get(END_LSN_TAG))


def next_attempt(instance: dg.DagsterInstance, slot: str, confirmed: Lsn | None) -> int:
    """Return the number of the next request for a window from this LSN, from 1.

    It is one more than the greatest number so far. The count of runs would not do: runs can be deleted, and Dagster
    launches no run for a run key that it has seen.
    """
    tags = {SLOT_TAG: slot, FROM_LSN_TAG: lsn_text(confirmed)}
    runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=_LIMIT)
    return 1 + max((int(run.tags.get(ATTEMPT_TAG, "0")) for run in runs), default=0)


def lsn_text(lsn: Lsn | None) -> str:
    """Return the LSN as text for tags and run keys, `start` if the slot does not exist yet."""
    return "start" if lsn is None else str(lsn)


def _abandoned(instance: dg.DagsterInstance, record: dg.RunRecord, after: float | None) -> bool:
    """Return whether a started run has logged nothing for `after` seconds. A queued run may wait without a limit."""
    if after is None or record.dagster_run.status is dg.DagsterRunStatus.QUEUED:
        return False
    if time.time() - record.update_timestamp.timestamp() < after:
        return False
    newest = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    return not newest or time.time() - newest[0].timestamp > after
