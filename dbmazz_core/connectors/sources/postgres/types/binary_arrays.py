"""Binary arrays of one dimension to lists, for all values of a column at once.

An array is sent as its number of dimensions, a flag that tells whether it has NULLs, and the OID of its element type,
each an int32; then for each dimension its length and its lower bound (int32), and for each element its length (int32;
-1 is NULL) and that many bytes. An empty array has no dimension. Source: array_send (arrayfuncs.c).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from struct import Struct

import numpy as np
import polars as pl

from dbmazz_core.connectors.sources.postgres.arrow_series import lists_of, series_of
from dbmazz_core.connectors.sources.postgres.octets import Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields, MalformedValue
from dbmazz_core.model.masked_columns import utf8
from dbmazz_core.model.stream import TextNeeded

_EMPTY_BYTES, _HEADER_BYTES = 12, 20
_LENGTH = Struct(">i")
#: Of so few arrays that are longer than all others, elements are found one by one.
_FEW = 8


def array_decoder(
    element: Callable[[Fields], pl.Series], element_bytes: int | None, dtype: pl.DataType
) -> Callable[[Fields], pl.Series]:
    """Return a decoder of arrays.

    Args:
        element: Reads the elements.
        element_bytes: Size of every element; None: they differ.
        dtype: Natural dtype of the elements.

    Returns:
        A function that returns a series of lists, and raises TextNeeded for an array of several dimensions, or with an
        element that `dtype` cannot hold.
    """

    def read(fields: Fields) -> pl.Series:
        counts = _counts(fields)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        elements = _elements(fields, counts, bounds, element_bytes)
        try:
            values = element(elements)
        except MalformedValue as error:
            place = int(np.searchsorted(bounds, error.place, side="right")) - 1
            raise MalformedValue(f"in an array, {error.detail}", place) from None
        if dtype == pl.String:
            texts = utf8(values)
            values = texts if texts.null_count() == values.null_count() else values
        if values.dtype != dtype:
            raise TextNeeded(f"an array has an element that {dtype} cannot hold")
        is_null = None if fields.valid is None else ~fields.valid
        return series_of(lists_of(values.rechunk().to_arrow(compat_level=pl.CompatLevel.newest()), bounds, is_null))

    return read


def _counts(fields: Fields) -> Int64s:
    """Return the number of elements of each array."""
    fields.verify(fields.lengths >= _EMPTY_BYTES, "an array ends within its header")
    dimensions = fields.numbers(">i4")
    fields.verify(dimensions >= 0, "an array has a negative number of dimensions")
    if (dimensions > 1).any():
        raise TextNeeded("an array has several dimensions")
    is_empty = dimensions == 0
    fields.verify(
        np.where(is_empty, fields.lengths == _EMPTY_BYTES, fields.lengths >= _HEADER_BYTES),
        "the length of an array does not fit its dimensions",
    )
    at = np.where(is_empty, 0, fields.offsets + _EMPTY_BYTES)
    counts: Int64s = np.where(is_empty, 0, unaligned(fields.buffer, ">i4")[at]).astype(np.int64)
    fields.verify((counts >= 0) & (4 * counts <= fields.lengths), "an array has an impossible number of elements")
    return counts


def _elements(fields: Fields, counts: Int64s, bounds: Int64s, element_bytes: int | None) -> Fields:
    """Return the elements of all arrays, one array behind the other."""
    total = int(bounds[-1])
    found = Fields(fields.buffer, np.zeros(total, np.int64), np.zeros(total, np.int64), np.ones(total, np.bool_))
    is_regular = np.zeros(len(counts), np.bool_)
    if element_bytes is not None:
        is_regular = fields.lengths == _HEADER_BYTES + counts * (4 + element_bytes)  # so none of them is NULL
        regular = np.flatnonzero(is_regular & (counts > 0))
        of = np.repeat(regular, counts[regular])
        at = bounds[of] + _numbers_within(counts[regular])
        found.offsets[at] = fields.offsets[of] + _HEADER_BYTES + 4 + (at - bounds[of]) * (4 + element_bytes)
        found.lengths[at] = unaligned(fields.buffer, ">i4")[found.offsets[at] - 4]
    _walk(fields, np.flatnonzero(~is_regular & (counts > 0)), counts, bounds, found)
    assert found.valid is not None
    return replace(found, valid=None) if found.valid.all() else found


def _numbers_within(counts: Int64s) -> Int64s:
    """Return 0, 1, ... for the elements of each array."""
    ends = np.cumsum(counts)
    numbers: Int64s = np.arange(counts.sum()) - np.repeat(ends - counts, counts)
    return numbers


def _walk(fields: Fields, arrays: Int64s, counts: Int64s, bounds: Int64s, found: Fields) -> None:
    """Find the elements of arrays whose sizes differ: the first element of every array, then the second, and so on."""
    assert found.valid is not None
    lengths_at = unaligned(fields.buffer, ">i4")
    position = fields.offsets[arrays] + _HEADER_BYTES
    number = 0
    while len(arrays) > _FEW:
        ends = fields.offsets[arrays] + fields.lengths[arrays]
        _verify(position + 4 <= ends, arrays)
        lengths = lengths_at[position].astype(np.int64)
        is_there = lengths >= 0
        _verify(lengths >= -1, arrays)
        at = bounds[arrays] + number
        lengths[~is_there] = 0
        found.valid[at], found.lengths[at] = is_there, lengths
        found.offsets[at] = np.where(is_there, position + 4, 0)
        position = position + 4 + lengths
        number += 1
        goes_on = counts[arrays] > number
        _verify(np.where(goes_on, position <= ends, position == ends), arrays)
        arrays, position = arrays[goes_on], position[goes_on]
    for array, first in zip(arrays.tolist(), position.tolist(), strict=True):
        end = int(fields.offsets[array] + fields.lengths[array])
        places = _walk_one(fields.buffer.data, first, end, int(counts[array]) - number)
        if places is None:
            raise MalformedValue("an element ends behind its array", array)
        rest = slice(int(bounds[array]) + number, int(bounds[array + 1]))
        lengths = np.array(places[1], np.int64)
        is_there = lengths >= 0
        found.offsets[rest] = np.where(is_there, np.array(places[0], np.int64), 0)
        found.lengths[rest], found.valid[rest] = np.maximum(lengths, 0), is_there


def _walk_one(buffer: memoryview, position: int, end: int, count: int) -> tuple[list[int], list[int]] | None:
    """Return offsets and lengths of an array's elements; None if they do not end at its end."""
    offsets: list[int] = []
    lengths: list[int] = []
    for _ in range(count):
        if position + 4 > end:
            return None
        (length,) = _LENGTH.unpack_from(buffer, position)
        if length < -1:
            return None
        offsets.append(position + 4)
        lengths.append(length)
        position += 4 + max(length, 0)
    return (offsets, lengths) if position == end else None


def _verify(right: np.ndarray, arrays: Int64s) -> None:
    if not right.all():
        raise MalformedValue("an element ends behind its array", int(arrays[right.argmin()]))
