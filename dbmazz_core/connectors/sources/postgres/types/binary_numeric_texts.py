"""Binary numerics to the texts that PostgreSQL writes, for all values of a column at once.

For columns that no DECIMAL holds. The binary form is described in `binary_numeric`; behind the sign it has the display
scale, the number of digits behind the decimal point. Source: numeric_out and get_str_from_var (numeric.c).
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.arrow_series import series_of
from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields
from dbmazz_core.model.stream import TextNeeded

_HEADER_BYTES = 8
_POSITIVE, _NEGATIVE = 0x0000, 0x4000
_WORDS = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
#: The four characters of each digit to base 10000.
_CHARACTERS = np.frombuffer(b"".join(b"%04d" % digit for digit in range(10_000)), dtype="<u4")
#: Columns of the grid ahead of the digits.
_MINUS, _POINT, _DIGITS = 0, 1, 4
#: Largest grid in bytes. A column with a huge numeric comes as text.
_GRID_BYTES = 1 << 28


def read_numeric_texts(fields: Fields) -> pl.Series:
    """Return numerics as texts, dtype String, shape (n,).

    Raises:
        MalformedValue: A value is not what numeric_send makes.
        TextNeeded: The numerics are too large for this way.
    """
    count, weight = fields.numbers(">u2").astype(np.int64), fields.numbers(">i2", at=2).astype(np.int64)
    sign, scale = fields.numbers(">u2", at=4), fields.numbers(">u2", at=6).astype(np.int64)
    fields.verify(fields.lengths == _HEADER_BYTES + 2 * count, "the length of a numeric does not fit its digits")
    fields.verify(np.isin(sign, (_POSITIVE, _NEGATIVE, *_WORDS)), "a numeric has an impossible sign")
    if fields.valid is not None:
        count = np.where(fields.valid, count, 0)
    is_number = (sign == _POSITIVE) | (sign == _NEGATIVE)
    count, scale = np.where(is_number, count, 0), np.where(is_number, scale, 0)
    before = np.where(count > 0, np.maximum(weight + 1, 0), 0)  # digits to base 10000 ahead of the decimal point
    places = max(int(before.max(initial=1)), 1)
    grid = _grid(fields, count, weight, places, -(-int(scale.max(initial=0)) // 4))
    leading = unaligned(fields.buffer, ">u2")[np.where(before > 0, fields.offsets + _HEADER_BYTES, 0)]
    digits = 4 * before - 3 + (leading >= 10) + (leading >= 100) + (leading >= 1000)
    digits = np.where(before > 0, digits, 1)
    fields.verify((before == 0) | (leading > 0), "a numeric begins with a zero")
    texts = _texts(grid, 4 * places, (sign == _NEGATIVE).astype(np.int64), digits, scale)
    for value, word in _WORDS.items():
        if (found := sign == value).any():
            texts = texts.set(pl.Series(found), word)
    return texts if fields.valid is None else texts.set(pl.Series(~fields.valid), None)


def _grid(fields: Fields, count: Int64s, weight: Int64s, before: int, behind: int) -> Bytes:
    """Return each value's characters in a row: a minus, a point, and its digits with the points one below the other."""
    if len(count) * 4 * (before + behind) > _GRID_BYTES:
        raise TextNeeded("a numeric has too many digits")
    digits = unaligned(fields.buffer, ">u2")
    grid = np.full((len(count), 1 + before + behind), _CHARACTERS[0], dtype="<u4")
    grid[:, 0] = np.frombuffer(b"-.00", dtype="<u4")
    for number in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > number)
        digit = digits[fields.offsets[rows] + _HEADER_BYTES + 2 * number].astype(np.int64)
        column = before - 1 - weight[rows] + number
        right = np.ones(len(count), np.bool_)
        right[rows] = (digit < 10_000) & (column >= 0)
        fields.verify(right, "a numeric has an impossible digit")
        shown = column < before + behind  # numeric_out leaves out digits behind the display scale, too
        grid[rows[shown], 1 + column[shown]] = _CHARACTERS[digit[shown]]
    return grid.view(np.uint8)


def _texts(grid: Bytes, point: int, minus: Int64s, digits: Int64s, scale: Int64s) -> pl.Series:
    """Return texts with characters of the grid.

    Args:
        grid: See `_grid`, shape (n, width).
        point: Number of the grid's digits ahead of the decimal point.
        minus: 1 for negative values, else 0.
        digits: Number of digits of each value ahead of the decimal point.
        scale: Number of its digits behind.
    """
    lengths = minus + digits + np.where(scale > 0, 1 + scale, 0)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(lengths)), lengths)
    # The place of each character behind the first digit; -1 is the minus.
    place = np.arange(ends[-1]) - ends[row] - minus[row]
    behind = place - digits[row]
    column = np.where(behind < 0, _DIGITS + point + behind, _DIGITS + point - 1 + behind)
    column[behind == 0] = _POINT
    column[place < 0] = _MINUS
    characters = grid[row, column]
    array = pa.Array.from_buffers(
        pa.large_string(), len(lengths), [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(characters)]
    )
    return series_of(array)
