"""Single values as Python's own types."""

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
    r"""A text of any encoding as UTF-8; bytes that are none are written `\xff`.

    >>> escaped(b"caf\xe9")
    'caf\\xe9'
    """
    return raw.decode("utf-8", "backslashreplace")


def python_value(text: str, type: DataType) -> ColumnValue:
    """PostgreSQL's text as Python's own type; the text itself where Python has no such value.

    That is so for `infinity`, dates BC and beyond the year 9999, `24:00:00`, NaN where a decimal is finite by
    declaration, and intervals that are more than days and hours. A `real` is the value that it has in 32 bits, as in
    frames. Arrays are lists, hstore is a dict. A text that is no value of the type stays text as well.

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
    """The same from a value of the carrier dtype, as polars gives it to Python.

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
            # Text stands for values that Python lacks; of these types it has them all.
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
    if isinf(value) and not text.endswith("y"):  # neither `Infinity` nor `-Infinity`: beyond a double's range
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
    """Days and a clock as a timedelta, where its days and seconds tell them apart again.

    That is where the clock stays below a day and goes the same way as the days. Months have no length in days.
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
