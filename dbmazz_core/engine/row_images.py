"""Row images that are assembled from other row images: of a batch without some of its changes, for example."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from dbmazz_core.model.batch import Indexes, Mask, RowImages


class GatheredImages:
    """Row images gathered from a concatenation of others, as images of other rows. Implements `RowImages`.

    Args:
        index: The rows that have these images, ascending, shape (k,).
        parts: The other images.
        gather: By image: its place in the concatenation of `parts`, shape (k,).
    """

    def __init__(self, index: Indexes, parts: Sequence[RowImages], gather: Indexes) -> None:
        self._index = index
        self._parts = parts
        self._gather = gather

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        return pl.concat([part.values(column) for part in self._parts], rechunk=False).gather(self._gather)

    def take(self, places: Indexes) -> GatheredImages:
        """See `RowImages.take`."""
        return GatheredImages(self._index[places], self._parts, self._gather[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        return self._gathered_mask(lambda part: part.unknown(column))

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`."""
        return all(part.keep_unreadable for part in self._parts)

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        return self._gathered_mask(lambda part: part.unreadable(column))

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return pl.concat([part.texts(column) for part in self._parts], rechunk=False).gather(self._gather)

    def _gathered_mask(self, mask_of: Callable[[RowImages], Mask | None]) -> Mask | None:
        """Return the masks of all parts, gathered; None if no image of these is marked."""
        masks = [mask_of(part) for part in self._parts]
        if all(mask is None for mask in masks):
            return None
        whole = [
            np.zeros(len(part.index), dtype=np.bool_) if mask is None else mask
            for part, mask in zip(self._parts, masks, strict=True)
        ]
        gathered: Mask = np.concatenate(whole)[self._gather]
        return gathered if gathered.any() else None


class KeyOnlyImages:
    """Row images, some of them reduced to the key; their other columns are NULL. Implements `RowImages`.

    A source sends the key alone as the old image if the replica identity is not FULL.

    Args:
        images: The images.
        key_columns: Numbers of the key columns.
        key_only: Whether an image is reduced, shape (k,).
    """

    def __init__(self, images: RowImages, key_columns: Sequence[int], key_only: Mask) -> None:
        self._images = images
        self._key_columns = key_columns
        self._key_only = key_only

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        values = self._images.values(column)
        if column in self._key_columns:
            return values
        nulls = pl.repeat(None, len(values), dtype=values.dtype, eager=True)
        return values.zip_with(pl.Series(~self._key_only), nulls)

    def take(self, places: Indexes) -> KeyOnlyImages:
        """See `RowImages.take`."""
        return KeyOnlyImages(self._images.take(places), self._key_columns, self._key_only[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        return self._mask_of_whole_images(column, self._images.unknown(column))

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`."""
        return self._images.keep_unreadable

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        return self._mask_of_whole_images(column, self._images.unreadable(column))

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return self._images.texts(column)

    def _mask_of_whole_images(self, column: int, mask: Mask | None) -> Mask | None:
        """Return a column's mask without the images that do not have the column."""
        if mask is None or column in self._key_columns:
            return mask
        of_whole_images: Mask = mask & ~self._key_only
        return of_whole_images if of_whole_images.any() else None


class FilledImages:
    """New row images whose unsent values are filled from the old images of their rows. Implements `RowImages`.

    Args:
        images: The new images.
        old: The old images.
        whole: Whether an old image is a whole row, shape (number of old images,).
    """

    def __init__(self, images: RowImages, old: RowImages, whole: Mask) -> None:
        self._images = images
        self._old = old
        # Places of the new images whose rows have a whole old image, and the places of these old images.
        _, self._places, self._old_places = np.intersect1d(
            images.index, old.index[whole], assume_unique=True, return_indices=True
        )
        self._old_places = np.flatnonzero(whole)[self._old_places]

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        return self._fill(column, self._images.values(column), self._old.values)

    def take(self, places: Indexes) -> GatheredImages:
        """See `RowImages.take`."""
        return GatheredImages(self.index[places], [self], places)

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        unsent = self._images.unknown(column)
        if unsent is None:
            return None
        rest: Mask = unsent.copy()
        rest[self._filled_places(column, unsent)[0]] = False
        return rest if rest.any() else None

    @property
    def keep_unreadable(self) -> bool:
        """See `RowImages.keep_unreadable`."""
        return self._images.keep_unreadable and self._old.keep_unreadable

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        of_new, of_old = self._images.unreadable(column), self._old.unreadable(column)
        places, old_places = self._filled_places(column, self._images.unknown(column))
        mask: Mask = np.zeros(len(self.index), dtype=np.bool_) if of_new is None else of_new.copy()
        mask[places] = False if of_old is None else of_old[old_places]
        return mask if mask.any() else None

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return self._fill(column, self._images.texts(column), self._old.texts)

    def _fill(self, column: int, values: pl.Series, old: Callable[[int], pl.Series]) -> pl.Series:
        places, old_places = self._filled_places(column, self._images.unknown(column))
        return scatter(values, places, old(column).gather(old_places)) if len(places) else values

    def _filled_places(self, column: int, unsent: Mask | None) -> tuple[Indexes, Indexes]:
        """Return the places whose value comes from an old image, and the places of these old images."""
        if unsent is None:
            return self._places[:0], self._old_places[:0]
        filled = unsent[self._places]
        unknown_in_old = self._old.unknown(column)  # of a column that the source has dropped
        if unknown_in_old is not None:
            filled &= ~unknown_in_old[self._old_places]
        return self._places[filled], self._old_places[filled]


def scatter(values: pl.Series, places: Indexes, replacements: pl.Series) -> pl.Series:
    """Return a series with other values at some places.

    `Series.scatter` of polars does not support nested dtypes: these are gathered from a concatenation.
    """
    if not values.dtype.is_nested():
        return values.scatter(places, replacements)
    index = np.arange(len(values))
    index[places] = len(values) + np.arange(len(places))
    return pl.concat([values, replacements]).gather(index)
