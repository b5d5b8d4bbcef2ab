"""Many texts as one piece of memory, and where in it quotes and escapes are: what array and hstore text share.

Inside double quotes a backslash escapes the character behind it; outside there are no backslashes (`array_out` and
`hstore_out` quote every text that has one). So a quote counts unless an odd number of backslashes stands before it, and
a byte is inside quotes if an odd number of quotes came before it. Bytes of multibyte UTF-8 characters are 128 or more,
so none is taken for a sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

_QUOTE, _BACKSLASH = ord('"'), ord("\\")


class BadText(Exception):
    """A text is not what its type's output function makes. `place` says which one of the series."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True, slots=True, eq=False)
class JoinedTexts:
    """n texts laid end to end.

    Attributes:
        data: Their bytes, uint8, shape (b,).
        bounds: Where text i begins and, at i + 1, ends, shape (n + 1,). NULL is an empty text here.
        is_null: Which are NULL, shape (n,).
        escapes: Places of backslashes that escape the byte behind them, ascending.
        quotes: Places of quotes that open or close, ascending.
        inside: By byte: whether it is between quotes, the opening one included; None where nothing is quoted.
    """

    data: Bytes
    bounds: Places
    is_null: Flags
    escapes: Places
    quotes: Places
    inside: Flags | None

    @classmethod
    def of(cls, texts: pl.Series) -> JoinedTexts:
        """Of a `Binary` series.

        Raises:
            BadText: If quotes are not closed, or a backslash is outside of them.
        """
        is_null = texts.is_null().to_numpy()
        array = texts.fill_null(b"").rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        assert pa.types.is_large_binary(array.type), array.type
        _, bounds_buffer, data_buffer = array.buffers()
        bounds = np.frombuffer(bounds_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.empty(0, dtype=np.uint8)
        data, bounds = data[bounds[0] : bounds[-1]], bounds - bounds[0]
        is_quote = data == _QUOTE
        escapes = _escapes(data)
        if len(escapes):
            # No text ends with a backslash; one would reach into the next text.
            last = np.flatnonzero((bounds[1:] > bounds[:-1]) & (data[bounds[1:] - 1] == _BACKSLASH))
            if len(last):
                raise BadText(int(last[0]))
            is_quote[escapes + 1] = False
        quotes = np.flatnonzero(is_quote)
        odd = np.flatnonzero(np.searchsorted(quotes, bounds[1:]) & 1)
        if len(odd):
            raise BadText(int(odd[0]))
        # Counting in bytes wraps around, which leaves odd and even as they are.
        inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).astype(np.bool_) if len(quotes) else None
        if inside is not None and len(escapes):
            outside = escapes[~inside[escapes]]
            if len(outside):
                raise BadText(int(np.searchsorted(bounds, outside[0], "right")) - 1)
        elif len(escapes):
            raise BadText(int(np.searchsorted(bounds, escapes[0], "right")) - 1)
        return cls(data, bounds, is_null, escapes, quotes, inside)

    def text_of(self, places: Places) -> Places:
        """Which text each place is in."""
        return np.searchsorted(self.bounds, places, "right") - 1

    def series(self, keep: Flags, starts: Places, stops: Places, is_null: Flags) -> pl.Series:
        """The bytes of spans as a `Binary` series.

        Args:
            keep: Which bytes of `data` are contents; all of them lie in the spans.
            starts: Where the spans begin, ascending, shape (m,); they do not overlap.
            stops: Where they end.
            is_null: Which of them stand for NULL.
        """
        dropped = np.flatnonzero(~keep)
        lengths = stops - starts - (np.searchsorted(dropped, stops) - np.searchsorted(dropped, starts))
        bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        valid = pa.py_buffer(np.packbits(~is_null, bitorder="little")) if is_null.any() else None
        flat = self.data[keep]
        assert bounds[-1] == len(flat)
        array = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), len(starts), [valid, pa.py_buffer(bounds), pa.py_buffer(flat)]
        )
        series = pl.from_arrow(array)
        assert isinstance(series, pl.Series)
        return series


def _escapes(data: Bytes) -> Places:
    """Places of backslashes that escape: the first, third, ... of each run."""
    at = np.flatnonzero(data == _BACKSLASH)
    if not len(at):
        return at
    begins = np.concatenate([[True], np.diff(at) > 1])
    run = at[np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))]
    escapes: Places = at[(at - run) & 1 == 0]
    return escapes
