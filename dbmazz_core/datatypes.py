"""The core type system: what a column's values are, and their polars and DuckDB forms.

Two polars dtypes belong to each type. The *carrier* is what frames of changes hold: every PostgreSQL value fits, so
`infinity`, `0044-03-15 BC` or `24:00:00` travel as their text. The *natural* dtype is polars' own for the type
(`Datetime`, `Decimal`); `ChangeBatch.typed()` casts to it and refuses what does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import polars as pl


class Kind(StrEnum):
    """The kinds of value, named as the connector's type table names them."""

    BOOLEAN = "Boolean"
    INT16 = "Int16"
    INT32 = "Int32"
    INT64 = "Int64"
    FLOAT32 = "Float32"
    FLOAT64 = "Float64"
    DECIMAL = "Decimal"
    STRING = "String"
    BYTES = "Bytes"
    JSON = "Json"
    JSONB = "Jsonb"
    UUID = "Uuid"
    DATE = "Date"
    TIME = "Time"
    TIMESTAMP = "Timestamp"
    TIMESTAMPTZ = "TimestampTz"


#: Kind -> (carrier dtype, natural dtype, DuckDB type). Decimals name precision and scale besides.
_FORMS: dict[Kind, tuple[pl.DataType, pl.DataType, str]] = {
    Kind.BOOLEAN: (pl.Boolean(), pl.Boolean(), "BOOLEAN"),
    Kind.INT16: (pl.Int16(), pl.Int16(), "SMALLINT"),
    Kind.INT32: (pl.Int32(), pl.Int32(), "INTEGER"),
    Kind.INT64: (pl.Int64(), pl.Int64(), "BIGINT"),
    Kind.FLOAT32: (pl.Float32(), pl.Float32(), "FLOAT"),
    Kind.FLOAT64: (pl.Float64(), pl.Float64(), "DOUBLE"),
    Kind.DECIMAL: (pl.String(), pl.Decimal(38, 0), "DECIMAL"),
    Kind.STRING: (pl.String(), pl.String(), "VARCHAR"),
    Kind.BYTES: (pl.Binary(), pl.Binary(), "BLOB"),
    Kind.JSON: (pl.String(), pl.String(), "JSON"),
    Kind.JSONB: (pl.String(), pl.String(), "JSON"),
    Kind.UUID: (pl.String(), pl.String(), "UUID"),
    Kind.DATE: (pl.String(), pl.Date(), "DATE"),
    Kind.TIME: (pl.String(), pl.Time(), "TIME"),
    Kind.TIMESTAMP: (pl.String(), pl.Datetime("us"), "TIMESTAMP"),
    Kind.TIMESTAMPTZ: (pl.String(), pl.Datetime("us", "UTC"), "TIMESTAMPTZ"),
}


@dataclass(frozen=True, slots=True)
class DataType:
    """A column's type.

    >>> str(DataType(Kind.DECIMAL, 12, 2)), DataType(Kind.DECIMAL, 12, 2).duckdb
    ('Decimal{12,2}', 'DECIMAL(12,2)')

    Attributes:
        kind: What the values are.
        precision: Digits in all, of a decimal.
        scale: Digits after the point, of a decimal.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None

    @property
    def carrier(self) -> pl.DataType:
        """The dtype in frames of changes; every value fits."""
        return _FORMS[self.kind][0]

    @property
    def natural(self) -> pl.DataType:
        """Polars' own dtype for the type; dates far away, infinities and NaN decimals do not fit."""
        if self.kind is Kind.DECIMAL:
            return pl.Decimal(self.precision, self.scale or 0)
        return _FORMS[self.kind][1]

    @property
    def duckdb(self) -> str:
        """The column's type in DuckDB."""
        if self.kind is Kind.DECIMAL:
            return f"DECIMAL({self.precision},{self.scale})"
        return _FORMS[self.kind][2]

    def __str__(self) -> str:
        if self.kind is Kind.DECIMAL:
            return f"Decimal{{{self.precision},{self.scale}}}"
        return self.kind.value
