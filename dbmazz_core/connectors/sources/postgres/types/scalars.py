"""From text to single values, as polars expressions: many columns go through one query."""

from __future__ import annotations

import polars as pl

from dbmazz_core.model.datatypes import DataType, Kind


def to_carrier(raw: pl.Expr, type: DataType) -> pl.Expr:
    """Turn texts, a `Binary` expression, into the type's carrier dtype; what is no such value becomes null.

    Args:
        raw: PostgreSQL's text forms.
        type: Of values that hold no others; for lists and maps see `read.read_texts`.
    """
    if type.kind is Kind.BOOLEAN:
        return pl.when(raw == pl.lit(b"t")).then(True).when(raw == pl.lit(b"f")).then(False)
    if type.kind is Kind.BYTES:
        # bytea_output = hex: backslash, x, then two digits a byte
        return raw.bin.slice(2).cast(pl.String, strict=False).str.decode("hex", strict=False)
    text = raw.cast(pl.String, strict=False)
    if type.carrier == pl.String:
        return text
    value = text.cast(type.carrier, strict=False)
    if type.carrier.is_float():
        # A finite numeric beyond the range of a double (NUMERIC_AS=double) parses as infinity; PostgreSQL refuses it
        # ("out of range", float8in). Only `Infinity` and `-Infinity` are infinite, and end in a letter.
        return pl.when(~(value.is_infinite() & ~raw.bin.ends_with(b"y"))).then(value)
    return value
