"""Texts of dates and times as PostgreSQL writes them (DateStyle ISO), for the few values that polars cannot hold.

Source: EncodeDateTime and EncodeTimeOnly (datetime.c), j2date (datetime.c).
"""

from __future__ import annotations

_DAY_US = 86_400_000_000
#: Julian day of 2000-01-01.
_EPOCH_JDATE = 2_451_545
_INFINITY = 2**63 - 1


def time(us: int) -> str:
    """Return the text of a time of day.

    >>> time(86_400_000_000), time(1_500_000)
    ('24:00:00', '00:00:01.5')

    Args:
        us: Microseconds since midnight.
    """
    seconds, fraction = divmod(us, 1_000_000)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def timestamp(us: int, zone: str = "") -> str:
    """Return the text of a timestamp.

    >>> timestamp(0), timestamp(-(2**63)), timestamp(9_223_371_331_199_999_999, "+00")
    ('2000-01-01 00:00:00', '-infinity', '294276-12-31 23:59:59.999999+00')
    >>> timestamp(-63_113_904_000_000_000)
    '0001-01-01 00:00:00 BC'

    Args:
        us: Microseconds since 2000-01-01; the largest and the smallest int64 are the infinities.
        zone: The offset from UTC behind the time.
    """
    if abs(us) >= _INFINITY:
        return "infinity" if us > 0 else "-infinity"
    days, of_day = divmod(us, _DAY_US)
    year, month, day = _calendar_date(days + _EPOCH_JDATE)
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02} {time(of_day)}{zone}{era}"


def _calendar_date(julian: int) -> tuple[int, int, int]:
    """Return year (0 is 1 BC), month and day of a Julian day, in the Gregorian calendar."""
    # Fliegel and Van Flandern, shifted so that all divisions are of positive numbers
    a = julian + 32_044
    century = (4 * a + 3) // 146_097
    c = a - 146_097 * century // 4
    d = (4 * c + 3) // 1461
    e = c - 1461 * d // 4
    m = (5 * e + 2) // 153
    return 100 * century + d - 4800 + m // 10, m + 3 - 12 * (m // 10), e - (153 * m + 2) // 5 + 1
