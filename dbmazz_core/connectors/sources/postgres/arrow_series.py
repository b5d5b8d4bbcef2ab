"""Arrow arrays as polars series, over the same memory."""

from __future__ import annotations

import polars as pl
import pyarrow as pa


def series_of(array: pa.Array) -> pl.Series:
    """Return an array as a series that shares its memory; `pl.from_arrow` would copy it."""
    return pl.Series(_Exported(array))


class _Exported:
    """An Arrow array with nothing but its C interface: for a `pyarrow.Array`, polars imports `pyarrow.compute`."""

    def __init__(self, array: pa.Array) -> None:
        self.__arrow_c_array__ = array.__arrow_c_array__
