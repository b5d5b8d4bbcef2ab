"""One column's fields in a block of rows that came in binary form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dbmazz_core.connectors.sources.postgres.octets import Bytes, Int64s, unaligned

#: Bytes that must be readable behind the last field: what looks at the beginning of a field reads as many.
BEHIND = 16


class MalformedValue(Exception):
    """A value does not have the binary form of its type.

    Attributes:
        detail: What is wrong.
        place: Number of the value.
    """

    def __init__(self, detail: str, place: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.place = place


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """One column's fields in a block of rows.

    Attributes:
        buffer: The block, uint8, with at least `BEHIND` bytes behind the last field.
        offsets: Offset of each field in `buffer`, int64, shape (n,); 0 where the field is NULL.
        lengths: Length of each field in bytes, int64, shape (n,); 0 where the field is NULL.
        valid: Whether each field is not NULL, shape (n,); None: none is NULL.
    """

    buffer: Bytes
    offsets: Int64s
    lengths: Int64s
    valid: npt.NDArray[np.bool_] | None

    def numbers(self, dtype: str, *, at: int = 0) -> npt.NDArray[Any]:
        """Return the numbers that lie `at` bytes behind the beginnings, in the machine's byte order, shape (n,).

        They are 0 where the field is NULL.
        """
        there = unaligned(self.buffer, dtype)[self.offsets + at]
        numbers = there.astype(there.dtype.newbyteorder("="))
        if self.valid is not None:
            numbers[~self.valid] = 0
        return numbers

    def verify(self, right: npt.NDArray[np.bool_], detail: str) -> None:
        """Raise MalformedValue for the first field for which `right` is false; a NULL is always right."""
        wrong = ~right if self.valid is None else ~right & self.valid
        if wrong.any():
            raise MalformedValue(detail, int(wrong.argmax()))

    def verify_length(self, size: int) -> None:
        """Raise MalformedValue unless all fields have `size` bytes."""
        self.verify(self.lengths == size, f"a value has not {size} bytes")

    def without_first_byte(self) -> Fields:
        """Return the fields without their first bytes."""
        return Fields(self.buffer, self.offsets + 1, np.maximum(self.lengths - 1, 0), self.valid)
