"""Read the text of single arrays and hstore values. The connector's `types` reads whole columns.

Source: PostgreSQL's `array_out` (arrayfuncs.c) and `hstore_out` (contrib/hstore/hstore_io.c).
"""

from __future__ import annotations

import re
from typing import Any

_LOWER_BOUNDS = re.compile(r"[0-9\[\]:+-]*=")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)(, (?=")|$)', re.DOTALL)


def array_elements(text: str, *, depth: int, delimiter: str) -> list[Any]:
    r"""Return the texts of an array's elements, in lists nested `depth` times; None for NULL.

    >>> array_elements(r'{{1,NULL},{"a \"b\"","NULL"}}', depth=2, delimiter=",")
    [['1', None], ['a "b"', 'NULL']]

    Raises:
        ValueError: The text is not an array with that many dimensions.
    """
    if text.startswith("["):
        bounds = _LOWER_BOUNDS.match(text)
        text = text[bounds.end() :] if bounds else ""
    if text == "{}":
        return []
    elements, place = _level(text, 0, depth, delimiter)
    if place != len(text):
        raise ValueError(text)
    return elements


def _level(text: str, place: int, depth: int, delimiter: str) -> tuple[list[Any], int]:
    """Return the elements in the braces that open at `place`, and the place after the closing brace."""
    if text[place : place + 1] != "{":
        raise ValueError(text)
    found: list[Any] = []
    while True:
        place += 1  # after the brace or a delimiter
        one, place = _level(text, place, depth - 1, delimiter) if depth > 1 else _element(text, place, delimiter)
        found.append(one)
        sign = text[place : place + 1]
        if sign == "}":
            return found, place + 1
        if sign != delimiter:
            raise ValueError(text)


def _element(text: str, place: int, delimiter: str) -> tuple[str | None, int]:
    if quoted := _QUOTED.match(text, place):
        return unescaped(quoted[1]), quoted.end()
    end = place
    while end < len(text) and text[end] not in ("{", "}", delimiter):
        end += 1
    plain = text[place:end]
    if not plain or '"' in plain or "\\" in plain:
        raise ValueError(text)
    return (None if plain == "NULL" else plain), end


def hstore_pairs(text: str) -> dict[str, str | None]:
    r"""Return the pairs of an hstore value.

    >>> hstore_pairs(r'"a"=>"1", "b \"c\""=>NULL')
    {'a': '1', 'b "c"': None}

    Raises:
        ValueError: The text is not an hstore value.
    """
    found: dict[str, str | None] = {}
    place = 0
    while place < len(text):
        pair = _PAIR.match(text, place)
        if pair is None:
            raise ValueError(text)
        found[unescaped(pair[1])] = None if pair[2] is None else unescaped(pair[2])
        place = pair.end()
    return found


def unescaped(text: str) -> str:
    """Return a text from between quotes without the escaping backslashes."""
    return _ESCAPED.sub(r"\1", text)
