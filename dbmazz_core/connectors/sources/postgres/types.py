"""PostgreSQL types: their OIDs, their core type, and how their text becomes values.

Everything that is not listed arrives as its text. The one conversion serves the stream and the snapshot alike, so
both give the same values: both hand over PostgreSQL's own text form under the settings of
`connection.TEXT_FORM_SETTINGS`.

OIDs: PostgreSQL's `pg_type.dat`; they are fixed for built-in types.
"""

from __future__ import annotations

import polars as pl

from dbmazz_core.datatypes import DataType, Kind

NUMERIC_OID = 1700

#: oid -> (PostgreSQL's name, kind)
BUILTIN: dict[int, tuple[str, Kind]] = {
    16: ("boolean", Kind.BOOLEAN),
    17: ("bytea", Kind.BYTES),
    20: ("bigint", Kind.INT64),
    21: ("smallint", Kind.INT16),
    23: ("integer", Kind.INT32),
    25: ("text", Kind.STRING),
    114: ("json", Kind.JSON),
    700: ("real", Kind.FLOAT32),
    701: ("double precision", Kind.FLOAT64),
    1042: ("character", Kind.STRING),
    1043: ("character varying", Kind.STRING),
    1082: ("date", Kind.DATE),
    1083: ("time without time zone", Kind.TIME),
    1114: ("timestamp without time zone", Kind.TIMESTAMP),
    1184: ("timestamp with time zone", Kind.TIMESTAMPTZ),
    2950: ("uuid", Kind.UUID),
    3802: ("jsonb", Kind.JSONB),
}

#: DuckDB's widest DECIMAL; wider numerics are kept as text.
MAX_PRECISION = 38


def data_type(type_oid: int, type_modifier: int) -> DataType:
    """The core type of a column, by `pg_attribute.atttypid` and `atttypmod`.

    >>> str(data_type(1700, ((12 << 16) | 2) + 4)), str(data_type(1700, -1)), str(data_type(600, -1))
    ('Decimal{12,2}', 'String', 'String')
    """
    if type_oid == NUMERIC_OID:
        return _numeric(type_modifier)
    entry = BUILTIN.get(type_oid)
    return DataType(entry[1] if entry else Kind.STRING)


def type_name(type_oid: int, type_modifier: int) -> str:
    """PostgreSQL's name of a type as far as the OID alone tells: Relation messages carry no names."""
    if type_oid == NUMERIC_OID:
        if type_modifier < 0:
            return "numeric"
        precision, scale = _precision_and_scale(type_modifier)
        return f"numeric({precision},{scale})"
    entry = BUILTIN.get(type_oid)
    return entry[0] if entry else f"type with OID {type_oid}"


def _precision_and_scale(type_modifier: int) -> tuple[int, int]:
    # numeric.c: the scale is 11 bits, signed since PostgreSQL 15 (-1000 to 1000, and may exceed the precision).
    packed = type_modifier - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def _numeric(type_modifier: int) -> DataType:
    if type_modifier < 0:
        return DataType(Kind.STRING)  # unconstrained: up to 131072 digits, NaN and infinities
    precision, scale = _precision_and_scale(type_modifier)
    precision, scale = (max(precision, scale), scale) if scale >= 0 else (precision - scale, 0)
    if precision > MAX_PRECISION:
        return DataType(Kind.STRING)
    return DataType(Kind.DECIMAL, precision, scale)


def carrier(raw: pl.Expr, type: DataType) -> pl.Expr:
    """Turn texts, a `Binary` expression, into the type's carrier dtype; what is no such value becomes null."""
    if type.kind is Kind.BOOLEAN:
        return pl.when(raw == pl.lit(b"t")).then(True).when(raw == pl.lit(b"f")).then(False)
    if type.kind is Kind.BYTES:
        # bytea_output = hex: backslash, x, then two digits a byte
        return raw.bin.slice(2).cast(pl.String, strict=False).str.decode("hex", strict=False)
    text = raw.cast(pl.String, strict=False)
    return text if type.carrier == pl.String else text.cast(type.carrier, strict=False)


def one_value(text: str, type: DataType) -> pl.Series:
    """One value in the type's carrier dtype, shape (1,)."""
    return pl.DataFrame({"text": [text.encode()]}).select(carrier(pl.col("text"), type)).to_series()
