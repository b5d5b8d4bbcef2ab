"""Names of columns in frames that go to a sink: by the column's place in its table, never the user's name.

A name that the user chose may be any other thing's name too: a pseudo-column of the destination's, an alias of its SQL,
a pattern to polars (`*`, `^a.*$`). Frames therefore carry none; the schema beside them tells which column stands at
which place. Columns that are not the table's own have names that begin with `_dbmazz_` (`PREFIX`), which the
names of a table's columns must not.
"""

from __future__ import annotations

#: Of all names that are not the table's own.
PREFIX = "_dbmazz_"
#: Columns beside the table's own in frames of an effect: where a row's last change came from. For error messages, and
#: for tables that keep them.
COMMIT_LSN = "_dbmazz_commit_lsn"
XID = "_dbmazz_xid"
#: For tables in mode `soft_delete` only: when it was committed (Datetime us, UTC), and whether the row is deleted.
COMMIT_TS = "_dbmazz_commit_ts"
DELETED = "_dbmazz_deleted"
#: How many equal rows, in `NetEffect.removals`.
COUNT = "_dbmazz_count"

# Of changelogs.
OP = PREFIX + "op"
ORDINAL = PREFIX + "ordinal"
UNCHANGED = PREFIX + "unchanged"
#: Not `_dbmazz_old_known`: a table may have a column `known`.
KNOWN_OLD = PREFIX + "known_old"
#: Prefix, in the destination, of the columns that hold the row before.
OLD = PREFIX + "old_"


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
