"""Rows of several change batches of one table, numbered through, with values taken where they are known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from dbmazz_core.engine.row_images import replaced
from dbmazz_core.model.batch import ChangeBatch, Indexes, Mask, RowImages, commit_times
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, DELETED, XID, value_column


class Rows:
    """Batches of one table under one schema, as if they were one.

    Args:
        batches: At least one.
        soft_delete: Whether positions hold the commit time too, and new images whether they went.

    Attributes:
        schema: The schema.
        ops: Operation of each row, uint8, shape (n,).
        key: Places of the key columns.
    """

    def __init__(self, batches: Sequence[ChangeBatch], *, soft_delete: bool = False) -> None:
        self.batches = list(batches)
        self.soft_delete = soft_delete
        self._gone_by: Indexes | None = None
        self.schema = batches[0].schema
        self.ops = np.concatenate([batch.ops for batch in batches])
        self.key = self.schema.key_places
        self._offsets = np.cumsum([0, *(len(batch) for batch in batches)])
        self._new = _Places(self.batches, [batch.new for batch in batches], self._offsets)
        self._old = _Places(self.batches, [batch.old for batch in batches], self._offsets)

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def has_old(self) -> Mask:
        """Whether a row came with an old image."""
        return self._old.present

    def new(self, rows: Indexes) -> Selection:
        """The new images of rows that have one, in the order asked for."""
        return self._new.select(rows)

    def old(self, rows: Indexes) -> Selection:
        """The old images of rows that have one, in the order asked for."""
        return self._old.select(rows)

    def new_values(self, column: int, chosen: Selection) -> pl.Series:
        """New values of a column.

        A value that was not sent is taken from the row's own old image where that is whole (REPLICA IDENTITY FULL, or
        a TOASTed key column); else it is null, see `unknown`.
        """
        values = chosen.values(column)
        unknown = self._new.unknown(column)
        if unknown is not None:
            places = np.flatnonzero((unknown & self._old_holds(column))[chosen.rows])
            if len(places):
                values = replaced(values, places, self.old(chosen.rows[places]).values(column))
        return values

    def unknown(self, column: int) -> Mask | None:
        """True for rows whose new value of the column was not sent and is not in their old image either."""
        missing = self._new.unknown(column)
        if missing is None:
            return None
        missing = missing & ~self._old_holds(column)
        return missing if missing.any() else None

    def positions(self, rows: Indexes) -> list[pl.Series]:
        """Commit LSN and transaction of rows, and the commit time if it was asked for."""
        lsn = np.concatenate([batch.commit_lsn for batch in self.batches])
        xid = np.concatenate([batch.xid for batch in self.batches])
        positions = [pl.Series(COMMIT_LSN, lsn[rows]), pl.Series(XID, xid[rows])]
        if self.soft_delete:
            times = np.concatenate([batch.commit_time for batch in self.batches])
            positions.append(commit_times(times[rows]).alias(COMMIT_TS))
        return positions

    def bury(self, rows: Indexes, by: Indexes) -> None:
        """Rows whose new images went again, each by a later row."""
        self._gone_by = np.full(len(self), -1)
        self._gone_by[rows] = by

    def marks(self, rows: Indexes) -> list[pl.Series]:
        """Positions of new images, and for mode `soft_delete` whether they went: then it is when they did."""
        if not self.soft_delete:
            return self.positions(rows)
        by = np.full(len(rows), -1) if self._gone_by is None else self._gone_by[rows]
        return [*self.positions(np.where(by < 0, rows, by)), pl.Series(DELETED, by >= 0)]

    def new_frame(self, rows: Indexes) -> pl.DataFrame:
        """Whole new images of rows, and their marks."""
        chosen = self.new(rows)
        columns = [
            self.new_values(place, chosen).alias(value_column(place)) for place in range(len(self.schema.columns))
        ]
        return pl.DataFrame(columns + self.marks(rows))

    def key_values(self, old: Indexes, new: Indexes, back: Indexes) -> list[pl.Series]:
        """Key columns of old images and new ones, laid one after the other, then gathered by `back`."""
        old_images, new_images = self.old(old), self.new(new)
        return [
            pl.concat([old_images.values(place), self.new_values(place, new_images)])
            .gather(back)
            .alias(value_column(place))
            for place in self.key
        ]

    def _old_holds(self, column: int) -> Mask:
        """Whether a row's old image holds the column: a whole row does, a key holds the key's columns."""
        if column in self.key:
            return self._old.present
        holds = np.zeros(len(self), dtype=np.bool_)
        for batch, offset in zip(self.batches, self._offsets, strict=False):
            whole = ~batch.old_is_key
            missing = batch.old.unknown(column)  # a column that the source has no more
            if missing is not None:
                whole &= ~missing
            holds[offset + batch.old.index[whole]] = True
        return holds


class Selection:
    """Images of chosen rows, found once for all columns.

    Attributes:
        rows: The rows, in the order of the values.
    """

    def __init__(
        self, rows: Indexes, parts: list[tuple[ChangeBatch, RowImages]], back: Indexes | None, none: list[pl.DataType]
    ) -> None:
        self.rows = rows
        self._parts = parts
        self._back = back
        self._none = none

    def values(self, column: int) -> pl.Series:
        """Values of a column, null where they were not sent."""
        if not self._parts:
            return pl.Series(dtype=self._none[column])
        values: pl.Series = pl.concat([batch.values(images, column) for batch, images in self._parts], rechunk=False)
        return values if self._back is None else values.gather(self._back)


class _Places:
    """Where the image of each row lies: in which batch, and at which place within its images."""

    def __init__(self, batches: list[ChangeBatch], images: list[RowImages], offsets: Indexes) -> None:
        self._batches = batches
        self._images = images
        self._offsets = offsets
        self._place = np.full(int(offsets[-1]), -1, dtype=np.int64)
        for image, offset in zip(images, offsets, strict=False):
            self._place[offset + image.index] = np.arange(len(image.index))
        self.present: Mask = self._place >= 0

    def select(self, rows: Indexes) -> Selection:
        """Images of rows, in any order; a row may come several times."""
        none = [column.type.carrier for column in self._batches[0].schema.columns]
        in_order = len(rows) < 2 or bool((rows[1:] >= rows[:-1]).all())
        ascending = rows if in_order else np.sort(rows)
        bounds = np.searchsorted(ascending, self._offsets)
        parts = []
        for number, (first, last) in enumerate(itertools.pairwise(bounds.tolist())):
            if first == last:
                continue
            images, at = self._images[number], self._place[ascending[first:last]]
            whole = len(at) == len(images.index) and bool((at == np.arange(len(at))).all())
            parts.append((self._batches[number], images if whole else images.take(at)))
        back = None
        if not in_order:
            back = np.empty(len(rows), dtype=np.int64)
            back[np.argsort(rows, kind="stable")] = np.arange(len(rows))
        return Selection(rows, parts, back, none)

    def unknown(self, column: int) -> Mask | None:
        """True for rows whose image lacks the column's value."""
        found = None
        for image, offset in zip(self._images, self._offsets, strict=False):
            mask = image.unknown(column)
            if mask is not None:
                found = np.zeros(len(self._place), dtype=np.bool_) if found is None else found
                found[offset + image.index[mask]] = True
        return found
