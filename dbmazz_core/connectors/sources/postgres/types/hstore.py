"""hstore text to maps, for all values of a column at once.

In the text `"a"=>"1", "b"=>NULL` keys and values are always quoted. The first character of a pair outside of quotes is
therefore the `=` of its arrow, and each quoted text is the one before an arrow or the one behind.

Source: `hstore_out` (contrib/hstore/hstore_io.c).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.types.quoting import BadText, Bytes, Flags, JoinedTexts, Places

_EQUALS, _GREATER, _QUOTE = b'=>"'


def read_hstores(texts: pl.Series) -> pl.Series:
    """Return hstore texts as maps.

    >>> read_hstores(pl.Series([b'"a"=>"1", "b"=>NULL', b""])).to_list()
    [[{'key': 'a', 'value': '1'}, {'key': 'b', 'value': None}], []]

    Args:
        texts: A `Binary` series, shape (n,); null is NULL.

    Returns:
        A series of lists of structs with the String fields `key` and `value`, shape (n,).

    Raises:
        BadText: A text is no hstore.
    """
    joined = JoinedTexts.of(texts)
    inside = np.zeros(len(joined.data), dtype=np.bool_) if joined.inside is None else joined.inside
    opens, closes = joined.quotes[::2], joined.quotes[1::2]
    keep = inside.copy()
    keep[opens] = False
    keep[joined.escapes] = False
    parts = joined.series(keep, opens + 1, closes, np.zeros(len(opens), dtype=np.bool_))
    try:
        parts = parts.cast(pl.String)
    except pl.exceptions.ComputeError:
        place = next(place for place, raw in enumerate(parts.to_list()) if not _is_utf8(raw))
        raise BadText(int(joined.text_of(opens[place : place + 1])[0])) from None

    arrows = np.flatnonzero((joined.data == _EQUALS) & ~inside)
    keys = np.searchsorted(opens, arrows) - 1
    has_value = _bytes_at(joined, arrows + 2) == _QUOTE
    _verify_pairs(joined, arrows, opens, closes, keys, has_value)
    values = pl.select(pl.when(pl.Series(has_value)).then(pl.Series(keys + 1))).to_series()
    pairs = pl.DataFrame({"key": parts.gather(keys), "value": parts.gather(values)}).to_struct("pairs")
    offsets = np.searchsorted(arrows, joined.bounds)
    valid = pa.py_buffer(np.packbits(~joined.is_null, bitorder="little")) if joined.is_null.any() else None
    array = pairs.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    lists = pa.LargeListArray.from_buffers(
        pa.large_list(array.type), len(joined.is_null), [valid, pa.py_buffer(offsets)], children=[array]
    )
    series = pl.from_arrow(lists)
    assert isinstance(series, pl.Series)
    return series.alias(texts.name)


def _verify_pairs(
    joined: JoinedTexts, arrows: Places, opens: Places, closes: Places, keys: Places, has_value: Flags
) -> None:
    """Raise BadText for the first text that is not quoted keys and quoted values or NULL, in pairs joined by `, `."""
    text = joined.text_of(arrows)
    first = np.concatenate([[True], text[1:] != text[:-1]]) if len(text) else np.zeros(0, dtype=np.bool_)
    last = np.append(first[1:], True) if len(text) else first
    begins, ends = joined.bounds[:-1], joined.bounds[1:]
    # A key's quotes end at the arrow. They begin where the text begins, or two bytes behind the pair before.
    known = np.maximum(keys, 0)
    wrong = (keys < 0) | (_bytes_at(joined, arrows + 1) != _GREATER)
    if len(opens):
        stop = np.where(has_value, closes[np.minimum(known + 1, len(closes) - 1)] + 1, arrows + 6)
        wrong |= (closes[known] != arrows - 1) | (first & (opens[known] != begins[text]))
        wrong |= last & (stop != ends[text])
        wrong[1:] |= ~first[1:] & (opens[known][1:] != stop[:-1] + 2)
        for place, letter in enumerate(b"NULL"):
            wrong |= ~has_value & (_bytes_at(joined, arrows + 2 + place) != letter)
        for place, letter in enumerate(b", "):
            wrong |= ~last & (_bytes_at(joined, stop + place) != letter)
    # Texts that are not empty and have no pair.
    without = np.ones(len(begins), dtype=np.bool_)
    without[text] = False
    bad = np.concatenate([text[wrong], np.flatnonzero(without & (ends > begins))])
    if len(bad):
        raise BadText(int(bad.min()))


def _bytes_at(joined: JoinedTexts, places: Places) -> Bytes:
    """Return the bytes at offsets; 0 behind the end."""
    padded = np.where(places < len(joined.data), places, 0)
    found = joined.data[padded] if len(joined.data) else np.zeros(len(places), dtype=np.uint8)
    return np.where(places < len(joined.data), found, 0)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
