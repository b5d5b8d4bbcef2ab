"""Batches for a destination that does not have the source's columns: where schema changes are ignored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dbmazz_core.model.batch import UPDATE, ChangeBatch, Indexes, Mask, RowImages, UnreadableText
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.table_shape import TableShape


def conform(batch: ChangeBatch, shape: TableShape) -> ChangeBatch:
    """Return a batch with the destination's columns instead of the source's.

    A column that the source lost keeps its value where a row is updated, and is NULL in new rows. A column that the
    destination ignores is left out. A column whose type changed is cast.

    Args:
        batch: Changes with the source's columns.
        shape: The destination's table; without a token the columns are the same.
    """
    if shape.token is None:
        return batch
    have = shape.schema
    sources = {target: place for place, target in enumerate(shape.targets.values()) if target is not None}
    theirs = [(c.name, c.type) for c in batch.schema.columns]
    if [(c.name, c.type) for c in have.columns] == theirs and list(sources) == [name for name, _ in theirs]:
        return batch
    places = tuple(sources.get(name) for name in have.names)
    key = tuple(shape.targets[name] or "" for name in batch.schema.key)
    new_is_update = batch.ops[batch.new.index] == UPDATE
    return replace(
        batch,
        schema=replace(have, table=batch.table, key=key),
        new=_Conformed(batch.new, places, have, new_is_update),
        old=_Conformed(batch.old, places, have, np.ones(len(batch.old.index), dtype=np.bool_)),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Conformed:
    """Implements `dbmazz_core.model.batch.RowImages`.

    Attributes:
        images: The source's.
        places: By column of the destination: which of the source's it is, None for one that the source lost.
        schema: The destination's columns.
        keeps: Images in which a lost column is not known, rather than NULL.
    """

    images: RowImages
    places: tuple[int | None, ...]
    schema: TableSchema
    keeps: Mask

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self.images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        values, wrong = self._cast(column)
        if wrong is not None and not self.lenient:
            at = int(wrong.argmax())
            raise UnreadableText(column, at, str(self.images.values(self.places[column] or 0)[at]))
        return values

    def _cast(self, column: int) -> tuple[pl.Series, Mask | None]:
        """Values in the destination's type, and where they have none there."""
        place, dtype = self.places[column], self.schema.columns[column].type.carrier
        if place is None:
            return pl.repeat(None, len(self.index), dtype=dtype, eager=True), None
        try:
            values = self.images.values(place)
        except UnreadableText as error:
            raise UnreadableText(column, error.place, error.text) from None
        if values.dtype == dtype:
            return values, None
        cast = values.cast(dtype, strict=False)
        wrong: Mask = (cast.is_null() & values.is_not_null()).to_numpy()
        return cast, wrong if wrong.any() else None

    def take(self, places: Indexes) -> RowImages:
        """See `RowImages.take`."""
        return _Conformed(self.images.take(places), self.places, self.schema, self.keeps[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        place = self.places[column]
        if place is not None:
            return self.images.unknown(place)
        return self.keeps if self.keeps.any() else None

    @property
    def lenient(self) -> bool:
        """See `RowImages.lenient`."""
        return self.images.lenient

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        place = self.places[column]
        if place is None:
            return None
        masks = [mask for mask in (self.images.unreadable(place), self._cast(column)[1]) if mask is not None]
        return np.logical_or.reduce(masks) if masks else None

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        place = self.places[column]
        if place is None:
            return pl.repeat(None, len(self.index), dtype=pl.String, eager=True)
        return self.images.texts(place)
