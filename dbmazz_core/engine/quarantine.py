"""Bad values under `ON_BAD_VALUE=quarantine`: rows that the destination cannot hold are kept raw beside the table.

A row of the source is either in the table, exact, or not in it at all, never stale: an insert with a bad value is left
out; an update with one deletes the row that it would have changed. A later update that sends the whole row, all of it
good, brings it back; one that leaves out unchanged TOAST values cannot, and goes to quarantine as well. Deletes of a
row that is not in the table delete nothing. So the changes of a batch are rewritten ahead of compaction, which then
needs to know nothing of all this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import Rows
from dbmazz_core.engine.row_images import CompletedImages, JoinedImages, KeyImages
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, ChangeBatch, Indexes, Mask, RowImages
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.policies import SchemaAction
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.schema_events import AddColumn, SchemaEvent
from dbmazz_core.model.sink import SinkTransaction
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.table_ref import TableRef

#: Rows of `_dbmazz.quarantine`, beside slot, table and time.
ROWS = {
    "commit_lsn": pl.UInt64,
    "xid": pl.UInt32,
    "ordinal": pl.Int64,
    "op": pl.String,
    "column_name": pl.String,
    "reason": pl.String,
    "row": pl.String,
}
_OPERATIONS = {INSERT: "insert", UPDATE: "update", DELETE: "delete"}
_GOOD = -1
_LEFT_OUT = "PostgreSQL left out its unchanged TOAST value, and the row that has it is not in the table"


@dataclass(slots=True)
class Quarantine:
    """Takes rows with bad values out, and writes them to the sink's quarantine.

    Attributes:
        sink: The destination's open transaction.
        wanted: Whether a table's bad rows go there.
    """

    sink: SinkTransaction
    wanted: Callable[[TableRef], bool]

    def separate(
        self, batches: Sequence[ChangeBatch], *, emptied: bool, history: bool = False
    ) -> tuple[list[ChangeBatch], int]:
        """What is left of a table's changes, and how many went to quarantine.

        Args:
            batches: Under one schema, in stream order; at least one.
            emptied: Whether the table is emptied ahead of them.
            history: Whether every change is kept, with the row before it.
        """
        schema = batches[0].schema
        if not self.wanted(schema.table):
            return list(batches), 0
        left: list[ChangeBatch] = []
        bad: list[pl.DataFrame] = []
        for batch in batches:
            kept, rows = self._without_bad_values(batch, history=history)
            left += [kept] if len(kept) else []
            bad += [rows] if len(rows) else []
        if left and schema.key:
            left, rows = self._without_lost(left, emptied=emptied, any_bad=bool(bad))
            bad += [rows] if len(rows) else []
        return left, self._keep(schema.table, bad)

    def copied(self, schema: TableSchema, copied: CopiedRows, lsn: Lsn) -> tuple[pl.DataFrame, int]:
        """What is left of copied rows, and how many went to quarantine.

        Args:
            schema: The table.
            copied: Its rows.
            lsn: The snapshot's.
        """
        frame = copied.frame
        first = np.full(len(frame), _GOOD)
        for number, texts in copied.unreadable.items():
            first[texts.is_not_null().to_numpy() & (first == _GOOD)] = number
        self._mark_refused(schema, frame, list(range(len(schema.columns))), first)
        places = np.flatnonzero(first != _GOOD)
        if not len(places):
            return frame, 0
        raw: dict[str, pl.Series] = {}
        for number, column in enumerate(schema.columns):
            texts = _texts(frame[value_column(number)].gather(places))
            unreadable = copied.unreadable.get(number)
            raw[column.name] = (
                texts
                if unreadable is None
                else unreadable.gather(places).zip_with(unreadable.gather(places).is_not_null(), texts)
            )
        rows = pl.DataFrame(
            {
                "commit_lsn": np.full(len(places), int(lsn), dtype=np.uint64),
                "xid": np.zeros(len(places), dtype=np.uint32),
                "ordinal": np.zeros(len(places), dtype=np.int64),
                "op": ["snapshot"] * len(places),
                "column_name": [schema.names[number] for number in first[places]],
                "reason": [_reason(schema, number) for number in first[places]],
                "row": _json(raw, {}),
            },
            schema=ROWS,
        )
        return frame.filter(pl.Series(first == _GOOD)), self._keep(schema.table, [rows])

    def unheld_default(self, event: SchemaEvent) -> str | None:
        """A new column whose value in older rows the destination cannot hold, where such rows are kept apart."""
        added = [step for step, action in event.steps if isinstance(step, AddColumn) and action is SchemaAction.APPLY]
        missing = {step.column.name: step.missing for step in added if step.missing is not None}
        if not missing or not self.wanted(event.table):
            return None
        places = [event.schema.names.index(name) for name in missing]
        frame = pl.DataFrame([v.alias(value_column(p)) for p, v in zip(places, missing.values(), strict=True)])
        refused = self.sink.unrepresentable(event.schema, frame)
        return [*missing][refused["column"][0]] if len(refused) else None

    def _keep(self, table: TableRef, rows: list[pl.DataFrame]) -> int:
        if not rows:
            return 0
        together = pl.concat(rows)
        self.sink.quarantine(table, together)
        return len(together)

    # -- values that cannot be held

    def _without_bad_values(self, batch: ChangeBatch, *, history: bool) -> tuple[ChangeBatch, pl.DataFrame]:
        names, key = batch.schema.names, batch.schema.key
        keys = [names.index(name) for name in key]
        others = [number for number in range(len(names)) if number not in keys]
        count = len(batch)
        # By row: the first bad column of the new image, keys first; whether the key that it had cannot be in the table.
        new_bad, old_lost = np.full(count, _GOOD), np.zeros(count, dtype=np.bool_)
        new_bad[batch.new.index] = self._bad(batch.schema, batch.new, [*keys, *others])
        old_lost[batch.old.index] = self._bad(batch.schema, batch.old, keys or others) != _GOOD
        for number in others if keys else ():
            # A value that was not sent is that of the old row, where that came whole.
            unknown = batch.new.unknown(number)
            if unknown is not None and len(batch.old.index):
                unsent = np.zeros(count, dtype=np.bool_)
                unsent[batch.new.index] = unknown
                old_bad = np.full(count, _GOOD)
                old_bad[batch.old.index] = np.where(
                    batch.old_is_key, _GOOD, self._bad(batch.schema, batch.old, [number])
                )
                new_bad = np.where((new_bad == _GOOD) & unsent, old_bad, new_bad)
        is_bad = new_bad != _GOOD
        rows = _rows(batch, np.flatnonzero(is_bad), new_bad) if is_bad.any() else pl.DataFrame(schema=ROWS)
        if history and keys and others and len(batch.old.index):
            # Of a row before that cannot be held whole, the key is kept; and what it alone told of the row after.
            whole_bad = self._bad(batch.schema, batch.old, others) != _GOOD
            if whole_bad.any():
                new = CompletedImages(batch.new, batch.old, ~batch.old_is_key)
                old = KeyImages(batch.old, keys, whole_bad)
                batch = replace(batch, new=new, old=old, old_is_key=batch.old_is_key | whole_bad)
        if not is_bad.any() and not old_lost.any():
            return batch, rows
        return _rewritten(batch, is_bad, np.isin(new_bad, keys), old_lost), rows

    def _bad(self, schema: TableSchema, images: RowImages, numbers: list[int]) -> Indexes:
        """By place: the first of these columns that is bad, or `_GOOD`."""
        first = np.full(len(images.index), _GOOD)
        if not len(first):
            return first
        for number in numbers:
            unreadable = images.unreadable(number)
            if unreadable is not None:
                first[unreadable & (first == _GOOD)] = number
        frame = pl.DataFrame([images.values(number).alias(value_column(number)) for number in numbers])
        self._mark_refused(schema, frame, numbers, first)
        return first

    def _mark_refused(self, schema: TableSchema, frame: pl.DataFrame, numbers: list[int], first: Indexes) -> None:
        refused = self.sink.unrepresentable(schema, frame)
        rows, columns = refused["row"].to_numpy(), np.array(numbers)[refused["column"].to_numpy()]
        order = {number: place for place, number in enumerate(numbers)}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if first[row] == _GOOD or order[column] < order[int(first[row])]:
                first[row] = column

    # -- updates of rows that are not in the table

    def _without_lost(
        self, batches: list[ChangeBatch], *, emptied: bool, any_bad: bool
    ) -> tuple[list[ChangeBatch], pl.DataFrame]:
        """Take out updates that leave values out and find no row that has them."""
        rows = Rows(batches)
        unsent: dict[int, Mask] = {
            number: mask for number in range(len(rows.schema.columns)) if (mask := rows.unknown(number)) is not None
        }
        if not unsent:
            return batches, pl.DataFrame(schema=ROWS)
        partial = np.logical_or.reduce(list(unsent.values()))
        absent = self._absent(rows, np.flatnonzero(partial), emptied=emptied)
        if not any_bad and not len(absent):
            return batches, pl.DataFrame(schema=ROWS)
        lost = _lost(rows, partial, absent)
        if not len(lost):
            return batches, pl.DataFrame(schema=ROWS)
        columns = np.full(len(rows), _GOOD)
        for number, mask in reversed(unsent.items()):
            columns[mask] = number
        left, found, offset = [], [], 0
        for batch in batches:
            mine = lost[(lost >= offset) & (lost < offset + len(batch))] - offset
            found.append(_rows(batch, mine, columns[offset : offset + len(batch)], reason=_LEFT_OUT))
            kept = _without(batch, mine)
            left += [kept] if len(kept) else []
            offset += len(batch)
        return left, pl.concat(found)

    def _absent(self, rows: Rows, partial: Indexes, *, emptied: bool) -> pl.DataFrame:
        """Keys that updates which leave values out find, and that neither the destination has nor a change before
        has filled."""
        found, filled = _found_keys(rows, partial), _filled_keys(rows)
        key = found.columns[:-1]
        before = filled.group_by(key).agg(pl.col("row").min().alias("since"))
        asked = found.join(before, on=key, how="left").filter(
            pl.col("since").is_null() | (pl.col("since") >= pl.col("row"))
        )
        keys = asked.select(key).unique(maintain_order=True)
        if emptied or not len(keys):
            return keys
        named = dict(zip(key, map(value_column, rows.key), strict=True))
        return keys[self.sink.missing(rows.schema, keys.rename(named))]


def _lost(rows: Rows, partial: Mask, absent: pl.DataFrame) -> Indexes:
    """Numbers of updates that leave values out and find no row.

    Walks through the changes of keys that are, or become, empty: a few where there is anything in quarantine.
    """
    key = absent.columns
    finding = np.flatnonzero(rows.ops != INSERT)
    found, filled = _found_keys(rows, finding), _filled_keys(rows)
    both = found.join(filled, on="row", how="left", suffix="_new")
    moved = pl.any_horizontal([pl.col(name).ne_missing(pl.col(f"{name}_new")) for name in key])
    emptied = both.filter(moved).select(key)
    # If such an update is taken out, the key that it would have filled is empty, too.
    filling = filled.filter(pl.Series(partial[filled["row"].to_numpy()])).select(key)
    concerned = pl.concat([absent.select(key), emptied, filling]).unique()
    walk = pl.concat([found, filled]).join(concerned, on=key, how="semi").select("row").unique().sort("row")["row"]
    found_keys = dict(zip(found["row"].to_list(), found.select(key).rows(), strict=True))
    filled_keys = dict(zip(filled["row"].to_list(), filled.select(key).rows(), strict=True))
    empty, lost = set(absent.select(key).rows()), []
    for row in walk.to_list():
        before, after = found_keys.get(row), filled_keys.get(row)
        if before is not None and before in empty and partial[row]:
            lost.append(row)
            empty.update(key for key in (before, after) if key is not None)
            continue
        if before is not None:
            empty.add(before)
        if after is not None:
            empty.discard(after)
    return np.array(lost, dtype=np.int64)


def _found_keys(rows: Rows, which: Indexes) -> pl.DataFrame:
    """The keys under which updates and deletes find their rows, `k0` and so on in the key's order, with the rows'
    numbers, `row`."""
    old = rows.has_old[which]
    back = np.argsort(np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)]))
    return _numbered(rows.key_values(which[old], which[~old], back), which)


def _filled_keys(rows: Rows) -> pl.DataFrame:
    """The keys that inserts and updates fill, likewise."""
    which = np.flatnonzero(rows.ops != DELETE)
    none = np.zeros(0, dtype=np.int64)
    return _numbered(rows.key_values(none, which, np.arange(len(which))), which)


def _numbered(keys: list[pl.Series], which: Indexes) -> pl.DataFrame:
    return pl.DataFrame([*(key.alias(f"k{n}") for n, key in enumerate(keys)), pl.Series("row", which)])


def _rewritten(batch: ChangeBatch, is_bad: Mask, key_is_bad: Mask, old_lost: Mask) -> ChangeBatch:
    """The batch without what the table cannot have.

    Args:
        batch: The batch.
        is_bad: By row: the new image is bad.
        key_is_bad: By row: so is its key.
        old_lost: By row: the row that the old image stands for is not in the table.
    """
    count, keyed = len(batch), bool(batch.schema.key)
    keys = [batch.schema.names.index(name) for name in batch.schema.key]
    ops = batch.ops.copy()
    has_old = np.zeros(count, dtype=np.bool_)
    has_old[batch.old.index] = True
    update = ops == UPDATE
    # An update without an old image has the key that it had before.
    by_new_key = update & is_bad & ~has_old & ~key_is_bad if keyed else np.zeros(count, dtype=np.bool_)
    deletes = update & is_bad & ((has_old & ~old_lost) | by_new_key)
    # Without a key and an old image nobody can tell which row it is for: compaction says so.
    nobodys = update & ~has_old & (not keyed)
    dropped = (is_bad & ~deletes & ~nobodys) | ((ops == DELETE) & old_lost)
    ops[deletes] = DELETE
    if not keyed:
        ops[update & old_lost & ~is_bad] = INSERT
    keep = np.flatnonzero(~dropped)
    number = np.cumsum(~dropped) - 1

    new_places = np.flatnonzero((~dropped & ~deletes)[batch.new.index])
    new = JoinedImages(number[batch.new.index[new_places]], [batch.new], new_places)
    old_places = np.flatnonzero((~dropped & ~old_lost)[batch.old.index])
    key_places = np.flatnonzero(by_new_key[batch.new.index])
    old_rows = np.concatenate([batch.old.index[old_places], batch.new.index[key_places]])
    order = np.argsort(old_rows)
    old = JoinedImages(
        number[old_rows[order]],
        [batch.old, KeyImages(batch.new, keys, np.ones(len(batch.new.index), dtype=np.bool_))],
        np.concatenate([old_places, len(batch.old.index) + key_places])[order],
    )
    old_is_key = np.concatenate([batch.old_is_key[old_places], np.ones(len(key_places), dtype=np.bool_)])[order]
    return _of_rows(batch, keep, ops, new, old, old_is_key)


def _without(batch: ChangeBatch, rows: Indexes) -> ChangeBatch:
    """The batch without some of its rows."""
    if not len(rows):
        return batch
    stays = np.ones(len(batch), dtype=np.bool_)
    stays[rows] = False
    number = np.cumsum(stays) - 1
    new_places, old_places = np.flatnonzero(stays[batch.new.index]), np.flatnonzero(stays[batch.old.index])
    return _of_rows(
        batch,
        np.flatnonzero(stays),
        batch.ops,
        JoinedImages(number[batch.new.index[new_places]], [batch.new], new_places),
        JoinedImages(number[batch.old.index[old_places]], [batch.old], old_places),
        batch.old_is_key[old_places],
    )


def _of_rows(
    batch: ChangeBatch, keep: Indexes, ops: Iterable[int], new: RowImages, old: RowImages, old_is_key: Mask
) -> ChangeBatch:
    return replace(
        batch,
        ops=np.asarray(ops, dtype=np.uint8)[keep],
        commit_lsn=batch.commit_lsn[keep],
        xid=batch.xid[keep],
        ordinal=batch.ordinal[keep],
        commit_time=batch.commit_time[keep],
        new=new,
        old=old,
        old_is_key=old_is_key,
    )


# -- what is kept of them


def _rows(batch: ChangeBatch, which: Indexes, columns: Indexes, *, reason: str | None = None) -> pl.DataFrame:
    """Rows for the quarantine.

    Args:
        batch: The batch.
        which: Its rows; all have a new image.
        columns: By row of the batch: the column that is to blame.
        reason: By default the one for bad values.
    """
    schema = batch.schema
    images = batch.new.take(np.searchsorted(batch.new.index, which))
    texts = {name: images.texts(number) for number, name in enumerate(schema.names)}
    unsent = {name: mask for number, name in enumerate(schema.names) if (mask := images.unknown(number)) is not None}
    return pl.DataFrame(
        {
            "commit_lsn": batch.commit_lsn[which],
            "xid": batch.xid[which],
            "ordinal": batch.ordinal[which],
            "op": [_OPERATIONS[op] for op in batch.ops[which].tolist()],
            "column_name": [schema.names[number] for number in columns[which]],
            "reason": [reason or _reason(schema, number) for number in columns[which]],
            "row": _json(texts, unsent),
        },
        schema=ROWS,
    )


def _reason(schema: TableSchema, number: int) -> str:
    column = schema.columns[number]
    return f"the value of {column.name} ({column.source_type}) cannot be held by {column.type}"


def _texts(series: pl.Series) -> pl.Series:
    """Copied values as PostgreSQL writes them; a number may be written in another way, and is the same."""
    listed = series.to_list()
    if series.dtype == pl.Boolean:
        listed = [None if value is None else "t" if value else "f" for value in listed]
    elif series.dtype == pl.Binary:
        listed = [None if value is None else f"\\x{value.hex()}" for value in listed]
    elif series.dtype.is_float():
        endless = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
        listed = [None if value is None else endless.get(repr(value), repr(value)) for value in listed]
    elif series.dtype != pl.String:
        listed = [None if value is None else str(value) for value in listed]
    return pl.Series(series.name, listed, dtype=pl.String)


def _json(texts: dict[str, pl.Series], unsent: dict[str, Mask]) -> list[str]:
    """Rows as JSON objects of texts; what was not sent is not in them. One by one: they are the exception."""
    rows = pl.DataFrame([series.alias(name) for name, series in texts.items()]).rows(named=True)
    for name, mask in unsent.items():
        for place in np.flatnonzero(mask).tolist():
            del rows[place][name]
    return [json.dumps(row, ensure_ascii=False) for row in rows]
