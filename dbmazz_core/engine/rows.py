"""Rows of several change batches of one table, numbered through, with values taken where they are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from dbmazz_core.batch import DELETE, ChangeBatch, Indexes, Mask, RowImages
from dbmazz_core.engine.effect import COMMIT_LSN, XID


class Rows:
    """Batches of one table under one schema, as if they were one.

    Attributes:
        schema: The schema.
        ops: Operation of each row, uint8, shape (n,).
        key: Numbers of the key columns.
    """

    def __init__(self, batches: Sequence[ChangeBatch]) -> None:
        self.batches = list(batches)
        self.schema = batches[0].schema
        self.ops = np.concatenate([batch.ops for batch in batches])
        names = self.schema.names
        self.key = tuple(names.index(name) for name in self.schema.key)
        self._offsets = np.cumsum([0, *(len(batch) for batch in batches)])
        self._new = _Places([batch.new for batch in batches], self._offsets)
        self._old = _Places([batch.old for batch in batches], self._offsets)

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def has_old(self) -> Mask:
        """Whether a row came with an old image."""
        return self._old.present

    def new_values(self, column: int, rows: Indexes) -> pl.Series:
        """New values of a column for rows that have a new image, in the order asked for.

        A value that was not sent is taken from the row's own old image where that is whole (REPLICA IDENTITY FULL, or
        a TOASTed key column); else it is null, see `unknown`.
        """
        values = self._values(self._new, column, rows)
        unknown = self._new.unknown(column)
        if unknown is not None and unknown[rows].any():
            from_old = rows[unknown[rows] & self._old_holds(column)[rows]]
            if len(from_old):
                places = np.flatnonzero(np.isin(rows, from_old))
                values = values.scatter(places, self._values(self._old, column, rows[places]))
        return values

    def old_values(self, column: int, rows: Indexes) -> pl.Series:
        """Old values of a column for rows that have an old image."""
        return self._values(self._old, column, rows)

    def unknown(self, column: int) -> Mask | None:
        """True for rows whose new value of the column was not sent and is not in their old image either."""
        missing = self._new.unknown(column)
        if missing is None:
            return None
        missing = missing & ~self._old_holds(column)
        return missing if missing.any() else None

    def positions(self, rows: Indexes) -> list[pl.Series]:
        """Commit LSN and transaction of rows."""
        lsn = np.concatenate([batch.commit_lsn for batch in self.batches])
        xid = np.concatenate([batch.xid for batch in self.batches])
        return [pl.Series(COMMIT_LSN, lsn[rows]), pl.Series(XID, xid[rows])]

    def new_frame(self, rows: Indexes) -> pl.DataFrame:
        """Whole new images of rows, and their positions."""
        columns = [self.new_values(i, rows).alias(name) for i, name in enumerate(self.schema.names)]
        return pl.DataFrame(columns + self.positions(rows))

    def _old_holds(self, column: int) -> Mask:
        """Whether a row's old image holds the column: a whole row does, a key holds the key's columns."""
        if column in self.key:
            return self._old.present
        holds = np.zeros(len(self), dtype=np.bool_)
        for batch, offset in zip(self.batches, self._offsets, strict=False):
            holds[offset + batch.old.index[~batch.old_is_key]] = True
        return holds

    def _values(self, places: _Places, column: int, rows: Indexes) -> pl.Series:
        owner = np.searchsorted(self._offsets, rows, side="right") - 1
        parts, order = [], []
        for number in np.unique(owner).tolist():
            chosen = np.flatnonzero(owner == number)
            images, batch = places.images[number], self.batches[number]
            at = places.place[rows[chosen]]
            whole = len(at) == len(images.index) and bool((at == np.arange(len(at))).all())
            parts.append(batch.values(images, column, None if whole else at))
            order.append(chosen)
        if not parts:
            return pl.Series(dtype=self.schema.columns[column].type.carrier)
        values: pl.Series = pl.concat(parts)
        back = np.concatenate(order)
        if len(parts) > 1 and (np.diff(back) < 0).any():
            inverse = np.empty_like(back)
            inverse[back] = np.arange(len(back))
            values = values.gather(inverse)
        return values


class _Places:
    """Where the image of each row lies: which place within its batch's images."""

    def __init__(self, images: list[RowImages], offsets: Indexes) -> None:
        self.images = images
        self._offsets = offsets
        self.place = np.full(int(offsets[-1]), -1, dtype=np.int64)
        for image, offset in zip(images, offsets, strict=False):
            self.place[offset + image.index] = np.arange(len(image.index))
        self.present: Mask = self.place >= 0

    def unknown(self, column: int) -> Mask | None:
        found = None
        for image, offset in zip(self.images, self._offsets, strict=False):
            mask = image.unknown(column)
            if mask is not None:
                found = np.zeros(len(self.place), dtype=np.bool_) if found is None else found
                found[offset + image.index[mask]] = True
        return found


__all__ = ["DELETE", "Rows"]
