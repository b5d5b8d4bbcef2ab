"""Change batches with the destination's columns, which differ from the source's if schema changes are ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from dbmazz_core.model.batch import UPDATE, ChangeBatch, Indexes, Mask, RowImages, UnreadableText
from dbmazz_core.model.datatypes import DataType
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import TextNeeded
from dbmazz_core.model.table_shape import TableShape


def with_destination_columns(batch: ChangeBatch, shape: TableShape) -> ChangeBatch:
    """Return a batch with the destination's columns instead of the source's.

    - A column that the source has dropped is unchanged in updates, and NULL in inserts.
    - A column that the destination ignores is left out.
    - A column whose type changed is cast.

    Args:
        batch: Changes with the source's columns.
        shape: The destination's table; without a token it has the source's columns.

    Raises:
        TextNeeded: A column of a typed batch would have to be cast.
    """
    if shape.token is None:
        return batch
    schema = shape.schema
    source_places = {target: place for place, target in enumerate(shape.targets.values()) if target is not None}
    source_columns = [(c.name, c.type) for c in batch.schema.columns]
    same_columns = [(c.name, c.type) for c in schema.columns] == source_columns
    if same_columns and list(source_places) == [name for name, _ in source_columns]:
        return batch
    places = tuple(source_places.get(name) for name in schema.names)
    key = tuple(shape.targets[name] or "" for name in batch.schema.key)
    types = [column.type for column in schema.columns]
    if batch.is_typed and (cast := _first_cast(batch.schema, places, types)) is not None:
        raise TextNeeded(f"column {cast} of {batch.table} has another type in the destination")
    dtypes = tuple(type.natural if batch.is_typed else type.carrier for type in types)
    new_is_update = batch.ops[batch.new.index] == UPDATE
    return replace(
        batch,
        schema=replace(schema, table=batch.table, key=key),
        new=_DestinationImages(batch.new, places, dtypes, new_is_update),
        old=_DestinationImages(batch.old, places, dtypes, np.ones(len(batch.old.index), dtype=np.bool_)),
    )


def _first_cast(source: TableSchema, places: Sequence[int | None], types: Sequence[DataType]) -> str | None:
    """Return the first column whose typed values would have to be cast: polars' casts are not DuckDB's."""
    for place, type in zip(places, types, strict=True):
        if place is not None and source.columns[place].type != type:
            return source.columns[place].name
    return None


@dataclass(frozen=True, slots=True, eq=False)
class _DestinationImages:
    """Row images with the destination's columns. Implements `dbmazz_core.model.batch.RowImages`.

    Attributes:
        images: The images with the source's columns.
        places: By column of the destination: the place of the source's column; None if the source has dropped it.
        dtypes: By column of the destination: the dtype of its values.
        unknown_if_dropped: Whether an image's values of columns that the source has dropped are unknown, not NULL.
    """

    images: RowImages
    places: tuple[int | None, ...]
    dtypes: tuple[pl.DataType, ...]
    unknown_if_dropped: Mask

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self.images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        values, failed = self._cast(column)
        if failed is not None and not self.keep_unreadable:
            at = int(failed.argmax())
            raise UnreadableText(column, at, str(self.images.values(self.places[column] or 0)[at]))
        return values

    def _cast(self, column: int) -> tuple[pl.Series, Mask | None]:
        """Return values in the destination's type, and where the cast failed; None if it failed nowhere."""
        place, dtype = self.places[column], self.dtypes[column]
        if place is None:
            return pl.repeat(None, len(self.index), dtype=dtype, eager=True), None
        try:
            values = self.images.values(place)
        except UnreadableText as error:
            raise UnreadableText(column, error.place, error.text) from None
        if values.dtype == dtype:
            return values, None
        cast = values.cast(dtype, strict=False)
        failed: Mask = (cast.is_null() & values.is_not_null()).to_numpy()
        return cast, failed if failed.any() else None

    def take(self, places: Indexes) -> RowImages:
        """See `RowImages.take`."""
        return _DestinationImages(self.images.take(places), self.places, self.dtypes, self.unknown_if_dropped[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        place = self.places[column]
        if place is not None:
            return self.images.unknown(place)
        return self.unknown_if_dropped if self.unknown_if_dropped.any() else None

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`."""
        return self.images.keep_unreadable

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
