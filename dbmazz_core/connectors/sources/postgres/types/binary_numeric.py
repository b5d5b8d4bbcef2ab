"""Binary numerics to decimals, for all values of a column at once.

A numeric is sent as digits to base 10000, behind their number, the weight of the first one (its power of 10000), the
sign and the display scale, each an int16. Source: numeric_send (numeric.c).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dbmazz_core.connectors.sources.postgres.octets import Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.types.binary_fields import Fields

_POSITIVE, _NEGATIVE, _NAN = 0x0000, 0x4000, 0xC000
_HEADER_BYTES = 8
#: Power of ten of one limb. A digit with its power in a limb is less than 10**19, as is their sum, which uint64 holds.
_LIMB = 16
_LIMB_COUNT = 3
_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)

_UInt64s = npt.NDArray[np.uint64]


def read_numerics(fields: Fields, precision: int, scale: int) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Return numerics as 128-bit integers, in units of the last decimal place.

    Args:
        fields: The column's fields.
        precision: Number of digits of the type, at most 38.
        scale: Number of digits behind the decimal point.

    Returns:
        Lower and upper half of each integer, int64, shape (n, 2); and whether each value is NaN, shape (n,).

    Raises:
        MalformedValue: A value is not what numeric_send makes, or has more digits than the type.
    """
    count, weight = (fields.numbers(">i2", at=at).astype(np.int64) for at in (0, 2))
    sign = fields.numbers(">u2", at=4)
    fields.verify(
        (fields.lengths == _HEADER_BYTES + 2 * count) & (count >= 0), "the length of a numeric does not fit its digits"
    )
    fields.verify(np.isin(sign, (_POSITIVE, _NEGATIVE, _NAN)), "a numeric has an impossible sign")
    if fields.valid is not None:
        count = np.where(fields.valid, count, 0)
    limbs = _limbs(fields, count, weight, precision, scale)
    low, high = _joined(limbs)
    is_negative = sign == _NEGATIVE
    low, high = np.where(is_negative, ~low + np.uint64(1), low), np.where(is_negative, ~high + (low == 0), high)
    halves = np.stack([low, high], axis=1).view(np.int64)
    is_nan = (sign == _NAN) if fields.valid is None else (sign == _NAN) & fields.valid
    return halves, is_nan


def _limbs(fields: Fields, count: Int64s, weight: Int64s, precision: int, scale: int) -> list[_UInt64s]:
    """Return the sums of all digits that belong to each power of 10**16; digits are added one place at a time."""
    digits = unaligned(fields.buffer, ">u2")
    limbs = [np.zeros(len(count), dtype=np.uint64) for _ in range(1 + (precision - 1) // _LIMB)]
    for number in range(int(count.max(initial=0))):
        is_there = count > number
        at = np.where(is_there, fields.offsets + _HEADER_BYTES + 2 * number, 0)
        digit = np.where(is_there, digits[at], 0).astype(np.uint64)
        exponent = 4 * (weight - number) + scale  # of ten, in units of the last decimal place
        # The digit's own leading power must be among the type's digits; behind the decimal places there are only zeros.
        length = exponent + 1 + (digit >= 10) + (digit >= 100) + (digit >= 1000)
        fits = (digit < 10_000) & (length <= precision) & (exponent > -4)
        fields.verify(fits | (digit == 0), "a numeric has more digits than its type")
        part = np.where(exponent < 0, digit // _powers(-exponent), digit * _powers(exponent % _LIMB))
        limb = np.where(exponent < 0, 0, exponent // _LIMB)
        for place in range(len(limbs)):
            limbs[place] += np.where(limb == place, part, np.uint64(0))
    return limbs


def _powers(exponents: Int64s) -> _UInt64s:
    """Return powers of ten; arbitrary ones beyond what a limb needs."""
    powers = 10 ** np.arange(_LIMB, dtype=np.uint64)
    found: _UInt64s = powers[np.clip(exponents, 0, _LIMB - 1)]
    return found


def _joined(limbs: list[_UInt64s]) -> tuple[_UInt64s, _UInt64s]:
    """Return the lower and the upper half of the 128-bit sum of limbs times their powers."""
    low, high = limbs[0], np.zeros_like(limbs[0])
    for place, limb in enumerate(limbs[1:], 1):
        factor = 10 ** (_LIMB * place)
        more_low, more_high = _multiplied(limb, factor & 2**64 - 1)
        more_high += limb * np.uint64(factor >> 64)
        low = low + more_low
        high = high + more_high + (low < more_low)
    return low, high


def _multiplied(values: _UInt64s, factor: int) -> tuple[_UInt64s, _UInt64s]:
    """Return the lower and the upper half of 64-bit products, from the products of 32-bit halves."""
    value_low, value_high = values & _LOW, values >> _HALF
    factor_low, factor_high = np.uint64(factor & 0xFFFF_FFFF), np.uint64(factor >> 32)
    low, cross = value_low * factor_low, value_low * factor_high
    other_cross, high = value_high * factor_low, value_high * factor_high
    middle = (low >> _HALF) + (cross & _LOW) + (other_cross & _LOW)
    return (low & _LOW) | (middle << _HALF), high + (cross >> _HALF) + (other_cross >> _HALF) + (middle >> _HALF)
