"""Array text to lists, for all values of a column at once.

An array's text is `{1,NULL,"a \\"b\\""}`, nested for more dimensions, with bounds such as `[2:4]=` in front where a
lower bound is not 1. Braces and delimiters are found in the bytes of all texts together. Without them, quotes and
escapes, the bytes are the texts of the elements: one flat series, which the element type's conversion reads. The braces
tell where lists begin.

Source: PostgreSQL's `array_out` (arrayfuncs.c), manual section "Array Input and Output Syntax".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.connectors.sources.postgres.arrow_series import lists_of, series_of
from dbmazz_core.connectors.sources.postgres.types.quoting import BadText, Flags, JoinedTexts, Places
from dbmazz_core.model.datatypes import DataType

_OPEN, _CLOSE, _QUOTE, _BRACKET = b'{}"['
_IN_BOUNDS = np.isin(np.arange(256), np.frombuffer(b"0123456789[]:+-", dtype=np.uint8))


def read_arrays(
    texts: pl.Series, type: DataType, read_elements: Callable[[pl.Series, DataType], pl.Series]
) -> pl.Series:
    """Return array texts as a series of lists.

    Lower bounds are dropped. An empty array is an empty list, whatever the type's dimensions.

    Args:
        texts: A `Binary` series, shape (n,), one array a text; null is NULL.
        type: A list type with a list within a list for each dimension more.
        read_elements: Returns a flat series of values for a flat `Binary` series and the element type.

    Returns:
        A series of lists, shape (n,), in the type's carrier dtype.

    Raises:
        BadText: A text is no such array: its syntax, its dimensions or one of its elements is wrong.
    """
    leaf, depth = type.leaf, type.depth
    joined = JoinedTexts.of(texts)
    begins, prefix = _skip_bounds(joined)
    structure = _find_structure(joined, begins, ord(type.delimiter), depth)
    starts, stops = structure.elements
    is_null = _null_elements(joined, starts, stops)
    keep = np.ones(len(joined.data), dtype=np.bool_)
    keep[structure.at] = False
    keep[joined.quotes] = False
    keep[joined.escapes] = False
    if prefix is not None:
        keep[prefix] = False
    flat = joined.series(keep, starts, stops, is_null)
    try:
        values = read_elements(flat, leaf)
    except BadText as error:
        raise BadText(int(joined.text_of(starts[error.place : error.place + 1])[0])) from None
    return _nest(joined, structure, starts, values, depth).alias(texts.name)


@dataclass(frozen=True, slots=True, eq=False)
class _Structure:
    """Braces and delimiters that are not quoted.

    Attributes:
        at: Their offsets in the joined texts, ascending, shape (k,).
        opens: Whether each is an opening brace, shape (k,).
        level: Number of braces that are open behind each, shape (k,).
        elements: Offsets of the elements' first bytes, and offsets behind the elements.
    """

    at: Places
    opens: Flags
    level: Places
    elements: tuple[Places, Places]


def _skip_bounds(joined: JoinedTexts) -> tuple[Places, Places | None]:
    """Return the offset of each text's opening brace, and the offsets of all bytes of bounds; None: no bounds."""
    begins, ends = joined.bounds[:-1], joined.bounds[1:]
    firsts = joined.data[np.minimum(begins, len(joined.data) - 1)] if len(joined.data) else np.empty(0, dtype=np.uint8)
    bounded = np.flatnonzero((firsts == _BRACKET) & (ends > begins)) if len(firsts) else np.empty(0, dtype=np.int64)
    if not len(bounded):
        return begins, None
    equals = np.flatnonzero(joined.data == ord("="))
    following = np.searchsorted(equals, begins[bounded])
    at = np.append(equals, len(joined.data))[following]
    missing = np.flatnonzero(at >= ends[bounded])
    if len(missing):
        raise BadText(int(bounded[missing[0]]))
    lengths = at + 1 - begins[bounded]
    prefix = np.repeat(begins[bounded] - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
    characters = np.delete(prefix, np.cumsum(lengths) - 1)  # all but the equals sign
    wrong = characters[~_IN_BOUNDS[joined.data[characters]]]
    if len(wrong):
        raise BadText(int(joined.text_of(wrong[:1])[0]))
    begins = begins.copy()
    begins[bounded] = at + 1
    return begins, prefix


def _find_structure(joined: JoinedTexts, begins: Places, delimiter: int, depth: int) -> _Structure:
    """Find braces, delimiters and elements, and verify the syntax of all texts."""
    data, ends = joined.data, joined.bounds[1:]
    is_structural = (data == _OPEN) | (data == _CLOSE) | (data == delimiter)
    if joined.inside is not None:
        is_structural &= ~joined.inside
    at = np.flatnonzero(is_structural)
    text = joined.text_of(at)
    before = at < begins[text]  # a colon within the bounds, of a type whose delimiter is a colon
    if before.any():
        at, text = at[~before], text[~before]
    _refuse(~joined.is_null & (ends - begins < 2), np.arange(len(ends)))
    there = np.flatnonzero(~joined.is_null)
    _refuse((data[begins[there]] != _OPEN) | (data[ends[there] - 1] != _CLOSE), there)
    character = data[at]
    opens, closes = character == _OPEN, character == _CLOSE
    level = np.cumsum(opens.astype(np.int64) - closes)
    # A text is one pair of braces with its contents.
    _refuse((level < 0) | (level > depth) | ((level == 0) != (at == ends[text] - 1)), text)
    here, next_, same = slice(None, -1), slice(1, None), text[1:] == text[:-1]
    # An element is between an opening brace or a delimiter and a delimiter or a closing brace, on the innermost level.
    is_element = same & ~closes[here] & ~opens[next_]
    adjacent = at[next_] == at[here] + 1
    is_empty = is_element & adjacent & opens[here] & closes[next_] & (at[here] == begins[text[here]])
    is_empty &= level[next_] == 0
    is_element &= ~is_empty
    wrong = is_element & (adjacent | (level[here] != depth))
    wrong |= same & ~is_element & ~adjacent
    wrong |= same & closes[here] & opens[next_]
    _refuse(wrong, text[here])
    element = np.flatnonzero(is_element)
    starts, stops = at[element] + 1, at[element + 1]
    if len(joined.quotes):
        first, behind = np.searchsorted(joined.quotes, starts), np.searchsorted(joined.quotes, stops)
        quoted = data[starts] == _QUOTE
        last = joined.quotes[np.maximum(behind - 1, 0)]
        _refuse((behind - first != 2 * quoted) | (quoted & (last != stops - 1)), text[element])
    return _Structure(at, opens, level, (starts, stops))


def _refuse(wrong: Flags, text: Places) -> None:
    """Raise BadText for the first text that is marked as wrong."""
    if wrong.any():
        raise BadText(int(text[wrong.argmax()]))


def _null_elements(joined: JoinedTexts, starts: Places, stops: Places) -> Flags:
    """Return which elements are the word NULL without quotes."""
    is_null: Flags = stops - starts == 4
    candidates = np.flatnonzero(is_null)
    for place, letter in enumerate(b"NULL"):
        candidates = candidates[joined.data[starts[candidates] + place] == letter]
    is_null[:] = False
    is_null[candidates] = True
    return is_null


def _nest(joined: JoinedTexts, structure: _Structure, starts: Places, values: pl.Series, depth: int) -> pl.Series:
    """Wrap the flat values in lists, from the innermost lists to one list a text."""
    array = values.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())
    children = starts
    for level in range(depth, 1, -1):
        parents = structure.at[structure.opens & (structure.level == level)]
        offsets = np.append(np.searchsorted(children, parents), len(children))
        array = lists_of(array, offsets, None)
        children = parents
    array = lists_of(array, np.searchsorted(children, joined.bounds), joined.is_null)
    return series_of(array)
