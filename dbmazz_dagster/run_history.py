"""What Dagster's run storage says about the windows of a slot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from dbmazz_core.lsn import Lsn
from dbmazz_dagster.tags import ATTEMPT_TAG, FROM_LSN_TAG, SLOT_TAG

_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]

#: Runs looked at. Back-off has long reached its maximum after so many failures.
_LIMIT = 30


@dataclass(frozen=True, slots=True)
class RunHistory:
    """The recent windows of a slot, as the sensor needs them.

    Attributes:
        unfinished: Id of the newest run that has not finished, None if there is none.
        last_failed: Id of the newest finished run if it did not succeed, else None.
        without_progress: How many of the newest finished runs in a row failed, or succeeded without moving the slot.
        last_end: When the newest of them ended, in seconds since the epoch; 0 if there is none.
    """

    unfinished: str | None
    last_failed: str | None
    without_progress: int
    last_end: float

    def seconds_to_wait(self, interval: float, maximum: float, now: float) -> float:
        """What is left of the back-off: the first retry comes at once, the next after `interval` seconds,
        then after twice as many each time.

        >>> [RunHistory(None, "r", n, 100.0).seconds_to_wait(30, 900, now=100.0) for n in (0, 1, 2, 3, 9)]
        [0.0, 0.0, 30.0, 60.0, 900.0]
        """
        if self.without_progress < 2:
            return 0.0
        return max(0.0, self.last_end + min(maximum, interval * 2.0 ** (self.without_progress - 2)) - now)


def unfinished_runs(instance: dg.DagsterInstance, slot: str) -> Sequence[dg.RunRecord]:
    """Runs of the slot that are queued or under way, the newest first."""
    return instance.get_run_records(dg.RunsFilter(tags={SLOT_TAG: slot}, statuses=_UNFINISHED), limit=_LIMIT)


def read_run_history(
    instance: dg.DagsterInstance, slot: str, confirmed: Lsn | None, *, abandoned_after: float | None
) -> RunHistory:
    """Look at the newest runs of the slot.

    Args:
        instance: Where runs are recorded.
        slot: Whose runs.
        confirmed: The slot's confirmed LSN: a run that started from it and succeeded got nowhere.
        abandoned_after: A run that has started, but whose log has been silent for so many seconds, counts as
            failed: its machine went away and nobody told Dagster. A window says something every minute. None
            where the slot is in use: then somebody is alive.
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
        if run.status is dg.DagsterRunStatus.SUCCESS and not stuck:
            break
        without_progress += 1
    newest = finished[0] if finished else None
    return RunHistory(
        unfinished=unfinished,
        last_failed=newest.dagster_run.run_id
        if newest and newest.dagster_run.status is not dg.DagsterRunStatus.SUCCESS
        else None,
        without_progress=without_progress,
        last_end=(newest.end_time or newest.update_timestamp.timestamp()) if newest else 0.0,
    )


def next_attempt(instance: dg.DagsterInstance, slot: str, confirmed: Lsn | None) -> int:
    """Which request for a window from this LSN comes next, from 1.

    One more than the greatest there is, not than their number: runs can be deleted, and a run key that exists
    already would never be launched.
    """
    tags = {SLOT_TAG: slot, FROM_LSN_TAG: lsn_text(confirmed)}
    runs = instance.get_runs(dg.RunsFilter(tags=tags), limit=_LIMIT)
    return 1 + max((int(run.tags.get(ATTEMPT_TAG, "0")) for run in runs), default=0)


def lsn_text(lsn: Lsn | None) -> str:
    """An LSN in tags and run keys; `start` where no slot exists yet."""
    return "start" if lsn is None else str(lsn)


def _abandoned(instance: dg.DagsterInstance, record: dg.RunRecord, after: float | None) -> bool:
    """Whether a run has started and then been silent for long. A queued one may wait as long as it takes."""
    if after is None or record.dagster_run.status is dg.DagsterRunStatus.QUEUED:
        return False
    if time.time() - record.update_timestamp.timestamp() < after:
        return False
    newest = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False).records
    return not newest or time.time() - newest[0].timestamp > after
