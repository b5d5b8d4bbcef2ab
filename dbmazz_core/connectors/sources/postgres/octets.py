"""Numbers at any offset of bytes that PostgreSQL sent, read as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def unaligned(buffer: bytes | bytearray | memoryview | Bytes, dtype: str) -> npt.NDArray[Any]:
    """View `buffer` as an array with an item at every byte offset, shape (len(buffer) - itemsize + 1,)."""
    itemsize = np.dtype(dtype).itemsize
    return np.ndarray(shape=(max(len(buffer) - itemsize + 1, 0),), dtype=dtype, buffer=buffer, strides=(1,))
