"""Single values as Python's own types."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from uuid import UUID

from dbmazz_core.datatypes import DataType, Kind
from dbmazz_core.records import ColumnValue


def python_value(text: str, type: DataType) -> ColumnValue:
    """PostgreSQL's text as Python's own type; the text itself where Python has no such value.

    That is so for `infinity`, dates BC and beyond the year 9999, and `24:00:00`.

    >>> python_value("12.50", DataType(Kind.DECIMAL, 12, 2)), python_value("infinity", DataType(Kind.DATE))
    (Decimal('12.50'), 'infinity')
    """
    read = _READERS.get(type.kind)
    if read is None:
        return text
    try:
        return read(text)
    except ValueError:
        return text


_READERS: dict[Kind, Callable[[str], ColumnValue]] = {
    Kind.BOOLEAN: lambda text: text == "t",
    Kind.INT16: int,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.FLOAT32: float,
    Kind.FLOAT64: float,
    Kind.DECIMAL: Decimal,
    Kind.BYTES: lambda text: bytes.fromhex(text[2:]),
    Kind.UUID: UUID,
    Kind.DATE: date.fromisoformat,
    Kind.TIME: time.fromisoformat,
    Kind.TIMESTAMP: datetime.fromisoformat,
    Kind.TIMESTAMPTZ: datetime.fromisoformat,
}
