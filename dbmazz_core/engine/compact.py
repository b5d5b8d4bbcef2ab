"""Compaction: many changes of one table to one net effect a key.

Every change *touches* keys: an insert fills one, a delete empties one, an update fills its key again, and an update of
the key itself empties the old one and fills the new one. Of the touches of a key, in stream order, the first tells
whether the destination holds the key beforehand (an insert can only fill a key that was empty: the source's own
uniqueness says so), and the last tells what is there afterwards. That decides between append, upsert, delete and
nothing.

A value that was not sent (unchanged TOAST) is that of the row's previous state, wherever its key was then. Each update
points at the change that filled its key before it; following these pointers ends at a change that knows the value, or
at the destination's row under the key that the first of the chain found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import Rows
from dbmazz_core.engine.row_images import replaced
from dbmazz_core.errors import UnknownValue
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.batch import DELETE, INSERT, UPDATE, ChangeBatch, Indexes, Mask
from dbmazz_core.model.frame_columns import COUNT, DELETED, origin_column, value_column
from dbmazz_core.model.net_effect import Move, NetEffect, PartialUpdate
from dbmazz_core.model.records import SourcePosition

_NONE = -1


def compact(
    batches: Sequence[ChangeBatch], *, truncated: SourcePosition | None = None, soft_delete: bool = False
) -> NetEffect:
    """The net effect of change batches of one table under one schema, in stream order.

    Args:
        batches: At least one.
        truncated: Where the TRUNCATE came from that empties the table first, if one does.
        soft_delete: Whether rows that went are kept: see `NetEffect`.

    Raises:
        BadValue: If a value is none of its column's type.
        UnknownValue: If a value that was not sent cannot be found: only in tables without a key.
    """
    rows = Rows(batches, soft_delete=soft_delete)
    if (rows.ops == INSERT).all():
        # By the source's own uniqueness no two of them share a key.
        return NetEffect(rows.schema, truncated, appends=rows.new_frame(np.arange(len(rows))))
    if not rows.key:
        return _compact_multiset(rows, truncated)
    touches = _touches(rows)
    final, present = touches.kept, touches.first_found
    stays = final != _NONE
    chosen = final[stays]
    if soft_delete:
        went = stays & (touches.last_fill == _NONE)
        rows.bury(final[went], touches.row[touches.last_touch[went]])
    appends, upserts = np.sort(chosen[~present[stays]]), np.sort(chosen[present[stays]])
    deletes = touches.key_frame(touches.last_touch[~stays & present])
    partial = _partial(rows, touches, chosen)
    if partial is None:
        return NetEffect(
            rows.schema,
            truncated,
            appends=rows.new_frame(appends),
            upserts=rows.new_frame(upserts),
            deletes=deletes,
        )
    return partial.effect(truncated, appends, upserts, deletes)


@dataclass(frozen=True, slots=True, eq=False)
class _Touches:
    """Touches of keys, and what they come to. Arrays by distinct key have shape (d,).

    Attributes:
        rows: The changes.
        last_fill: By key: the row that fills it in the end, or -1 if it is empty.
        kept: By key: the row that the destination keeps: `last_fill`, and in mode `soft_delete` the row that filled it
            last if it is empty in the end.
        last_touch: By key: number of the touch that came last.
        first_found: By key: whether it was filled before the first touch.
        previous: By row, for updates: the row that had filled the key it found, or -1 if the destination has it.
        code: By touch: a number for the key, the same for equal keys.
        row: By touch: the row.
        from_old: By touch: whether the key is that of the row's old image.
        found_code: By row, for updates and deletes: code of the key it found.
    """

    rows: Rows
    last_fill: Indexes
    kept: Indexes
    last_touch: Indexes
    first_found: Mask
    previous: Indexes
    code: Indexes
    row: Indexes
    from_old: Mask
    found_code: Indexes

    def key_frame(self, touches: Indexes) -> pl.DataFrame:
        """Key columns of touches, with the positions of their rows."""
        touches = np.sort(touches)
        rows, old = self.row[touches], self.from_old[touches]
        back = np.argsort(np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)]))
        return pl.DataFrame(self.rows.key_values(rows[old], rows[~old], back) + self.rows.positions(rows))


def _touches(rows: Rows) -> _Touches:
    count = len(rows)
    filled = np.flatnonzero(rows.ops != DELETE)
    found = np.flatnonzero(rows.has_old)  # deletes, and updates that came with an old image
    fill_code, found_code_of_old = _codes(rows, filled, found)
    out_code, in_code = np.full(count, _NONE), np.full(count, _NONE)
    out_code[filled] = fill_code
    in_code[rows.ops == UPDATE] = out_code[rows.ops == UPDATE]
    in_code[found] = found_code_of_old

    # One touch a row, and a second one for updates that move: (key found, emptied), then (key filled).
    moved = np.flatnonzero((rows.ops == UPDATE) & (in_code != out_code))
    first_row = np.arange(count)
    row = np.concatenate([first_row, moved])
    code = np.concatenate([np.where(rows.ops == INSERT, out_code, in_code), out_code[moved]])
    fills = np.concatenate([np.where((rows.ops == DELETE), _NONE, first_row), moved])
    fills[moved] = _NONE
    finds = np.concatenate([rows.ops != INSERT, np.zeros(len(moved), dtype=np.bool_)])
    from_old = np.concatenate([rows.ops == DELETE, np.zeros(len(moved), dtype=np.bool_)])
    from_old[moved] = True

    order = np.argsort(code, kind="stable") if not len(moved) else np.lexsort((row, code))
    sorted_code = code[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_code[1:] != sorted_code[:-1]]))
    ends = np.concatenate([starts[1:], [len(order)]]) - 1
    # What had filled the key before each touch: the touch just before it, if of the same key.
    before = np.concatenate([[_NONE], fills[order][:-1]])
    before[starts] = _NONE
    previous = np.full(count, _NONE)
    finding = finds[order]
    previous[row[order][finding]] = before[finding]
    last_fill = kept = fills[order[ends]]
    if rows.soft_delete:
        # The last touch of the key, up to its end, that filled it.
        filling = np.maximum.accumulate(np.where(fills[order] != _NONE, np.arange(len(order)), _NONE))[ends]
        kept = np.where(filling >= starts, fills[order[filling]], _NONE)
    return _Touches(
        rows=rows,
        last_fill=last_fill,
        kept=kept,
        last_touch=order[ends],
        first_found=finds[order[starts]],
        previous=previous,
        code=code,
        row=row,
        from_old=from_old,
        found_code=in_code,
    )


def _codes(rows: Rows, filled: Indexes, found: Indexes) -> tuple[Indexes, Indexes]:
    """A number for every key filled and every key found, the same for equal keys."""
    # Old images first, new ones behind them; then the other way round.
    back = np.concatenate([np.arange(len(found), len(found) + len(filled)), np.arange(len(found))])
    columns = rows.key_values(found, filled, back)
    if len(columns) == 1 and columns[0].dtype.is_integer():
        codes = columns[0].cast(pl.Int64).to_numpy()
    else:
        # By writing: PostgreSQL sends the old key when its bytes change, also from -0 to 0.
        columns += _signs(columns)
        frame = pl.DataFrame([column.alias(str(place)) for place, column in enumerate(columns)])
        distinct = frame.unique().with_row_index("code")
        joined = frame.join(distinct, on=frame.columns, how="left", nulls_equal=True, maintain_order="left")
        codes = joined["code"].cast(pl.Int64).to_numpy()
    return codes[: len(filled)], codes[len(filled) :]


def _signs(columns: Sequence[pl.Series]) -> list[pl.Series]:
    """What tells 0 and -0 apart, which are equal but not alike, in columns that can hold them."""
    signs = []
    for column in columns:
        if column.dtype.is_float():
            signs.append((column == 0) & (1 / column < 0))
        elif column.dtype.is_nested() and (text := _as_text(column.dtype)) is not None:
            signs.append(column.cast(text))
    return signs


def _as_text(dtype: pl.DataType) -> pl.DataType | None:
    """The dtype of lists of floats with text instead; None for others."""
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.DataType):
        inner = _as_text(dtype.inner)
        return None if inner is None else pl.List(inner)
    return pl.String() if dtype.is_float() else None


def _follow(pointers: Indexes) -> Indexes:
    """Follow pointers to their ends, all at once, doubling the step each time; an end points at itself."""
    while True:
        further = pointers[pointers]
        if (further == pointers).all():
            return pointers
        pointers = further


def _partial(rows: Rows, touches: _Touches, chosen: Indexes) -> _Partial | None:
    """Resolve values that were not sent; None if there are none."""
    count = len(rows)
    sources: dict[int, Indexes] = {}
    for column in range(len(rows.schema.columns)):
        unknown = rows.unknown(column)
        if unknown is None:
            continue
        # An end of its own stands for the destination's row, behind all rows.
        step = np.where(unknown, np.where(touches.previous == _NONE, count, touches.previous), np.arange(count))
        source = _follow(np.append(step, count))[:count]
        sources[column] = source
    if not sources:
        return None
    root_step = np.where(touches.previous == _NONE, np.arange(count), touches.previous)
    return _Partial(rows, touches, chosen, sources, root=_follow(root_step))


@dataclass(frozen=True, slots=True, eq=False)
class _Partial:
    """Net effect where some values were not sent.

    Attributes:
        sources: By column: by row, the row that knows the value, or n if the destination does.
        root: By row: the first change of its chain; the destination has the row under the key that this one found.
    """

    rows: Rows
    touches: _Touches
    chosen: Indexes
    sources: dict[int, Indexes]
    root: Indexes

    def effect(
        self, truncated: SourcePosition | None, appends: Indexes, upserts: Indexes, deletes: pl.DataFrame
    ) -> NetEffect:
        count = len(self.rows)
        open_columns = {c: source[self.chosen] == count for c, source in self.sources.items()}
        masks = np.stack(list(open_columns.values()), axis=1)
        open_rows = self.chosen[masks.any(axis=1)]
        appends, upserts = np.setdiff1d(appends, open_rows), np.setdiff1d(upserts, open_rows)
        updates: list[PartialUpdate] = []
        moves: list[Move] = []
        stays = self._stays()
        # Rows of one statement lack the same columns (rows with different sets: artie#100).
        patterns, member_of = np.unique(masks, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            unknown = tuple(c for c, lacking in zip(open_columns, pattern, strict=True) if lacking)
            if not unknown:
                continue
            members = np.sort(self.chosen[member_of.reshape(-1) == number])
            same = members[stays[members]]
            if len(same):
                places = range(len(self.rows.schema.columns))
                known = tuple(place for place in places if place not in unknown and place not in self.rows.key)
                updates.append(PartialUpdate(self._frame(same).drop(map(value_column, unknown)), known))
            other = members[~stays[members]]
            if len(other):
                origin = self._origin(other)
                frame = self._frame(other).hstack(origin)
                moves.append(Move(frame, unknown))
                # A key that the destination holds and that the move fills has to be emptied for it.
                deletes = pl.concat([deletes, self._replaced(other, frame, deletes.columns)])
        return NetEffect(
            self.rows.schema,
            truncated,
            appends=self._frame(appends),
            upserts=self._frame(upserts),
            updates=tuple(updates),
            moves=tuple(moves),
            deletes=deletes,
        )

    def _stays(self) -> Mask:
        """By row: whether the destination's row is under the key that the row fills in the end."""
        out = np.full(len(self.rows), _NONE)
        out[self.touches.row] = self.touches.code  # the second touch of a move, its new key, comes last
        stays: Mask = self.touches.found_code[self.root] == out
        return stays

    def _replaced(self, rows: Indexes, frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        held = np.isin(rows, self.touches.kept[self.touches.first_found])
        return frame.filter(pl.Series(held))[columns]

    def _origin(self, rows: Indexes) -> pl.DataFrame:
        root = self.root[rows]
        old = self.rows.has_old[root]
        back = np.argsort(np.concatenate([np.flatnonzero(old), np.flatnonzero(~old)]))
        values = self.rows.key_values(root[old], root[~old], back)
        return pl.DataFrame(
            [series.alias(origin_column(place)) for place, series in zip(self.rows.key, values, strict=True)]
        )

    def _frame(self, rows: Indexes) -> pl.DataFrame:
        """Whole rows, each value from the row that knows it; null where only the destination does."""
        chosen = self.rows.new(rows)
        columns = []
        for place in range(len(self.rows.schema.columns)):
            if place not in self.sources:
                columns.append(self.rows.new_values(place, chosen).alias(value_column(place)))
                continue
            source = self.sources[place][rows]
            here = source < len(self.rows)
            known = self.rows.new_values(place, self.rows.new(source[here]))
            values = pl.repeat(None, len(rows), dtype=known.dtype, eager=True)
            columns.append(replaced(values, np.flatnonzero(here), known).alias(value_column(place)))
        return pl.DataFrame(columns + self.rows.marks(rows))


def _compact_multiset(rows: Rows, truncated: SourcePosition | None) -> NetEffect:
    """Tables without a key: rows are counted, equal ones are alike, so only the sums matter and not the order."""
    came = np.flatnonzero(rows.ops != DELETE)
    went = np.flatnonzero(rows.ops != INSERT)
    if not rows.has_old[went].all():
        raise _no_old_row(rows, went[~rows.has_old[went]])
    places = range(len(rows.schema.columns))
    for place in places:
        unknown = rows.unknown(place)
        if unknown is not None:
            raise _no_old_row(rows, np.flatnonzero(unknown))
    names = [value_column(place) for place in places]
    positions = rows.positions(went)
    old = rows.old(went)
    gone = pl.DataFrame([old.values(place).alias(value_column(place)) for place in places] + positions)
    both = pl.concat(
        [
            rows.new_frame(came)[gone.columns].with_columns(pl.lit(1, pl.Int64).alias(COUNT)),
            gone.with_columns(pl.lit(-1, pl.Int64).alias(COUNT)),
        ]
    )
    origin = [series.name for series in positions]
    signs = [sign.alias(f"{COUNT}_{place}") for place, sign in enumerate(_signs(both[names].get_columns()))]
    net = (
        both.with_columns(signs)
        .group_by([*names, *(sign.name for sign in signs)])
        .agg(*(pl.col(name).last() for name in origin), pl.col(COUNT).sum())
    )
    net = net[[*names, *origin, COUNT]]
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


def _no_old_row(rows: Rows, at: Indexes) -> UnknownValue:
    lsn, xid = (series[0] for series in rows.positions(at[:1])[:2])
    table = rows.schema.table
    return UnknownValue(
        f"{table} has no key and a change of transaction {xid} committed at {Lsn(lsn)} does not say which row "
        "it is for: its replica identity was not FULL",
        object=str(table),
        remedy=f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL; then copy it anew: dbmazz snapshot --tables '{table}'",
    )
