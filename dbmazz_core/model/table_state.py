"""The state of a table in the destination."""

from __future__ import annotations

from dataclasses import dataclass

from dbmazz_core.lsn import Lsn
from dbmazz_core.model.policies import Mode
from dbmazz_core.table_ref import TableRef


@dataclass(frozen=True, slots=True)
class TableState:
    """The state of a table in the destination.

    Attributes:
        table: The table.
        state: `streaming` once the snapshot is complete; `snapshotting` before, and again after a window without this
            table in its settings; `changed` while the table must be re-snapshotted because of a schema change.
        snapshot_lsn: Changes of transactions committed before this LSN are in the snapshot.
        rows: Number of rows, in `soft_delete` without deleted rows, in `changelog` of changes; None if they were not
            counted.
        quarantined: Rows of the table in `_dbmazz.quarantine`.
        mode: The mode of the table.
        complete: Whether the table is known to hold exactly the source's rows: it was copied with its rows, and none of
            them is in quarantine.
        unpublished: Columns that the source does not send, see `TableDescription.unpublished`.
    """

    table: TableRef
    state: str
    snapshot_lsn: Lsn | None
    rows: int | None = None
    quarantined: int = 0
    mode: Mode = Mode.MIRROR
    complete: bool = False
    unpublished: tuple[str, ...] = ()
