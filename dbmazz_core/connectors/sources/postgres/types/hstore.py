"""hstore text to maps, all values of a column at once.

`"a"=>"1", "b"=>NULL`: keys and values are always quoted, so the first sign of a pair that is not quoted is the `=` of
its arrow, and each quoted text is one before it or one behind it.

Source: `hstore_out` (contrib/hstore/hstore_io.c).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.types.quoting import BadText, Bytes, Flags, Places, Texts

_EQUALS, _GREATER, _QUOTE = b'=>"'


def read_hstores(texts: pl.Series) -> pl.Series:
    """hstore texts, a `Binary` series, as lists of structs with fields `key` and `value`, both String.

    >>> read_hstores(pl.Series([b'"a"=>"1", "b"=>NULL', b""])).to_list()
    [[{'key': 'a', 'value': '1'}, {'key': 'b', 'value': None}], []]

    Raises:
        BadText: If one of them is no hstore.
    """
    every = Texts.of(texts)
    inside = np.zeros(len(every.data), dtype=np.bool_) if every.inside is None else every.inside
    opens, closes = every.quotes[::2], every.quotes[1::2]
    keep = inside.copy()
    keep[opens] = False
    keep[every.escapers] = False
    parts = every.series(keep, opens + 1, closes, np.zeros(len(opens), dtype=np.bool_))
    try:
        parts = parts.cast(pl.String)
    except pl.exceptions.ComputeError:
        place = next(place for place, raw in enumerate(parts.to_list()) if not _is_utf8(raw))
        raise BadText(int(every.text_of(opens[place : place + 1])[0])) from None

    arrows = np.flatnonzero((every.data == _EQUALS) & ~inside)
    keys = np.searchsorted(opens, arrows) - 1
    has_value = _at(every, arrows + 2) == _QUOTE
    _require_form(every, arrows, opens, closes, keys, has_value)
    values = pl.select(pl.when(pl.Series(has_value)).then(pl.Series(keys + 1))).to_series()
    pairs = pl.DataFrame({"key": parts.gather(keys), "value": parts.gather(values)}).to_struct("pairs")
    offsets = np.searchsorted(arrows, every.bounds)
    valid = pa.py_buffer(np.packbits(~every.is_null, bitorder="little")) if every.is_null.any() else None
    array = pairs.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    lists = pa.LargeListArray.from_buffers(
        pa.large_list(array.type), len(every.is_null), [valid, pa.py_buffer(offsets)], children=[array]
    )
    series = pl.from_arrow(lists)
    assert isinstance(series, pl.Series)
    return series.alias(texts.name)


def _require_form(every: Texts, arrows: Places, opens: Places, closes: Places, keys: Places, has_value: Flags) -> None:
    """Raise for the first text that is not pairs, delimited by a comma and a blank, of quoted texts and NULL."""
    text = every.text_of(arrows)
    first = np.concatenate([[True], text[1:] != text[:-1]]) if len(text) else np.zeros(0, dtype=np.bool_)
    last = np.append(first[1:], True) if len(text) else first
    begins, ends = every.bounds[:-1], every.bounds[1:]
    # The key's quotes end at the arrow and begin with the text, or behind the pair before.
    known = np.maximum(keys, 0)
    wrong = (keys < 0) | (_at(every, arrows + 1) != _GREATER)
    if len(opens):
        stop = np.where(has_value, closes[np.minimum(known + 1, len(closes) - 1)] + 1, arrows + 6)
        wrong |= (closes[known] != arrows - 1) | (first & (opens[known] != begins[text]))
        wrong |= last & (stop != ends[text])
        wrong[1:] |= ~first[1:] & (opens[known][1:] != stop[:-1] + 2)
        for place, letter in enumerate(b"NULL"):
            wrong |= ~has_value & (_at(every, arrows + 2 + place) != letter)
        for place, letter in enumerate(b", "):
            wrong |= ~last & (_at(every, stop + place) != letter)
    # Texts with contents but without a pair.
    without = np.ones(len(begins), dtype=np.bool_)
    without[text] = False
    bad = np.concatenate([text[wrong], np.flatnonzero(without & (ends > begins))])
    if len(bad):
        raise BadText(int(bad.min()))


def _at(every: Texts, places: Places) -> Bytes:
    """Bytes at places; 0 behind the end."""
    padded = np.where(places < len(every.data), places, 0)
    found = every.data[padded] if len(every.data) else np.zeros(len(places), dtype=np.uint8)
    return np.where(places < len(every.data), found, 0)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
