"""Find unsent values (unchanged TOAST values): in earlier changes, or in the destination's row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.engine.net_effect.touches import NONE, Touches
from dbmazz_core.engine.row_images import scatter
from dbmazz_core.model.batch import Indexes, Mask
from dbmazz_core.model.frame_columns import origin_column, value_column
from dbmazz_core.model.net_effect import Move, NetEffect, PartialUpdate
from dbmazz_core.model.records import SourcePosition


def find_unsent_values(rows: BatchRows, touches: Touches, chosen: Indexes) -> UnsentValues | None:
    """Find the unsent values of changes; return None if every value was sent.

    Args:
        rows: The changes.
        touches: Their touches.
        chosen: The rows that the destination keeps.
    """
    count = len(rows)
    known_in: dict[int, Indexes] = {}
    for column in range(len(rows.schema.columns)):
        unknown = rows.unknown(column)
        if unknown is None:
            continue
        # The number behind all rows stands for the destination's row.
        step = np.where(unknown, np.where(touches.previous == NONE, count, touches.previous), np.arange(count))
        known_in[column] = follow_pointers(np.append(step, count))[:count]
    if not known_in:
        return None
    first_step = np.where(touches.previous == NONE, np.arange(count), touches.previous)
    return UnsentValues(rows, touches, chosen, known_in, first=follow_pointers(first_step))


def follow_pointers(pointers: Indexes) -> Indexes:
    """Return the end of each chain of pointers; the end of a chain points at itself.

    All chains are followed at once. Each round doubles the length of the steps (pointer doubling).

    >>> follow_pointers(np.array([0, 0, 1, 3])).tolist()
    [0, 0, 0, 3]
    """
    while True:
        further = pointers[pointers]
        if (further == pointers).all():
            return pointers
        pointers = further


@dataclass(frozen=True, slots=True, eq=False)
class UnsentValues:
    """The places of unsent values: in earlier changes, or in the destination.

    Attributes:
        rows: The changes.
        touches: Their touches.
        chosen: The rows that the destination keeps.
        known_in: By column with unsent values: by row, the row that knows the value; the number of rows if only the
            destination's row knows the value.
        first: By row: the first change of its chain. The destination has the row under the key that this change found.
    """

    rows: BatchRows
    touches: Touches
    chosen: Indexes
    known_in: dict[int, Indexes]
    first: Indexes

    def net_effect(
        self, truncated: SourcePosition | None, appends: Indexes, upserts: Indexes, deletes: pl.DataFrame
    ) -> NetEffect:
        """Return the net effect, with partial updates and moves for rows that need values of the destination.

        Args:
            truncated: The position of the TRUNCATE that empties the table first.
            appends: Rows to append, also those with values that only the destination knows.
            upserts: Rows to upsert, also those with values that only the destination knows.
            deletes: The keys to delete.
        """
        count = len(self.rows)
        unknown_columns = {c: known_in[self.chosen] == count for c, known_in in self.known_in.items()}
        masks = np.stack(list(unknown_columns.values()), axis=1)
        unknown_rows = self.chosen[masks.any(axis=1)]
        appends, upserts = np.setdiff1d(appends, unknown_rows), np.setdiff1d(upserts, unknown_rows)
        updates: list[PartialUpdate] = []
        moves: list[Move] = []
        same_key = self._same_key()
        # Rows of one statement lack the same columns (rows with different sets: artie#100).
        patterns, member_of = np.unique(masks, axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            unknown = tuple(c for c, lacking in zip(unknown_columns, pattern, strict=True) if lacking)
            if not unknown:
                continue
            members = np.sort(self.chosen[member_of.reshape(-1) == number])
            updated = members[same_key[members]]
            if len(updated):
                places = range(len(self.rows.schema.columns))
                known = tuple(place for place in places if place not in unknown and place not in self.rows.key)
                updates.append(PartialUpdate(self._frame(updated).drop(map(value_column, unknown)), known))
            moved = members[~same_key[members]]
            if len(moved):
                frame = self._frame(moved).hstack(self._origin(moved))
                moves.append(Move(frame, unknown))
                deletes = pl.concat([deletes, self._replaced(moved, frame, deletes.columns)])
        return NetEffect(
            self.rows.schema,
            truncated,
            appends=self._frame(appends),
            upserts=self._frame(upserts),
            updates=tuple(updates),
            moves=tuple(moves),
            deletes=deletes,
        )

    def _same_key(self) -> Mask:
        """Return by row whether the destination's row has the key that the row fills in the end."""
        filled_code = np.full(len(self.rows), NONE)
        # An update that changes the key has two touches; the touch of the new key comes last.
        filled_code[self.touches.row] = self.touches.code
        same_key: Mask = self.touches.found_code[self.first] == filled_code
        return same_key

    def _replaced(self, moved: Indexes, frame: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """Return the keys that moves fill and that the destination holds: they must be deleted before the moves."""
        held = np.isin(moved, self.touches.kept[self.touches.first_found])
        return frame.filter(pl.Series(held))[columns]

    def _origin(self, rows: Indexes) -> pl.DataFrame:
        """Return the keys under which the destination holds rows."""
        first = self.first[rows]
        values = self.rows.keys_of_rows(first, self.rows.has_old[first])
        return pl.DataFrame(
            [series.alias(origin_column(place)) for place, series in zip(self.rows.key, values, strict=True)]
        )

    def _frame(self, rows: Indexes) -> pl.DataFrame:
        """Return whole rows, each value from the row that knows it; null where only the destination knows it."""
        chosen = self.rows.new(rows)
        columns = []
        for place in range(len(self.rows.schema.columns)):
            if place not in self.known_in:
                columns.append(self.rows.new_values(place, chosen).alias(value_column(place)))
                continue
            known_in = self.known_in[place][rows]
            is_known = known_in < len(self.rows)
            known = self.rows.new_values(place, self.rows.new(known_in[is_known]))
            values = pl.repeat(None, len(rows), dtype=known.dtype, eager=True)
            columns.append(scatter(values, np.flatnonzero(is_known), known).alias(value_column(place)))
        return pl.DataFrame(columns + self.rows.metadata(rows))
