"""`ON_BAD_VALUE=quarantine`: keep rows that the destination cannot hold as text, beside the table.

A *bad value* is a value that the destination's type cannot hold. A row of the source is either in the table, exact, or
not in the table at all; it is never stale:

- An insert with a bad value is left out.
- An update with a bad value deletes the row that it would have changed.
- A later update that sends the whole row without a bad value brings the row back. An update that leaves out unchanged
  TOAST values cannot bring the row back, and goes to quarantine too (`lost_updates`).
- A delete of a row that is not in the table deletes nothing.

The changes of a batch are rewritten accordingly (`rewrite`) before their net effect is computed, so the net effect
needs no rules for quarantine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.engine.quarantine import rows
from dbmazz_core.engine.quarantine.bad_values import GOOD, bad_old_images, bad_values_of_changes, bad_values_of_copy
from dbmazz_core.engine.quarantine.lost_updates import separate_lost_updates
from dbmazz_core.engine.quarantine.rewrite import reduce_old_images_to_keys, without_bad_values
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import ChangeBatch
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.policies import SchemaAction
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import AddColumn, SchemaEvent
from dbmazz_core.model.sink import SinkTransaction
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.table_ref import TableRef


@dataclass(slots=True)
class Quarantine:
    """Separates rows with bad values, and writes them to the quarantine of the sink.

    Attributes:
        sink: The destination's open transaction.
        applies_to: Returns whether bad rows of a table go to quarantine.
    """

    sink: SinkTransaction
    applies_to: Callable[[TableRef], bool]

    def separate_changes(
        self, batches: Sequence[ChangeBatch], *, emptied: bool, history: bool = False
    ) -> tuple[list[ChangeBatch], int]:
        """Separate the changes of a table; return the changes to apply, and the number of changes in quarantine.

        Args:
            batches: Changes under one schema, in stream order; at least one batch.
            emptied: Whether the table is emptied before these changes.
            history: Whether the destination keeps every change, with the row before the change.
        """
        schema = batches[0].schema
        if not self.applies_to(schema.table):
            return list(batches), 0
        kept: list[ChangeBatch] = []
        bad: list[pl.DataFrame] = []
        for batch in batches:
            rest, bad_rows = self._separate_bad_values(batch, history=history)
            kept += [rest] if len(rest) else []
            bad += [bad_rows] if len(bad_rows) else []
        if kept and schema.key:
            kept, lost_rows = separate_lost_updates(self.sink, kept, emptied=emptied, any_bad=bool(bad))
            bad += [lost_rows] if len(lost_rows) else []
        return kept, self._write(schema.table, bad)

    def separate_copied_rows(self, schema: TableSchema, copied: CopiedRows, lsn: Lsn) -> tuple[pl.DataFrame, int]:
        """Separate copied rows; return the rows to load, and the number of rows in quarantine.

        Args:
            schema: The table.
            copied: Its rows.
            lsn: The position of the snapshot.
        """
        columns = bad_values_of_copy(self.sink, schema, copied)
        bad = np.flatnonzero(columns != GOOD)
        if not len(bad):
            return copied.frame, 0
        bad_rows = rows.of_copy(schema, copied, bad, columns, lsn)
        return copied.frame.filter(pl.Series(columns == GOOD)), self._write(schema.table, [bad_rows])

    def unrepresentable_default(self, event: SchemaEvent) -> str | None:
        """Return a new column whose value in older rows is a bad value, if such rows of the table go to quarantine."""
        added = [step for step, action in event.steps if isinstance(step, AddColumn) and action is SchemaAction.APPLY]
        missing = {step.column.name: step.missing for step in added if step.missing is not None}
        if not missing or not self.applies_to(event.table):
            return None
        places = [event.schema.names.index(name) for name in missing]
        frame = pl.DataFrame([v.alias(value_column(p)) for p, v in zip(places, missing.values(), strict=True)])
        found = self.sink.unrepresentable(event.schema, frame)
        return [*missing][found["column"][0]] if len(found) else None

    def _separate_bad_values(self, batch: ChangeBatch, *, history: bool) -> tuple[ChangeBatch, pl.DataFrame]:
        bad = bad_values_of_changes(self.sink, batch)
        is_bad = bad.column != GOOD
        bad_rows = rows.of_changes(batch, np.flatnonzero(is_bad), bad.column) if is_bad.any() else rows.none()
        if history:
            # A changelog has the old row in a row of its own: it keeps the key of an old row that it cannot hold.
            bad_images = bad_old_images(self.sink, batch)
            if bad_images is not None:
                batch = reduce_old_images_to_keys(batch, bad_images)
        if not is_bad.any() and not bad.old_is_absent.any():
            return batch, bad_rows
        return without_bad_values(batch, is_bad, bad.key_is_bad, bad.old_is_absent), bad_rows

    def _write(self, table: TableRef, frames: list[pl.DataFrame]) -> int:
        """Write rows to the quarantine; return their number."""
        if not frames:
            return 0
        together = pl.concat(frames)
        self.sink.quarantine(table, together)
        return len(together)
