"""The core type system: what a column's values are, and their polars and DuckDB forms.

Two polars dtypes belong to each type. The *carrier* is what frames of changes hold: every PostgreSQL value fits, so
`infinity`, `0044-03-15 BC` or `24:00:00` travel as their text. The *natural* dtype is polars' own for the type
(`Datetime`, `Decimal`); `ChangeBatch.typed()` casts to it and refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import polars as pl


class Kind(StrEnum):
    """The kinds of value, named as the connector's type table names them."""

    BOOLEAN = "Boolean"
    INT16 = "Int16"
    INT32 = "Int32"
    INT64 = "Int64"
    UINT32 = "UInt32"
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
    TIMETZ = "TimeTz"
    TIMESTAMP = "Timestamp"
    TIMESTAMPTZ = "TimestampTz"
    INTERVAL = "Interval"
    LIST = "List"
    MAP = "Map"


#: Both dtypes of a `Kind.MAP`: what polars has for it.
_PAIRS = pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))


#: Kind -> (carrier dtype, natural dtype, DuckDB type). Decimals name precision and scale besides; lists have those of
#: their elements. Polars has no times with a zone and no intervals with months: their natural form is text.
_FORMS: dict[Kind, tuple[pl.DataType, pl.DataType, str]] = {
    Kind.BOOLEAN: (pl.Boolean(), pl.Boolean(), "BOOLEAN"),
    Kind.INT16: (pl.Int16(), pl.Int16(), "SMALLINT"),
    Kind.INT32: (pl.Int32(), pl.Int32(), "INTEGER"),
    Kind.INT64: (pl.Int64(), pl.Int64(), "BIGINT"),
    Kind.UINT32: (pl.UInt32(), pl.UInt32(), "UINTEGER"),
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
    Kind.TIMETZ: (pl.String(), pl.String(), "TIMETZ"),
    Kind.TIMESTAMP: (pl.String(), pl.Datetime("us"), "TIMESTAMP"),
    Kind.TIMESTAMPTZ: (pl.String(), pl.Datetime("us", "UTC"), "TIMESTAMPTZ"),
    Kind.INTERVAL: (pl.String(), pl.String(), "INTERVAL"),
    Kind.MAP: (_PAIRS, _PAIRS, "MAP(VARCHAR, VARCHAR)"),
}


@dataclass(frozen=True, slots=True)
class DataType:
    """A column's type.

    >>> str(DataType(Kind.DECIMAL, 12, 2)), DataType(Kind.DECIMAL, 12, 2).duckdb
    ('Decimal{12,2}', 'DECIMAL(12,2)')
    >>> matrix = DataType.list_of(DataType(Kind.INT32), depth=2)
    >>> str(matrix), matrix.duckdb, matrix.carrier
    ('List{List{Int32}}', 'INTEGER[][]', List(List(Int32)))
    >>> DataType.from_dict(matrix.to_dict()) == matrix
    True

    Attributes:
        kind: What the values are.
        precision: Digits in all, of a decimal.
        scale: Digits after the point, of a decimal.
        element: Type of the elements, of a list.
        delimiter: What stands between the elements in a list's text: a comma, but for a few types.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None
    element: DataType | None = None
    delimiter: str = ","

    @classmethod
    def list_of(cls, element: DataType, *, depth: int = 1, delimiter: str = ",") -> DataType:
        """Lists of `element`, nested `depth` times: an array with that many dimensions."""
        nested = element
        for _ in range(depth):
            nested = DataType(Kind.LIST, element=nested, delimiter=delimiter)
        return nested

    @property
    def carrier(self) -> pl.DataType:
        """The dtype in frames of changes; every value fits."""
        if self.element is not None:
            return pl.List(self.element.carrier)
        return _FORMS[self.kind][0]

    @property
    def natural(self) -> pl.DataType:
        """Polars' own dtype for the type; dates far away, infinities and NaN decimals do not fit."""
        if self.element is not None:
            return pl.List(self.element.natural)
        if self.kind is Kind.DECIMAL:
            return pl.Decimal(self.precision, self.scale or 0)
        return _FORMS[self.kind][1]

    @property
    def duckdb(self) -> str:
        """The column's type in DuckDB."""
        if self.element is not None:
            return f"{self.element.duckdb}[]"
        if self.kind is Kind.DECIMAL:
            return f"DECIMAL({self.precision},{self.scale})"
        return _FORMS[self.kind][2]

    @property
    def is_nested(self) -> bool:
        """Whether a value holds others: a list or a map."""
        return self.kind in (Kind.LIST, Kind.MAP)

    @property
    def leaf(self) -> DataType:
        """What lists are made of in the end; the type itself where it is no list."""
        return self if self.element is None else self.element.leaf

    @property
    def depth(self) -> int:
        """How many lists are around a leaf."""
        return 0 if self.element is None else 1 + self.element.depth

    def __str__(self) -> str:
        if self.element is not None:
            return f"List{{{self.element}}}"
        if self.kind is Kind.DECIMAL:
            return f"Decimal{{{self.precision},{self.scale}}}"
        return "Map{String,String}" if self.kind is Kind.MAP else self.kind.value

    def to_dict(self) -> dict[str, Any]:
        """The type in JSON's own types, for `from_dict`."""
        found: dict[str, Any] = {"kind": self.kind.value, "precision": self.precision, "scale": self.scale}
        if self.element is not None:
            found |= {"element": self.element.to_dict(), "delimiter": self.delimiter}
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """The type that `to_dict` described. Lists came later: their keys may be missing."""
        element = stored.get("element")
        return cls(
            Kind(stored["kind"]),
            stored["precision"],
            stored["scale"],
            None if element is None else cls.from_dict(element),
            stored.get("delimiter", ","),
        )
