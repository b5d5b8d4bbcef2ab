"""Texts of values to PostgreSQL's binary format, for tests. Shares no code with the decoders, on purpose.

Written from the send functions of PostgreSQL's types, for the texts that `pgoutput_streams` draws.
"""

from __future__ import annotations

import re
import struct
from datetime import date
from decimal import Decimal
from uuid import UUID

_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')
#: 400 years of the Gregorian calendar.
_CYCLE_DAYS = 146_097


def binary(oid: int, text: str) -> bytes:
    """A value as the send function of its type writes it."""
    match oid:
        case 16:
            return b"\1" if text == "t" else b"\0"
        case 17:
            return bytes.fromhex(text[2:])
        case 20 | 21 | 23 | 26:
            return struct.pack({20: ">q", 21: ">h", 23: ">i", 26: ">I"}[oid], int(text))
        case 700 | 701:
            return struct.pack(">f" if oid == 700 else ">d", float(text))
        case 1082:
            return struct.pack(">i", days(text))
        case 1083:
            return struct.pack(">q", time_us(text))
        case 1114 | 1184:
            return struct.pack(">q", timestamp_us(text.removesuffix("+00").replace("+00 BC", " BC")))
        case 1700:
            return numeric(text)
        case 1007 | 1009 | 1182:
            return array({1007: 23, 1009: 25, 1182: 1082}[oid], text)
        case 2950:
            return UUID(text).bytes
        case 3802:
            return b"\1" + text.encode()
        case _:
            return text.encode()


def days(text: str) -> int:
    """Days since 2000; the infinities are the ends of int32."""
    if text.endswith("infinity"):
        return -(2**31) if text.startswith("-") else 2**31 - 1
    year, month, day = map(int, text.removesuffix(" BC").split("-"))
    cycles, within = divmod((1 - year if text.endswith(" BC") else year) - 2000, 400)
    return (date(2000 + within, month, day) - date(2000, 1, 1)).days + cycles * _CYCLE_DAYS


def time_us(text: str) -> int:
    """Microseconds since midnight."""
    hours, minutes, seconds = text.split(":")
    return int((int(hours) * 3600 + int(minutes) * 60 + Decimal(seconds)) * 1_000_000)


def timestamp_us(text: str) -> int:
    """Microseconds since 2000; the infinities are the ends of int64."""
    if text.endswith("infinity"):
        return -(2**63) if text.startswith("-") else 2**63 - 1
    day, time, *era = text.split(" ")
    return days(" ".join([day, *era])) * 86_400_000_000 + time_us(time)


def numeric(text: str) -> bytes:
    """Digits to base 10000 around the decimal point, without zeros at either end."""
    if text in ("NaN", "Infinity", "-Infinity"):
        return struct.pack(">hhHH", 0, 0, {"NaN": 0xC000, "Infinity": 0xD000, "-Infinity": 0xF000}[text], 0)
    whole, _, fraction = text.removeprefix("-").partition(".")
    before, behind = whole.rjust(-(-len(whole) // 4) * 4, "0"), fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    digits = [int((before + behind)[at : at + 4]) for at in range(0, len(before + behind), 4)]
    weight = len(before) // 4 - 1
    while digits and not digits[0]:
        digits, weight = digits[1:], weight - 1
    while digits and not digits[-1]:
        digits.pop()
    sign = 0x4000 if text.startswith("-") and digits else 0
    return struct.pack(f">hhHH{len(digits)}H", len(digits), weight if digits else 0, sign, len(fraction), *digits)


def array(element: int, text: str) -> bytes:
    """An array of one dimension."""
    bounds, _, body = text.partition("=") if text.startswith("[") else ("[1:1]", "", text)
    items = list(_ELEMENT.finditer(body))
    if not items:
        return struct.pack(">iii", 0, 0, element)
    header = struct.pack(
        ">iiiii", 1, any(m[2] == "NULL" for m in items), element, len(items), int(bounds[1:].split(":")[0])
    )
    return header + b"".join(_element(element, m) for m in items)


def _element(oid: int, found: re.Match[str]) -> bytes:
    if found[2] == "NULL":
        return struct.pack(">i", -1)
    text = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found[1] is not None else found[2]
    value = binary(oid, text)
    return struct.pack(">i", len(value)) + value
