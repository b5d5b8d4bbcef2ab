"""The text of any type as a series in its carrier dtype."""

from __future__ import annotations

import polars as pl

from dbmazz_core.connectors.sources.postgres.types.arrays import read_arrays
from dbmazz_core.connectors.sources.postgres.types.hstore import read_hstores
from dbmazz_core.connectors.sources.postgres.types.quoting import BadText
from dbmazz_core.connectors.sources.postgres.types.scalars import to_carrier
from dbmazz_core.model.datatypes import DataType, Kind

__all__ = ["BadText", "read_each", "read_texts"]


def read_texts(texts: pl.Series, type: DataType) -> pl.Series:
    """Return texts as values in the type's carrier dtype.

    >>> matrix = DataType.list_of(DataType(Kind.INT32), depth=2)
    >>> read_texts(pl.Series([b"{{1,NULL},{3,4}}", None]), matrix).to_list()
    [[[1, None], [3, 4]], None]

    Args:
        texts: A `Binary` series, shape (n,); null is NULL.
        type: The core type.

    Returns:
        A series of dtype `type.carrier`, shape (n,).

    Raises:
        BadText: A text is no value of the type.
    """
    match type.kind:
        case Kind.LIST:
            return read_arrays(texts, type, read_texts)
        case Kind.MAP:
            return read_hstores(texts)
    try:
        values = texts.to_frame("v").select(to_carrier(pl.col("v"), type)).to_series()
    except pl.exceptions.ComputeError:
        raise BadText(_first_not_utf8(texts)) from None
    if values.null_count() != texts.null_count():
        raise BadText(int((values.is_null() & texts.is_not_null()).arg_max() or 0))
    return values


def read_each(texts: pl.Series, type: DataType) -> tuple[pl.Series, pl.Series]:
    """Return texts as values in the type's carrier dtype, with null for each text that is no value of the type.

    >>> read_each(pl.Series([b"{1}", b"{{1}}"]), DataType.list_of(DataType(Kind.INT32)))[0].to_list()
    [[1], None]

    Args:
        texts: A `Binary` series, shape (n,); null is NULL.
        type: The core type.

    Returns:
        The values, dtype `type.carrier`, and which texts are no value of the type, dtype Boolean; both shape (n,).
    """
    try:
        return read_texts(texts, type), pl.repeat(False, len(texts), eager=True)
    except BadText:
        if len(texts) == 1:
            return pl.Series(texts.name, [None], dtype=type.carrier), pl.Series([True])
    # Divide in halves, so that many bad texts do not mean that all others are read again for each.
    middle = len(texts) // 2
    (first, bad_first), (second, bad_second) = read_each(texts[:middle], type), read_each(texts[middle:], type)
    return pl.concat([first, second]), pl.concat([bad_first, bad_second])


def _first_not_utf8(texts: pl.Series) -> int:
    """Return the index of the first text that is not UTF-8: from a database in SQL_ASCII, or damaged."""
    for place, raw in enumerate(texts.to_list()):
        try:
            (raw or b"").decode()
        except UnicodeDecodeError:
            return place
    raise AssertionError("all texts are UTF-8")
