"""Cast carrier dtypes, in which frames hold values, to natural dtypes, which polars has for the same types."""

from __future__ import annotations

import polars as pl

from dbmazz_core.model.datatypes import DataType


def to_natural(values: pl.Series, type: DataType) -> tuple[pl.Series, int | None]:
    """Return values in the natural dtype, and the place of the first value that does not fit; None if all fit."""
    if values.dtype == type.natural:
        return values, None
    cast = pl.select(_in_lists(pl.lit(values), type.depth, type.leaf.natural)).to_series()
    flat = pl.DataFrame({"place": pl.arange(len(values), eager=True), "text": values, "value": cast})
    for _ in range(type.depth):
        flat = flat.explode("text", "value")
    lost = flat.filter(pl.col("value").is_null() & pl.col("text").is_not_null())["place"]
    return cast, int(lost[0]) if len(lost) else None


def _in_lists(values: pl.Expr, depth: int, dtype: pl.DataType) -> pl.Expr:
    return values.list.eval(_in_lists(pl.element(), depth - 1, dtype)) if depth else _natural(values, dtype)


def _natural(values: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        # A text with a time zone is converted to UTC; a text without a time zone stays naive.
        form = "%Y-%m-%d %H:%M:%S%.f%#z" if dtype.time_zone else "%Y-%m-%d %H:%M:%S%.f"
        return values.str.to_datetime(form, time_unit="us", time_zone=dtype.time_zone, strict=False)
    if dtype == pl.Date:
        return values.str.to_date("%Y-%m-%d", strict=False)
    if dtype == pl.Time:
        return values.str.to_time("%H:%M:%S%.f", strict=False)
    return values.cast(dtype, strict=False)
