"""The value that is not known: an unchanged TOAST value that PostgreSQL did not send."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Unchanged(Enum):
    """The type of `UNCHANGED`, its only member.

    An enum, so that there is exactly one (it survives pickling and copying) and type checkers narrow
    `value is UNCHANGED`.

    >>> Unchanged.UNCHANGED is UNCHANGED
    True
    """

    UNCHANGED = "unchanged"

    def __repr__(self) -> str:
        return "UNCHANGED"

    __str__ = __repr__


#: Stands where an update left a TOASTed value as it was and PostgreSQL sent none: unknown, not NULL.
#: Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData, kind 'u'
#: (protocol-logicalrep-message-formats).
UNCHANGED: Final = Unchanged.UNCHANGED
