"""Texts joined in one piece of memory, with the offsets of quotes and escapes: shared by array and hstore text.

Within double quotes a backslash escapes the next character. Outside of quotes no text has a backslash (`array_out` and
`hstore_out` quote every text with one). A quote therefore counts unless an odd number of backslashes precedes it, and a
byte is within quotes if an odd number of quotes precedes it. The bytes of multibyte UTF-8 characters are 128 or more,
so that none is mistaken for a quote, brace or delimiter.
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
    """A text has another form than its type's output function makes. `place` is its index in the series."""

    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


@dataclass(frozen=True, slots=True, eq=False)
class JoinedTexts:
    """n texts joined end to end.

    Attributes:
        data: Their bytes, uint8, shape (b,).
        bounds: Offset of each text, and the end of the last, int64, shape (n + 1,). NULL has no bytes.
        is_null: Which texts are NULL, shape (n,).
        escapes: Offsets of backslashes that escape the next byte, ascending.
        quotes: Offsets of quotes that open or close, ascending.
        inside: Whether each byte is within quotes, which includes the opening quote, shape (b,); None: no quotes.
    """

    data: Bytes
    bounds: Places
    is_null: Flags
    escapes: Places
    quotes: Places
    inside: Flags | None

    @classmethod
    def of(cls, texts: pl.Series) -> JoinedTexts:
        """Join the texts of a `Binary` series.

        Raises:
            BadText: A text has a quote that is not closed, or a backslash outside of quotes.
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
            # No text ends with a backslash, which would escape the first byte of the next text.
            last = np.flatnonzero((bounds[1:] > bounds[:-1]) & (data[bounds[1:] - 1] == _BACKSLASH))
            if len(last):
                raise BadText(int(last[0]))
            is_quote[escapes + 1] = False
        quotes = np.flatnonzero(is_quote)
        odd = np.flatnonzero(np.searchsorted(quotes, bounds[1:]) & 1)
        if len(odd):
            raise BadText(int(odd[0]))
        # The sum wraps around at 256, which keeps odd and even.
        inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).astype(np.bool_) if len(quotes) else None
        if inside is not None and len(escapes):
            outside = escapes[~inside[escapes]]
            if len(outside):
                raise BadText(int(np.searchsorted(bounds, outside[0], "right")) - 1)
        elif len(escapes):
            raise BadText(int(np.searchsorted(bounds, escapes[0], "right")) - 1)
        return cls(data, bounds, is_null, escapes, quotes, inside)

    def text_of(self, places: Places) -> Places:
        """Return the index of the text that each offset is in."""
        return np.searchsorted(self.bounds, places, "right") - 1

    def series(self, keep: Flags, starts: Places, stops: Places, is_null: Flags) -> pl.Series:
        """Return the bytes of spans as a `Binary` series, shape (m,).

        Args:
            keep: Which bytes of `data` are contents, shape (b,). All of them lie within the spans.
            starts: Offset of each span, ascending, shape (m,). Spans do not overlap.
            stops: Offset behind each span, shape (m,).
            is_null: Which spans are NULL, shape (m,).
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
    """Return the offsets of backslashes that escape: the first, third, ... of each run of backslashes."""
    at = np.flatnonzero(data == _BACKSLASH)
    if not len(at):
        return at
    begins = np.concatenate([[True], np.diff(at) > 1])
    run = at[np.maximum.accumulate(np.where(begins, np.arange(len(at)), 0))]
    escapes: Places = at[(at - run) & 1 == 0]
    return escapes
