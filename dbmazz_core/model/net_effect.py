"""The net effect of changes on one table: what a sink has to do, each row at most once.

In its frames the table's columns are named by their places (`frame_columns`): `c3` is the fourth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from dbmazz_core.model.records import SourcePosition
from dbmazz_core.model.schema import TableSchema


@dataclass(frozen=True, slots=True)
class PartialUpdate:
    """Rows of which some values were not sent (unchanged TOAST) and are still in the destination's row.

    Attributes:
        frame: One row a key: the key columns, the known columns, `COMMIT_LSN`, `XID`.
        known: Places of the columns to set; all others keep what the destination has.
    """

    frame: pl.DataFrame
    known: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Rows whose key changed and of which some values are still in the destination's row under the old key.

    Attributes:
        frame: All columns (unknown ones null), those of the old key (`k0` is the first column's), `COMMIT_LSN`, `XID`.
        unknown: Places of the columns to fetch from the row under the old key.
    """

    frame: pl.DataFrame
    unknown: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NetEffect:
    """What happened to a table, reduced to one effect a key.

    To apply, in this order: empty the table if it was `truncated`; fetch what `moves` lack; delete `deletes`; set
    `updates`; merge `upserts`; append `appends` and the completed `moves`. Tables without a key have `removals` (each
    removes exactly `COUNT` of equal rows) and `appends` only.

    For mode `soft_delete` rows that came, or changed, and went are among the frames too, with `DELETED` true: what went
    keeps the values that it had in the end, wherever flushes end.

    Attributes:
        schema: The table.
        truncated: Where the last TRUNCATE came from if the table was emptied first.
        appends: Whole rows whose keys the destination cannot hold.
        upserts: Whole rows whose keys the destination holds (or, without a snapshot, may hold).
        updates: Rows with unknown values, same key.
        moves: Rows with unknown values, other key.
        deletes: Key columns of rows to delete, `COMMIT_LSN`, `XID`.
        removals: Whole rows to remove, with `COUNT`.
    """

    schema: TableSchema
    truncated: SourcePosition | None = None
    appends: pl.DataFrame | None = None
    upserts: pl.DataFrame | None = None
    updates: tuple[PartialUpdate, ...] = field(default=())
    moves: tuple[Move, ...] = field(default=())
    deletes: pl.DataFrame | None = None
    removals: pl.DataFrame | None = None
