"""`UNCHANGED`: stands for an unchanged TOAST value that PostgreSQL did not send."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Unchanged(Enum):
    """The type of `UNCHANGED`, its only member.

    It is an enum so that exactly one such object exists, also after pickling and copying, and so that type checkers
    narrow `value is UNCHANGED`.

    >>> Unchanged.UNCHANGED is UNCHANGED
    True
    """

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"

    __str__ = __repr__


#: Stands for a TOASTed value that an update did not change and PostgreSQL did not send: unknown, not NULL.
#: Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData, kind 'u'
#: (protocol-logicalrep-message-formats).
UNCHANGED: Final = Unchanged.UNCHANGED
