"""Names of columns in frames that go to a sink: by the column's place in its table, never the user's name.

A name that the user chose may be any other thing's name too: a pseudo-column of the destination's, an alias of its SQL,
a pattern to polars (`*`, `^a.*$`). Frames therefore carry none; the schema beside them tells which column stands at
which place. Columns that are not the table's own have names that begin with `_dbmazz_` (`engine.effect`), which the
names of a table's columns must not.
"""

from __future__ import annotations


def value_column(place: int) -> str:
    """A value of the row, or of its key.

    >>> value_column(0)
    'c0'
    """
    return f"c{place}"


def origin_column(place: int) -> str:
    """A value of the key under which a row was before.

    >>> origin_column(0)
    'k0'
    """
    return f"k{place}"


def old_column(place: int) -> str:
    """A value of the row before a change.

    >>> old_column(0)
    'o0'
    """
    return f"o{place}"
