"""The net effect on a table without a key: a multiset, whose equal rows are counted."""

from __future__ import annotations

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.engine.net_effect.keys import zero_signs
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import DELETE, INSERT, Indexes
from dbmazz_core.model.frame_columns import COUNT, DELETED, value_column
from dbmazz_core.model.net_effect import NetEffect
from dbmazz_core.model.records import SourcePosition


def compact_multiset(rows: BatchRows, truncated: SourcePosition | None) -> NetEffect:
    """Return the net effect on a table without a key.

    Every change adds or removes whole rows. Only the sums by equal rows matter; the order of changes does not.

    Args:
        rows: The changes.
        truncated: The position of the TRUNCATE that empties the table first.

    Raises:
        UnknownValue: A change has no whole old row: the replica identity was not FULL.
    """
    added = np.flatnonzero(rows.ops != DELETE)
    removed = np.flatnonzero(rows.ops != INSERT)
    _verify_whole_rows(rows, removed)
    places = range(len(rows.schema.columns))
    names = [value_column(place) for place in places]
    positions = rows.positions(removed)
    old = rows.old(removed)
    removed_rows = pl.DataFrame([old.values(place).alias(value_column(place)) for place in places] + positions)
    both = pl.concat(
        [
            rows.new_frame(added)[removed_rows.columns].with_columns(pl.lit(1, pl.Int64).alias(COUNT)),
            removed_rows.with_columns(pl.lit(-1, pl.Int64).alias(COUNT)),
        ]
    )
    position_names = [series.name for series in positions]
    signs = [sign.alias(f"{COUNT}_{place}") for place, sign in enumerate(zero_signs(both[names].get_columns()))]
    net = (
        both.with_columns(signs)
        .group_by([*names, *(sign.name for sign in signs)])
        .agg(*(pl.col(name).last() for name in position_names), pl.col(COUNT).sum())
    )
    net = net[[*names, *position_names, COUNT]]
    more = net.filter(pl.col(COUNT) > 0)
    if rows.soft_delete:
        more = more.with_columns(pl.lit(False).alias(DELETED))
    repeated = np.repeat(np.arange(len(more)), more[COUNT].to_numpy())
    return NetEffect(
        rows.schema,
        truncated,
        appends=more.drop(COUNT)[repeated],
        removals=net.filter(pl.col(COUNT) < 0).with_columns(-pl.col(COUNT)),
    )


def _verify_whole_rows(rows: BatchRows, removed: Indexes) -> None:
    """Raise UnknownValue if a removed row has no old image, or an added row has unknown values."""
    if not rows.has_old[removed].all():
        raise _row_is_unknown(rows, removed[~rows.has_old[removed]])
    for place in range(len(rows.schema.columns)):
        unknown = rows.unknown(place)
        if unknown is not None:
            raise _row_is_unknown(rows, np.flatnonzero(unknown))


def _row_is_unknown(rows: BatchRows, at: Indexes) -> UnknownValue:
    lsn, xid = (series[0] for series in rows.positions(at[:1])[:2])
    table = rows.schema.table
    return UnknownValue(
        f"{table} has no key and a change of transaction {xid} committed at {Lsn(lsn)} does not say which row "
        "it is for: its replica identity was not FULL",
        object=table,
        remedy=f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL; then re-snapshot the table: "
        f"dbmazz snapshot --tables '{table}'",
    )
