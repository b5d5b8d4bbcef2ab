"""The net effect of changes on one table: the changes that a sink applies, at most one per row.

Its frames name the table's columns by their places (`frame_columns`): `c3` is the fourth column.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbmazz_core.model.records import SourcePosition
from dbmazz_core.model.schema import TableSchema

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class PartialUpdate:
    """Updated rows with unsent values (unchanged TOAST), which only the destination's row has.

    Attributes:
        frame: One row per key: the key columns, the known columns, `COMMIT_LSN`, `XID`.
        known: Places of the columns to set. All other columns keep the destination's values.
    """

    frame: pl.DataFrame
    known: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Rows whose key changed, with unsent values, which only the destination's row under the old key has.

    Attributes:
        frame: All columns (unknown values are null), the old key (`k0` if the first column is in it), `COMMIT_LSN`,
            `XID`.
        unknown: Places of the columns to fetch from the row under the old key.
    """

    frame: pl.DataFrame
    unknown: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NetEffect:
    """The changes of a table, reduced to at most one effect per key.

    A sink applies them in this order: empty the table if it was `truncated`; fetch the unknown values of `moves`;
    delete `deletes`; set `updates`; merge `upserts`; append `appends` and the completed `moves`. Tables without a key
    have only `removals` (each removes exactly `COUNT` equal rows) and `appends`.

    For mode `soft_delete` the frames also contain rows that were inserted or updated and then deleted, with `DELETED`
    true. A deleted row therefore has its last values, wherever flushes end.

    Attributes:
        schema: The table.
        truncated: The position of the TRUNCATE that empties the table first; None: there was none.
        appends: Whole rows whose keys the destination does not hold.
        upserts: Whole rows whose keys the destination holds (or, without a snapshot, may hold).
        updates: Rows with unknown values and the same key.
        moves: Rows with unknown values and another key.
        deletes: Key columns of rows to delete, `COMMIT_LSN`, `XID`.
        removals: Whole rows to remove, with `COUNT`; only of tables without a key.
    """

    schema: TableSchema
    truncated: SourcePosition | None = None
    appends: pl.DataFrame | None = None
    upserts: pl.DataFrame | None = None
    updates: tuple[PartialUpdate, ...] = field(default=())
    moves: tuple[Move, ...] = field(default=())
    deletes: pl.DataFrame | None = None
    removals: pl.DataFrame | None = None
