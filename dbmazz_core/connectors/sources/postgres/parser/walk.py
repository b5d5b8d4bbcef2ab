"""Many tuples walked at once, column by column, without Python code per row.

A TupleData is a column count (int16), then for each column a kind byte: 'n' NULL, 'u' unchanged TOAST value that was
not sent, or 't' (text) or 'b' (binary) with a length (int32) and that many bytes. All tuples of a relation have the
same number of columns, so that one pass per column advances the positions in all tuples. Columns that are not captured
are skipped.

Source: PostgreSQL manual, "Logical Replication Message Formats", TupleData.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dbmazz_core.connectors.sources.postgres.octets import Int64s, unaligned
from dbmazz_core.connectors.sources.postgres.parser.block import MessageBlock
from dbmazz_core.model.batch import Indexes, Mask

_NULL, _UNCHANGED = ord("n"), ord("u")
TEXT, BINARY = ord("t"), ord("b")
#: Shifts of eight bytes at a value's head: to the kind, over the kind, and from there to the length.
_TO_KIND, _OVER_KIND, _TO_LENGTH = np.uint64(56), np.uint64(8), np.uint64(32)


class MalformedTuple(Exception):
    """A tuple does not have the format. The plain parser finds which one, and the error."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the values of one column are, in k tuples.

    Attributes:
        kinds: Kind bytes, uint8, shape (k,); None: every tuple has a value.
        offsets: Offset of each value in the block's buffer, int64, shape (k,); 0 where there is none.
        lengths: Length of each value in bytes, int64, shape (k,); 0 where there is none.
    """

    kinds: npt.NDArray[np.uint8] | None
    offsets: Int64s
    lengths: Int64s

    @property
    def present(self) -> Mask | None:
        """Whether a tuple has a value, shape (k,); None: every tuple has one."""
        return None if self.kinds is None else (self.kinds != _NULL) & (self.kinds != _UNCHANGED)

    @property
    def unknown(self) -> Mask | None:
        """Whether a value was not sent, shape (k,); None: all were sent."""
        if self.kinds is None:
            return None
        mask: Mask = self.kinds == _UNCHANGED
        return mask if mask.any() else None

    def take(self, some: Indexes | slice) -> Places:
        """Return the places in some of the tuples."""
        return Places(None if self.kinds is None else self.kinds[some], self.offsets[some], self.lengths[some])

    def read(self) -> Places:
        """Return the same without offsets and lengths, which take memory, for a column whose values were read."""
        nowhere = np.broadcast_to(np.int64(0), self.offsets.shape)
        return Places(self.kinds, nowhere, nowhere)


def has_unsent_values(columns: Sequence[Places], among: Mask | None = None) -> bool:
    """Return whether any value was not sent, in the tuples where the mask `among` is true (None: in all tuples)."""
    masks = (column.unknown for column in columns)
    return any(mask is not None and bool(mask[among].any()) for mask in masks)


def walk(
    block: MessageBlock, rows: Int64s, positions: Int64s, width: int, numbers: Sequence[int], form: int
) -> tuple[list[Places], Int64s]:
    """Walk the tuples that begin at `positions`, one in each message of `rows`.

    Args:
        block: The messages.
        rows: Indexes of messages in the block, int64, shape (k,).
        positions: Offset in the block's buffer of each tuple's column count, int64, shape (k,).
        width: Number of columns of a tuple.
        numbers: The columns whose places are wanted, ascending.
        form: The kind of the wanted values that are sent and not NULL: `TEXT` or `BINARY`. In binary format, other
            columns have texts where their type has no send function.

    Returns:
        The places of the wanted columns, and the offset behind each tuple, int64, shape (k,).

    Raises:
        MalformedTuple: A tuple runs past its message, has another kind of value, or another number of columns.
    """
    if not len(rows):  # many batches have no old rows
        return [Places(None, positions, positions) for _ in numbers], positions
    # One read per value: kind byte and length are the upper five of eight bytes.
    eight = unaligned(block.buffer, ">u8")
    columns: list[Places] = []
    wanted = frozenset(numbers)
    try:
        if (unaligned(block.buffer, ">u2")[positions] != width).any():
            raise MalformedTuple
        position = positions + 2
        for number in range(width):
            head = eight[position].astype(np.uint64)
            kinds = (head >> _TO_KIND).astype(np.uint8)
            lengths = (head << _OVER_KIND >> _TO_LENGTH).view(np.int64)
            present = kinds == form
            if number not in wanted:
                present |= (kinds == TEXT) | (kinds == BINARY)
            if present.all():
                if number in wanted:
                    columns.append(Places(None, position + 5, lengths))
                position = position + lengths + 5
                continue
            if not (present | (kinds == _NULL) | (kinds == _UNCHANGED)).all():
                raise MalformedTuple
            lengths[~present] = 0
            if number in wanted:
                columns.append(Places(kinds, np.where(present, position + 5, 0), lengths))
            position = position + lengths + np.where(present, 5, 1)
    except IndexError:
        raise MalformedTuple from None
    if (position > block.ends[rows]).any():
        raise MalformedTuple
    return columns, position
