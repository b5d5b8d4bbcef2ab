"""Touches: which keys changes find, empty and fill, and the first and last touch of each key."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.engine.net_effect.keys import key_codes
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, Indexes, Mask

#: Stands for a row where there is none.
NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Touches:
    """Touches of keys, and their outcome. Arrays by distinct key have shape (d,).

    Attributes:
        rows: The changes.
        last_fill: By key: the row that fills the key in the end, or -1 if the key is empty.
        kept: By key: the row that the destination keeps: `last_fill`; in mode `soft_delete`, if the key is empty in the
            end, the row that filled it last.
        last_touch: By key: number of the last touch.
        first_found: By key: whether the key was filled before the first touch.
        previous: By row, for updates: the row that had filled the key that the update found, or -1 if the destination
            has it.
        code: By touch: a number for the key, the same number for equal keys.
        row: By touch: the row.
        from_old: By touch: whether the key is that of the row's old image.
        found_code: By row, for updates and deletes: code of the key that it found.
    """

    rows: BatchRows
    last_fill: Indexes
    kept: Indexes
    last_touch: Indexes
    first_found: Mask
    previous: Indexes
    code: Indexes
    row: Indexes
    from_old: Mask
    found_code: Indexes

    def key_frame(self, touches: Indexes) -> pl.DataFrame:
        """Return the key columns of touches, with the positions of their rows."""
        touches = np.sort(touches)
        rows, from_old = self.row[touches], self.from_old[touches]
        return pl.DataFrame(self.rows.keys_of_rows(rows, from_old) + self.rows.positions(rows))


def find_touches(rows: BatchRows) -> Touches:
    """Find the touches of the keys of a table."""
    count = len(rows)
    filled = np.flatnonzero(rows.ops != DELETE)
    found = np.flatnonzero(rows.has_old)  # deletes, and updates that came with an old image
    code_of_filled, code_of_found = key_codes(rows, filled, found)
    filled_code, found_code = np.full(count, NONE), np.full(count, NONE)
    filled_code[filled] = code_of_filled
    found_code[rows.ops == UPDATE] = filled_code[rows.ops == UPDATE]
    found_code[found] = code_of_found

    # One touch per row, and a second touch for updates that change the key: the first empties the key that the update
    # found, the second fills the new key.
    moved = np.flatnonzero((rows.ops == UPDATE) & (found_code != filled_code))
    first_row = np.arange(count)
    row = np.concatenate([first_row, moved])
    code = np.concatenate([np.where(rows.ops == INSERT, filled_code, found_code), filled_code[moved]])
    fills = np.concatenate([np.where((rows.ops == DELETE), NONE, first_row), moved])
    fills[moved] = NONE
    finds = np.concatenate([rows.ops != INSERT, np.zeros(len(moved), dtype=np.bool_)])
    from_old = np.concatenate([rows.ops == DELETE, np.zeros(len(moved), dtype=np.bool_)])
    from_old[moved] = True

    # Touches by key, in stream order within a key; `starts` and `ends` are the first and last touch of each key.
    order = np.argsort(code, kind="stable") if not len(moved) else np.lexsort((row, code))
    sorted_code = code[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_code[1:] != sorted_code[:-1]]))
    ends = np.concatenate([starts[1:], [len(order)]]) - 1
    # The row that had filled the key before a touch is that of the touch before it, if that is of the same key.
    before = np.concatenate([[NONE], fills[order][:-1]])
    before[starts] = NONE
    previous = np.full(count, NONE)
    finding = finds[order]
    previous[row[order][finding]] = before[finding]
    last_fill = kept = fills[order[ends]]
    if rows.soft_delete:
        # By key: the last touch that filled it, found as the greatest such number up to the key's last touch.
        filling = np.maximum.accumulate(np.where(fills[order] != NONE, np.arange(len(order)), NONE))[ends]
        kept = np.where(filling >= starts, fills[order[filling]], NONE)
    return Touches(
        rows=rows,
        last_fill=last_fill,
        kept=kept,
        last_touch=order[ends],
        first_found=finds[order[starts]],
        previous=previous,
        code=code,
        row=row,
        from_old=from_old,
        found_code=found_code,
    )
