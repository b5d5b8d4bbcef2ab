"""Names of columns in frames that go to a sink: derived from the column's place in its table, never the user's name.

A name that the user chose may have another meaning: as a pseudo-column of the destination, as an alias in its SQL, or
as a pattern in polars (`*`, `^a.*$`). Frames therefore contain no user's names; the schema beside a frame gives the
column at each place. Columns that are not the table's own have names that begin with `_dbmazz_` (`PREFIX`); names of a
table's columns must not begin with it.
"""

from __future__ import annotations

#: Prefix of all names that are not the table's own.
PREFIX = "_dbmazz_"
#: In frames of a net effect: commit LSN and transaction of the last change of a row. They are used in error messages,
#: and by tables that keep them.
COMMIT_LSN = "_dbmazz_commit_lsn"
XID = "_dbmazz_xid"
#: Only for tables in mode `soft_delete`: commit time of the last change (Datetime us, UTC), and whether the row is
#: deleted.
COMMIT_TS = "_dbmazz_commit_ts"
DELETED = "_dbmazz_deleted"
#: In `NetEffect.removals`: the number of equal rows.
COUNT = "_dbmazz_count"

# Columns of changelogs.
OP = PREFIX + "op"
ORDINAL = PREFIX + "ordinal"
UNCHANGED = PREFIX + "unchanged"
#: Not `_dbmazz_old_known`: a table may have a column `known`.
KNOWN_OLD = PREFIX + "known_old"
#: In the destination: prefix of the columns that hold the old row.
OLD = PREFIX + "old_"


def value_column(place: int) -> str:
    """Return the name of the column that holds the values of the row, or of its key.

    >>> value_column(0)
    'c0'
    """
    return f"c{place}"


def origin_column(place: int) -> str:
    """Return the name of the column that holds the key under which the destination has the row.

    >>> origin_column(0)
    'k0'
    """
    return f"k{place}"


def old_column(place: int) -> str:
    """Return the name of the column that holds the values of the old row.

    >>> old_column(0)
    'o0'
    """
    return f"o{place}"
