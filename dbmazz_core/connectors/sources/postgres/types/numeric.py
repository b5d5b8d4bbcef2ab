"""Precision and scale of the type numeric."""

from __future__ import annotations

from typing import Literal

from dbmazz_core.model.datatypes import DataType, Kind

#: Digits of DuckDB's widest DECIMAL. A wider numeric becomes text, or a double if the user chooses so.
MAX_PRECISION = 38

#: The representation of a numeric that no DECIMAL holds: one without precision (up to 131072 digits, NaN, infinities),
#: or with more than 38 digits.
UnboundedNumeric = Literal["text", "double"]


def precision_and_scale(type_modifier: int) -> tuple[int, int]:
    """Return precision and scale from `atttypmod`.

    The scale has 11 bits, is signed since PostgreSQL 15, and may exceed the precision (numeric.c).

    >>> precision_and_scale(((12 << 16) | 2) + 4)
    (12, 2)
    """
    packed = type_modifier - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def numeric_type(type_modifier: int, unbounded: UnboundedNumeric = "text") -> DataType:
    """Return the core type of a numeric column from its `atttypmod`.

    >>> str(numeric_type(((12 << 16) | 2) + 4)), str(numeric_type(-1)), str(numeric_type(-1, "double"))
    ('Decimal{12,2}', 'String', 'Float64')
    """
    if type_modifier >= 0:
        precision, scale = precision_and_scale(type_modifier)
        precision, scale = (max(precision, scale), scale) if scale >= 0 else (precision - scale, 0)
        if precision <= MAX_PRECISION:
            return DataType(Kind.DECIMAL, precision, scale)
    return DataType(Kind.FLOAT64 if unbounded == "double" else Kind.STRING)
