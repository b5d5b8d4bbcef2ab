"""The changes of several batches of one table, numbered as one sequence, with their row images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl

from dbmazz_core.engine.row_images import scatter
from dbmazz_core.model.batch import ChangeBatch, Indexes, Mask, RowImages, commit_times
from dbmazz_core.model.frame_columns import COMMIT_LSN, COMMIT_TS, DELETED, XID, value_column


class BatchRows:
    """The changes of several batches as if they were one batch. A *row* is the number of a change, from 0.

    Args:
        batches: Batches of one table under one schema, in stream order; at least one.
        soft_delete: Whether frames have the commit time, and new images a mark that tells deleted rows.

    Attributes:
        schema: The schema.
        ops: The operation of each change, uint8, shape (n,).
        key: Places of the key columns.
    """

    def __init__(self, batches: Sequence[ChangeBatch], *, soft_delete: bool = False) -> None:
        self.batches = list(batches)
        self.soft_delete = soft_delete
        self._deleted_by: Indexes | None = None
        self.schema = batches[0].schema
        self.ops = np.concatenate([batch.ops for batch in batches])
        self.key = self.schema.key_places
        self._offsets = np.cumsum([0, *(len(batch) for batch in batches)])
        self._new = _ImageLocations(self.batches, [batch.new for batch in batches], self._offsets)
        self._old = _ImageLocations(self.batches, [batch.old for batch in batches], self._offsets)

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def has_old(self) -> Mask:
        """Whether a change came with an old image."""
        return self._old.present

    def new(self, rows: Indexes) -> Selection:
        """Return the new images of rows that have a new image, in the given order."""
        return self._new.select(rows)

    def old(self, rows: Indexes) -> Selection:
        """Return the old images of rows that have an old image, in the given order."""
        return self._old.select(rows)

    def new_values(self, column: int, chosen: Selection) -> pl.Series:
        """Return the new values of a column.

        An unsent value is taken from the old image of the same change if that image holds the column (REPLICA IDENTITY
        FULL, or a TOASTed key column); otherwise it is null, see `unknown`.
        """
        values = chosen.values(column)
        unknown = self._new.unknown(column)
        if unknown is not None:
            places = np.flatnonzero((unknown & self._old_holds(column))[chosen.rows])
            if len(places):
                values = scatter(values, places, self.old(chosen.rows[places]).values(column))
        return values

    def unknown(self, column: int) -> Mask | None:
        """Return whether a change leaves the new value unknown: it is unsent, and the old image does not hold it."""
        missing = self._new.unknown(column)
        if missing is None:
            return None
        missing = missing & ~self._old_holds(column)
        return missing if missing.any() else None

    def positions(self, rows: Indexes) -> list[pl.Series]:
        """Return the columns `COMMIT_LSN` and `XID` of rows, and `COMMIT_TS` for mode `soft_delete`."""
        lsn = np.concatenate([batch.commit_lsn for batch in self.batches])
        xid = np.concatenate([batch.xid for batch in self.batches])
        positions = [pl.Series(COMMIT_LSN, lsn[rows]), pl.Series(XID, xid[rows])]
        if self.soft_delete:
            times = np.concatenate([batch.commit_time for batch in self.batches])
            positions.append(commit_times(times[rows]).alias(COMMIT_TS))
        return positions

    def mark_deleted(self, rows: Indexes, by: Indexes) -> None:
        """Record that rows whose new images are kept were deleted, each by the change `by`."""
        self._deleted_by = np.full(len(self), -1)
        self._deleted_by[rows] = by

    def metadata(self, rows: Indexes) -> list[pl.Series]:
        """Return the columns that a frame has beside the table's own columns.

        They are the positions of the new images. For mode `soft_delete` they include `DELETED`; the position of a
        deleted row is that of the change that deleted the row.
        """
        if not self.soft_delete:
            return self.positions(rows)
        by = np.full(len(rows), -1) if self._deleted_by is None else self._deleted_by[rows]
        return [*self.positions(np.where(by < 0, rows, by)), pl.Series(DELETED, by >= 0)]

    def new_frame(self, rows: Indexes) -> pl.DataFrame:
        """Return whole new images of rows, with their metadata."""
        chosen = self.new(rows)
        columns = [
            self.new_values(place, chosen).alias(value_column(place)) for place in range(len(self.schema.columns))
        ]
        return pl.DataFrame(columns + self.metadata(rows))

    def key_values(self, old: Indexes, new: Indexes, gather: Indexes) -> list[pl.Series]:
        """Return the key columns of old and new images.

        Args:
            old: Rows whose old images have the keys.
            new: Rows whose new images have the keys.
            gather: By key of the result: its place among the keys of `old`, followed by the keys of `new`.
        """
        old_images, new_images = self.old(old), self.new(new)
        return [
            pl.concat([old_images.values(place), self.new_values(place, new_images)])
            .gather(gather)
            .alias(value_column(place))
            for place in self.key
        ]

    def keys_of_rows(self, rows: Indexes, from_old: Mask) -> list[pl.Series]:
        """Return the key columns of rows, each from the old or the new image.

        Args:
            rows: The rows.
            from_old: Whether the key of a row is that of its old image, shape of `rows`.
        """
        gather = np.argsort(np.concatenate([np.flatnonzero(from_old), np.flatnonzero(~from_old)]))
        return self.key_values(rows[from_old], rows[~from_old], gather)

    def _old_holds(self, column: int) -> Mask:
        """Return whether the old image of a change holds the column: a whole row, or a key with this column."""
        if column in self.key:
            return self._old.present
        holds = np.zeros(len(self), dtype=np.bool_)
        for batch, offset in zip(self.batches, self._offsets, strict=False):
            whole = ~batch.old_is_key
            missing = batch.old.unknown(column)  # of a column that the source has dropped
            if missing is not None:
                whole &= ~missing
            holds[offset + batch.old.index[whole]] = True
        return holds


class Selection:
    """The images of some rows, located once for all columns.

    Args:
        rows: The rows, in the order of the values.
        parts: The images, with their batches, in stream order.
        gather: By value: its place in the concatenation of `parts`; None if the order is the same.
        dtypes: By column: the dtype where there is no image.
    """

    def __init__(
        self,
        rows: Indexes,
        parts: list[tuple[ChangeBatch, RowImages]],
        gather: Indexes | None,
        dtypes: list[pl.DataType],
    ) -> None:
        self.rows = rows
        self._parts = parts
        self._gather = gather
        self._dtypes = dtypes

    def values(self, column: int) -> pl.Series:
        """Return the values of a column, null where they were not sent."""
        if not self._parts:
            return pl.Series(dtype=self._dtypes[column])
        values: pl.Series = pl.concat([batch.values(images, column) for batch, images in self._parts], rechunk=False)
        return values if self._gather is None else values.gather(self._gather)


class _ImageLocations:
    """The location of each row's image: its batch, and its place among the images of the batch.

    Args:
        batches: The batches.
        images: By batch: its new images, or its old images.
        offsets: By batch: the number of its first row; behind them the number of all rows.

    Attributes:
        present: Whether a row has an image, shape (n,).
    """

    def __init__(self, batches: list[ChangeBatch], images: list[RowImages], offsets: Indexes) -> None:
        self._batches = batches
        self._images = images
        self._offsets = offsets
        self._place = np.full(int(offsets[-1]), -1, dtype=np.int64)
        for image, offset in zip(images, offsets, strict=False):
            self._place[offset + image.index] = np.arange(len(image.index))
        self.present: Mask = self._place >= 0

    def select(self, rows: Indexes) -> Selection:
        """Return the images of rows in the given order; a row may occur several times."""
        first = self._batches[0]
        dtypes = [first.dtype(place) for place in range(len(first.schema.columns))]
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
        gather = None
        if not in_order:
            gather = np.empty(len(rows), dtype=np.int64)
            gather[np.argsort(rows, kind="stable")] = np.arange(len(rows))
        return Selection(rows, parts, gather, dtypes)

    def unknown(self, column: int) -> Mask | None:
        """Return whether a row has an image that lacks the column's value; None if none lacks it."""
        unknown = None
        for image, offset in zip(self._images, self._offsets, strict=False):
            mask = image.unknown(column)
            if mask is not None:
                unknown = np.zeros(len(self._place), dtype=np.bool_) if unknown is None else unknown
                unknown[offset + image.index[mask]] = True
        return unknown
