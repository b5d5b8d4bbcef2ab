"""Images of rows put together from others': what is left of a batch when some of its changes are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from dbmazz_core.batch import Indexes, Mask, RowImages


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
