"""The state of a table in the destination."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as the destination's bookkeeping has it.

    Attributes:
        table: Which.
        state: `streaming` once its snapshot is in; `snapshotting` before, and again once a window has passed over its
            changes because it was not configured; `changed` while it has to be copied anew, since its shape changed.
        snapshot_lsn: Changes of transactions committed before this LSN are in the snapshot.
        rows: Rows now, None if the destination was not opened: live ones in soft_delete, changes in changelog.
        quarantined: Rows of it in `_dbmazz.quarantine`.
        mode: How it is kept.
        complete: Whether it is known to hold exactly the source's rows: it was copied with them, and none of them is in
            quarantine.
    """

    table: TableRef
    state: str
    snapshot_lsn: Lsn | None
    rows: int | None = None
    quarantined: int = 0
    mode: Mode = Mode.MIRROR
    complete: bool = False
