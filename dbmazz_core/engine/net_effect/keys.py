"""Number keys so that equal keys have equal numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from dbmazz_core.engine.batch_rows import BatchRows
from dbmazz_core.model.batch import Indexes


def key_codes(rows: BatchRows, filled: Indexes, found: Indexes) -> tuple[Indexes, Indexes]:
    """Return a number for every key: the same number for equal keys, different numbers for different keys.

    Args:
        rows: The changes.
        filled: Rows whose new images have the keys that they fill.
        found: Rows whose old images have the keys that they find.

    Returns:
        The codes of the keys of `filled`, and the codes of the keys of `found`.
    """
    # `key_values` puts the keys of old images first; here the keys of new images come first.
    gather = np.concatenate([np.arange(len(found), len(found) + len(filled)), np.arange(len(found))])
    columns = rows.key_values(found, filled, gather)
    if len(columns) == 1 and columns[0].dtype.is_integer():
        codes = columns[0].cast(pl.Int64).to_numpy()
    else:
        # Keys are compared byte by byte: the source sends the old key when its bytes change, also from -0 to 0.
        columns += zero_signs(columns)
        frame = pl.DataFrame([column.alias(str(place)) for place, column in enumerate(columns)])
        distinct = frame.unique().with_row_index("code")
        joined = frame.join(distinct, on=frame.columns, how="left", nulls_equal=True, maintain_order="left")
        codes = joined["code"].cast(pl.Int64).to_numpy()
    return codes[: len(filled)], codes[len(filled) :]


def zero_signs(columns: Sequence[pl.Series]) -> list[pl.Series]:
    """Return columns that distinguish 0 and -0, which polars considers equal, in columns that can hold both."""
    signs = []
    for column in columns:
        if column.dtype.is_float():
            signs.append((column == 0) & (1 / column < 0))
        elif column.dtype.is_nested() and (text := _with_texts_for_floats(column.dtype)) is not None:
            signs.append(column.cast(text))
    return signs


def _with_texts_for_floats(dtype: pl.DataType) -> pl.DataType | None:
    """Return the dtype of floats, or lists of floats, with String in place of the float; None for other dtypes."""
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.DataType):
        inner = _with_texts_for_floats(dtype.inner)
        return None if inner is None else pl.List(inner)
    return pl.String() if dtype.is_float() else None
