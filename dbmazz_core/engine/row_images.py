"""Images of rows put together from others': what is left of a batch when some of its changes are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from dbmazz_core.model.batch import Indexes, Mask, RowImages


class JoinedImages:
    """Images of several others, in another order and as those of other rows. Implements `RowImages`.

    Args:
        index: Which rows these are the images of, ascending, shape (k,).
        parts: Where the images are.
        back: Places of the images in the parts, laid one behind the other, shape (k,).
    """

    def __init__(self, index: Indexes, parts: Sequence[RowImages], back: Indexes) -> None:
        self._index = index
        self._parts = parts
        self._back = back

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        return pl.concat([part.values(column) for part in self._parts], rechunk=False).gather(self._back)

    def take(self, places: Indexes) -> JoinedImages:
        """See `RowImages.take`."""
        return JoinedImages(self._index[places], self._parts, self._back[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        return self._mask(lambda part: part.unknown(column))

    @property
    def lenient(self) -> bool:
        """See `RowImages.lenient`."""
        return all(part.lenient for part in self._parts)

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        return self._mask(lambda part: part.unreadable(column))

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return pl.concat([part.texts(column) for part in self._parts], rechunk=False).gather(self._back)

    def _mask(self, of: Callable[[RowImages], Mask | None]) -> Mask | None:
        masks = [of(part) for part in self._parts]
        if all(mask is None for mask in masks):
            return None
        whole = [
            np.zeros(len(part.index), dtype=np.bool_) if mask is None else mask
            for part, mask in zip(self._parts, masks, strict=True)
        ]
        found: Mask = np.concatenate(whole)[self._back]
        return found if found.any() else None


class KeyImages:
    """Images of which some are the key alone, as PostgreSQL sends them: other columns are NULL. Implements `RowImages`.

    Args:
        images: The images.
        keys: Numbers of the key columns.
        alone: Which of the images are so, shape (k,).
    """

    def __init__(self, images: RowImages, keys: Sequence[int], alone: Mask) -> None:
        self._images = images
        self._keys = keys
        self._alone = alone

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        values = self._images.values(column)
        if column in self._keys:
            return values
        none = pl.repeat(None, len(values), dtype=values.dtype, eager=True)
        return values.zip_with(pl.Series(~self._alone), none)

    def take(self, places: Indexes) -> KeyImages:
        """See `RowImages.take`."""
        return KeyImages(self._images.take(places), self._keys, self._alone[places])

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        return self._rest(column, self._images.unknown(column))

    @property
    def lenient(self) -> bool:
        """See `RowImages.lenient`."""
        return self._images.lenient

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        return self._rest(column, self._images.unreadable(column))

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return self._images.texts(column)

    def _rest(self, column: int, mask: Mask | None) -> Mask | None:
        if mask is None or column in self._keys:
            return mask
        rest: Mask = mask & ~self._alone
        return rest if rest.any() else None


class CompletedImages:
    """New images with the values that were not sent taken from the old images of their rows. Implements `RowImages`.

    Args:
        images: The new images.
        old: The old ones.
        whole: Which of the old ones are whole rows, shape (number of old images,).
    """

    def __init__(self, images: RowImages, old: RowImages, whole: Mask) -> None:
        self._images = images
        self._old = old
        # Places of new images that have such an old one, and where that is.
        _, self._places, self._from = np.intersect1d(
            images.index, old.index[whole], assume_unique=True, return_indices=True
        )
        self._from = np.flatnonzero(whole)[self._from]

    @property
    def index(self) -> Indexes:
        """See `RowImages.index`."""
        return self._images.index

    def values(self, column: int) -> pl.Series:
        """See `RowImages.values`."""
        return self._completed(column, self._images.values(column), self._old.values)

    def take(self, places: Indexes) -> JoinedImages:
        """See `RowImages.take`."""
        return JoinedImages(self.index[places], [self], places)

    def unknown(self, column: int) -> Mask | None:
        """See `RowImages.unknown`."""
        unsent = self._images.unknown(column)
        if unsent is None:
            return None
        rest: Mask = unsent.copy()
        rest[self._filled(column, unsent)[0]] = False
        return rest if rest.any() else None

    @property
    def lenient(self) -> bool:
        """See `RowImages.lenient`."""
        return self._images.lenient and self._old.lenient

    def unreadable(self, column: int) -> Mask | None:
        """See `RowImages.unreadable`."""
        here, there = self._images.unreadable(column), self._old.unreadable(column)
        places, sources = self._filled(column, self._images.unknown(column))
        mask: Mask = np.zeros(len(self.index), dtype=np.bool_) if here is None else here.copy()
        mask[places] = False if there is None else there[sources]
        return mask if mask.any() else None

    def texts(self, column: int) -> pl.Series:
        """See `RowImages.texts`."""
        return self._completed(column, self._images.texts(column), self._old.texts)

    def _completed(self, column: int, values: pl.Series, old: Callable[[int], pl.Series]) -> pl.Series:
        places, sources = self._filled(column, self._images.unknown(column))
        return replaced(values, places, old(column).gather(sources)) if len(places) else values

    def _filled(self, column: int, unsent: Mask | None) -> tuple[Indexes, Indexes]:
        """Places whose value comes from an old image, and where that is."""
        if unsent is None:
            return self._places[:0], self._from[:0]
        held = unsent[self._places]
        missing = self._old.unknown(column)  # a column that the source has no more
        if missing is not None:
            held &= ~missing[self._from]
        return self._places[held], self._from[held]


def replaced(values: pl.Series, places: Indexes, by: pl.Series) -> pl.Series:
    """The series with other values at these places. Polars scatters no lists, so they are gathered."""
    if not values.dtype.is_nested():
        return values.scatter(places, by)
    index = np.arange(len(values))
    index[places] = len(values) + np.arange(len(places))
    return pl.concat([values, by]).gather(index)
