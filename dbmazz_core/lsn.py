"""Log sequence numbers: positions in PostgreSQL's WAL."""

from __future__ import annotations

import re
from typing import Self

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Lsn(int):
    """A position in the WAL, in bytes: an unsigned 64-bit integer that prints as PostgreSQL prints it.

    >>> Lsn.parse("16/B374D848")
    Lsn('16/B374D848')
    >>> Lsn.parse("0/10") - Lsn.parse("0/8")
    8
    >>> str(Lsn(256))
    '0/100'

    Source: PostgreSQL manual, section "pg_lsn Type" (datatype-pg-lsn).

    Raises:
        ValueError: The value does not fit into 64 bits.
    """

    __slots__ = ()

    def __new__(cls, value: int) -> Self:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"an LSN is an unsigned 64-bit integer, not {value}")
        return super().__new__(cls, value)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the LSN that a text such as `16/B374D848` names.

        Raises:
            ValueError: The text is not an LSN.
        """
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"not an LSN: {text!r}; one looks like 16/B374D848")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn('{self}')"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


#: The invalid position, 0/0 (InvalidXLogRecPtr): Relation messages carry it, and no transaction has it.
INVALID_LSN = Lsn(0)
