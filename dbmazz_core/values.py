"""Single values as Python's own types."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from uuid import UUID

from dbmazz_core.datatypes import DataType, Kind
from dbmazz_core.records import ColumnValue


def python_value(text: str, type: DataType) -> ColumnValue:
    """PostgreSQL's text as Python's own type; the text itself where Python has no such value.

    That is so for `infinity`, dates BC and beyond the year 9999, `24:00:00`, and NaN where a decimal is finite by
    declaration. A `real` is the value that it has in 32 bits, as in frames.

    >>> python_value("12.50", DataType(Kind.DECIMAL, 12, 2)), python_value("infinity", DataType(Kind.DATE))
    (Decimal('12.50'), 'infinity')
    """
    read = _READERS.get(type.kind)
    if read is None:
        return text
    try:
        return read(text)
    except (ValueError, OverflowError):
        return text


def _boolean(text: str) -> bool:
    if text not in ("t", "f"):
        raise ValueError(text)
    return text == "t"


def _float32(text: str) -> float:
    value: float = struct.unpack("f", struct.pack("f", float(text)))[0]
    return value


def _finite(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not value.is_finite():
        raise ValueError(text)
    return value


_READERS: dict[Kind, Callable[[str], ColumnValue]] = {
    Kind.BOOLEAN: _boolean,
    Kind.INT16: int,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.FLOAT32: _float32,
    Kind.FLOAT64: float,
    Kind.DECIMAL: _finite,
    Kind.BYTES: lambda text: bytes.fromhex(text[2:]),
    Kind.UUID: UUID,
    Kind.DATE: date.fromisoformat,
    Kind.TIME: time.fromisoformat,
    Kind.TIMESTAMP: datetime.fromisoformat,
    Kind.TIMESTAMPTZ: datetime.fromisoformat,
}
