"""Find updates that leave out unchanged TOAST values of a row that is not in the table.

The row is not in the table because it is in quarantine. Its values are not known, so the update goes to quarantine too.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.engine.quarantine import rows
from dbmazz_core.engine.quarantine.rewrite import without_changes
from dbmazz_core.model.batch import DELETE, INSERT, ChangeBatch, Indexes, Mask
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.sink import SinkTransaction


def separate_lost_updates(
    sink: SinkTransaction, batches: list[ChangeBatch], *, emptied: bool, any_bad: bool
) -> tuple[list[ChangeBatch], pl.DataFrame]:
    """Separate lost updates; return the other changes, and rows for the quarantine.

    Args:
        sink: The destination's open transaction.
        batches: Changes of a table with a key, without bad values, in stream order; at least one batch.
        emptied: Whether the table is emptied before these changes.
        any_bad: Whether some of the changes were rewritten because of a bad value.
    """
    changes = BatchRows(batches)
    unsent: dict[int, Mask] = {
        number: mask for number in range(len(changes.schema.columns)) if (mask := changes.unknown(number)) is not None
    }
    if not unsent:
        return batches, rows.none()
    is_partial = np.logical_or.reduce(list(unsent.values()))
    absent = _absent_keys(sink, changes, np.flatnonzero(is_partial), emptied=emptied)
    if not any_bad and not len(absent):
        return batches, rows.none()
    lost = _lost_updates(changes, is_partial, absent)
    if not len(lost):
        return batches, rows.none()
    columns = np.full(len(changes), -1)
    for number, mask in reversed(unsent.items()):
        columns[mask] = number
    kept, quarantined, offset = [], [], 0
    for batch in batches:
        of_batch = lost[(lost >= offset) & (lost < offset + len(batch))] - offset
        of_columns = columns[offset : offset + len(batch)]
        quarantined.append(rows.of_changes(batch, of_batch, of_columns, reason=rows.UNSENT_VALUE))
        rest = without_changes(batch, of_batch)
        kept += [rest] if len(rest) else []
        offset += len(batch)
    return kept, pl.concat(quarantined)


def _absent_keys(sink: SinkTransaction, changes: BatchRows, partial: Indexes, *, emptied: bool) -> pl.DataFrame:
    """Return keys by which partial updates find their rows, but under which neither the destination nor an earlier
    change has a row.

    Args:
        sink: The destination's open transaction.
        changes: The changes.
        partial: Numbers of updates that leave out values.
        emptied: Whether the table is emptied before these changes.
    """
    found, filled = _found_keys(changes, partial), _filled_keys(changes)
    key = found.columns[:-1]
    first_filled = filled.group_by(key).agg(pl.col("row").min().alias("since"))
    not_filled = found.join(first_filled, on=key, how="left").filter(
        pl.col("since").is_null() | (pl.col("since") >= pl.col("row"))
    )
    keys = not_filled.select(key).unique(maintain_order=True)
    if emptied or not len(keys):
        return keys
    by_place = dict(zip(key, map(value_column, changes.key), strict=True))
    return keys[sink.missing(changes.schema, keys.rename(by_place))]


def _lost_updates(changes: BatchRows, is_partial: Mask, absent: pl.DataFrame) -> Indexes:
    """Return the numbers of partial updates that find no row.

    The changes of keys that are empty, or become empty, are simulated one by one, in Python. They are few, also if
    rows are in quarantine.

    Args:
        changes: The changes.
        is_partial: Whether a change is an update that leaves out values.
        absent: Keys that are empty before these changes.
    """
    key = absent.columns
    finding = np.flatnonzero(changes.ops != INSERT)
    found, filled = _found_keys(changes, finding), _filled_keys(changes)
    both = found.join(filled, on="row", how="left", suffix="_new")
    moved = pl.any_horizontal([pl.col(name).ne_missing(pl.col(f"{name}_new")) for name in key])
    emptied = both.filter(moved).select(key)
    # If a partial update is lost, the key that it would have filled stays empty too.
    filled_by_partial = filled.filter(pl.Series(is_partial[filled["row"].to_numpy()])).select(key)
    simulated = pl.concat([absent.select(key), emptied, filled_by_partial]).unique()
    numbers = pl.concat([found, filled]).join(simulated, on=key, how="semi").select("row").unique().sort("row")["row"]
    found_keys = dict(zip(found["row"].to_list(), found.select(key).rows(), strict=True))
    filled_keys = dict(zip(filled["row"].to_list(), filled.select(key).rows(), strict=True))
    empty, lost = set(absent.select(key).rows()), []
    for number in numbers.to_list():
        before, after = found_keys.get(number), filled_keys.get(number)
        if before is not None and before in empty and is_partial[number]:
            lost.append(number)
            empty.update(key for key in (before, after) if key is not None)
            continue
        if before is not None:
            empty.add(before)
        if after is not None:
            empty.discard(after)
    return np.array(lost, dtype=np.int64)


def _found_keys(changes: BatchRows, numbers: Indexes) -> pl.DataFrame:
    """Return the keys by which updates and deletes find their rows.

    Returns:
        Columns `k0` and so on, in the order of the key, and `row`, the number of the change.
    """
    return _keys_frame(changes.keys_of_rows(numbers, changes.has_old[numbers]), numbers)


def _filled_keys(changes: BatchRows) -> pl.DataFrame:
    """Return the keys that inserts and updates fill, with the columns of `_found_keys`."""
    numbers = np.flatnonzero(changes.ops != DELETE)
    none = np.zeros(0, dtype=np.int64)
    return _keys_frame(changes.key_values(none, numbers, np.arange(len(numbers))), numbers)


def _keys_frame(keys: list[pl.Series], numbers: Indexes) -> pl.DataFrame:
    return pl.DataFrame([*(key.alias(f"k{n}") for n, key in enumerate(keys)), pl.Series("row", numbers)])
