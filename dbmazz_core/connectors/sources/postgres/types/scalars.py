"""Text to scalar values, as polars expressions, so that many columns are read in one query."""

from __future__ import annotations

import polars as pl

from dbmazz_core.model.datatypes import DataType, Kind


def to_carrier(raw: pl.Expr, type: DataType) -> pl.Expr:
    """Return an expression that reads texts as values in the type's carrier dtype.

    A text that is no value of the type becomes null.

    Args:
        raw: A `Binary` expression of texts as PostgreSQL's output functions make them.
        type: A scalar core type; for lists and maps see `read.read_texts`.

    Raises:
        polars.exceptions.ComputeError: When the query runs, if a text is not UTF-8.
    """
    if type.kind is Kind.BOOLEAN:
        return pl.when(raw == pl.lit(b"t")).then(True).when(raw == pl.lit(b"f")).then(False)
    if type.kind is Kind.BYTES:
        # bytea_output = hex: a backslash, an x, then two digits a byte
        return raw.bin.slice(2).cast(pl.String, strict=False).str.decode("hex", strict=False)
    text = raw.cast(pl.String, strict=False)
    if type.carrier == pl.String:
        return text
    value = text.cast(type.carrier, strict=False)
    if type.carrier.is_float():
        # A finite numeric beyond the range of a double (NUMERIC_AS=double) parses as infinity; PostgreSQL refuses it
        # ("out of range", float8in). Only the texts `Infinity` and `-Infinity` are infinite; they end in a letter.
        return pl.when(~(value.is_infinite() & ~raw.bin.ends_with(b"y"))).then(value)
    return value
