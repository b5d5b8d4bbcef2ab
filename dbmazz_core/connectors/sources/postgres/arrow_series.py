"""Arrow arrays as polars series, over the same memory."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from dbmazz_core.connectors.sources.postgres.octets import Int64s


def series_of(array: pa.Array) -> pl.Series:
    """Return an array as a series that shares its memory; `pl.from_arrow` would copy it."""
    return pl.Series(_Exported(array))


def lists_of(array: pa.Array, offsets: Int64s, is_null: npt.NDArray[np.bool_] | None) -> pa.Array:
    """Return an array of lists over the items of another array.

    Args:
        array: The items.
        offsets: Place of each list's first item, and the number of all items behind the last, int64, shape (n + 1,).
        is_null: Whether a list is null, shape (n,); None: none is.
    """
    valid = None
    if is_null is not None and is_null.any():
        valid = pa.py_buffer(np.packbits(~is_null, bitorder="little"))
    return pa.LargeListArray.from_buffers(
        pa.large_list(array.type),
        len(offsets) - 1,
        [valid, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64))],
        children=[array],
    )


class _Exported:
    """An Arrow array with nothing but its C interface: for a `pyarrow.Array`, polars imports `pyarrow.compute`."""

    def __init__(self, array: pa.Array) -> None:
        self.__arrow_c_array__ = array.__arrow_c_array__
