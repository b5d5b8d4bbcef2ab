"""Convert single values to Python's own types."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from math import isinf
from typing import Any
from uuid import UUID

import polars as pl

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.nested_text import array_elements, hstore_pairs
from dbmazz_core.model.records import ColumnValue


def escaped(raw: bytes) -> str:
    r"""Return a text of any encoding as UTF-8; bytes that are not UTF-8 are written as `\xff`.

    >>> escaped(b"caf\xe9")
    'caf\\xe9'
    """
    return raw.decode("utf-8", "backslashreplace")


def python_value(text: str, type: DataType) -> ColumnValue:
    """Return the Python value for PostgreSQL's text of a value; the text itself if Python has no such value.

    Python has no value for `infinity`, dates BC or beyond the year 9999, `24:00:00`, NaN of a decimal with a declared
    precision, and intervals of more than days and hours. A `real` has the value of its 32 bits, as in frames. Arrays
    are lists, hstore is a dict. A text that is not a value of the type is returned as it is.

    >>> python_value("12.50", DataType(Kind.DECIMAL, 12, 2)), python_value("infinity", DataType(Kind.DATE))
    (Decimal('12.50'), 'infinity')
    >>> python_value("{{1,NULL}}", DataType.list_of(DataType(Kind.INT32), depth=2))
    [[1, None]]
    """
    if type.is_nested:
        try:
            return _nested(text, type)
        except ValueError:
            return text
    read = _READERS.get(type.kind)
    if read is None:
        return text
    try:
        return read(text)
    except (ValueError, OverflowError):
        return text


def carried_value(value: Any, type: DataType) -> ColumnValue:
    """Return the Python value for a value of the carrier dtype, as polars converts it to Python.

    >>> carried_value(["2024-02-29", None], DataType.list_of(DataType(Kind.DATE)))
    [datetime.date(2024, 2, 29), None]
    """
    if value is None:
        return None
    if type.element is not None:
        return [carried_value(one, type.element) for one in value]
    if type.kind is Kind.MAP:
        return {pair["key"]: pair["value"] for pair in value}
    found: ColumnValue = python_value(value, type) if isinstance(value, str) else value
    return found


def _nested(text: str, type: DataType) -> ColumnValue:
    if type.kind is Kind.MAP:
        return hstore_pairs(text)
    return _elements(array_elements(text, depth=type.depth, delimiter=type.delimiter), type.leaf)


def _elements(found: list[Any], leaf: DataType) -> list[Any]:
    values: list[Any] = []
    for one in found:
        if isinstance(one, list):
            values.append(_elements(one, leaf))
        elif one is None:
            values.append(None)
        else:
            value = python_value(one, leaf)
            # A text is allowed only for types of which Python lacks some values; their carrier dtype is String.
            if isinstance(value, str) and leaf.carrier != pl.String:
                raise ValueError(one)
            values.append(value)
    return values


def _boolean(text: str) -> bool:
    if text not in ("t", "f"):
        raise ValueError(text)
    return text == "t"


def _float(text: str) -> float:
    value = float(text)
    if isinf(value) and not text.endswith("y"):
        # The text is neither `Infinity` nor `-Infinity`: its number is beyond the range of a double.
        raise ValueError(text)
    return value


def _float32(text: str) -> float:
    value: float = struct.unpack("f", struct.pack("f", _float(text)))[0]
    return value


def _finite(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        raise ValueError(text) from None
    if not value.is_finite():
        raise ValueError(text)
    return value


_INTERVAL = re.compile(r"(?:([+-]?\d+) days?)? ?(?:([+-]?)(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?")


def _interval(text: str) -> timedelta:
    """Return an interval of days and a time as a timedelta, if the timedelta determines the days and the time.

    It does if the time is shorter than a day and has the sign of the days. Months have no fixed length in days.
    """
    parts = _INTERVAL.fullmatch(text)
    if not text or parts is None:
        raise ValueError(text)
    days, sign, hours, minutes, seconds, fraction = parts.groups()
    clock = timedelta(
        hours=int(hours or 0),
        minutes=int(minutes or 0),
        seconds=int(seconds or 0),
        microseconds=int((fraction or "").ljust(6, "0")),
    )
    whole = timedelta(days=int(days or 0))
    clock = -clock if sign == "-" else clock
    if abs(clock) >= timedelta(days=1) or (whole and clock and (whole < timedelta()) != (clock < timedelta())):
        raise ValueError(text)
    return whole + clock


_READERS: dict[Kind, Callable[[str], ColumnValue]] = {
    Kind.BOOLEAN: _boolean,
    Kind.INT16: int,
    Kind.INT32: int,
    Kind.INT64: int,
    Kind.UINT32: int,
    Kind.FLOAT32: _float32,
    Kind.FLOAT64: _float,
    Kind.DECIMAL: _finite,
    Kind.BYTES: lambda text: bytes.fromhex(text[2:]),
    Kind.UUID: UUID,
    Kind.DATE: date.fromisoformat,
    Kind.TIME: time.fromisoformat,
    Kind.TIMESTAMP: datetime.fromisoformat,
    Kind.TIMETZ: time.fromisoformat,
    Kind.TIMESTAMPTZ: datetime.fromisoformat,
    Kind.INTERVAL: _interval,
}
