"""The core types: the values of a column, with the polars dtypes and the DuckDB type that hold them.

Two polars dtypes belong to each type. The *carrier* dtype is that of frames of changes. Every PostgreSQL value fits:
`infinity`, `0044-03-15 BC` or `24:00:00` are carried as text. The *natural* dtype is polars' own dtype for the type
(`Datetime`, `Decimal`). `ChangeBatch.typed()` casts to the natural dtype and raises an error for values that do not
fit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import polars as pl


class Kind(StrEnum):
    """The kinds of values, with the names of the connector's type table."""

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


#: Kind -> DuckDB type. Decimals add precision and scale. Lists have the type of their elements.
_DUCKDB: dict[Kind, str] = {
    Kind.BOOLEAN: "BOOLEAN",
    Kind.INT16: "SMALLINT",
    Kind.INT32: "INTEGER",
    Kind.INT64: "BIGINT",
    Kind.UINT32: "UINTEGER",
    Kind.FLOAT32: "FLOAT",
    Kind.FLOAT64: "DOUBLE",
    Kind.DECIMAL: "DECIMAL",
    Kind.STRING: "VARCHAR",
    Kind.BYTES: "BLOB",
    Kind.JSON: "JSON",
    Kind.JSONB: "JSON",
    Kind.UUID: "UUID",
    Kind.DATE: "DATE",
    Kind.TIME: "TIME",
    Kind.TIMETZ: "TIMETZ",
    Kind.TIMESTAMP: "TIMESTAMP",
    Kind.TIMESTAMPTZ: "TIMESTAMPTZ",
    Kind.INTERVAL: "INTERVAL",
    Kind.MAP: "MAP(VARCHAR, VARCHAR)",
}


@dataclass(frozen=True, slots=True)
class DataType:
    """The type of a column.

    >>> str(DataType(Kind.DECIMAL, 12, 2)), DataType(Kind.DECIMAL, 12, 2).duckdb
    ('Decimal{12,2}', 'DECIMAL(12,2)')
    >>> matrix = DataType.list_of(DataType(Kind.INT32), depth=2)
    >>> str(matrix), matrix.duckdb, matrix.carrier
    ('List{List{Int32}}', 'INTEGER[][]', List(List(Int32)))
    >>> DataType.from_dict(matrix.to_dict()) == matrix
    True

    Attributes:
        kind: The kind of values.
        precision: Of a decimal: the number of digits.
        scale: Of a decimal: the number of digits after the decimal point.
        element: Of a list: the type of the elements.
        delimiter: Of a list: the separator of elements in its text, a comma for almost all types.
    """

    kind: Kind
    precision: int | None = None
    scale: int | None = None
    element: DataType | None = None
    delimiter: str = ","

    @classmethod
    def list_of(cls, element: DataType, *, depth: int = 1, delimiter: str = ",") -> DataType:
        """Return the type of an array with `depth` dimensions: lists of `element`, nested `depth` times."""
        nested = element
        for _ in range(depth):
            nested = DataType(Kind.LIST, element=nested, delimiter=delimiter)
        return nested

    @property
    def carrier(self) -> pl.DataType:
        """The dtype in frames of changes. Every value fits."""
        if self.element is not None:
            return _list(self.element.carrier)
        return _dtypes()[self.kind][0]

    @property
    def natural(self) -> pl.DataType:
        """The dtype that polars has for the type. Infinite and very distant dates, and NaN decimals, do not fit."""
        if self.element is not None:
            return _list(self.element.natural)
        if self.kind is Kind.DECIMAL:
            return _decimal(self.precision, self.scale or 0)
        return _dtypes()[self.kind][1]

    @property
    def duckdb(self) -> str:
        """The type of the column in DuckDB."""
        if self.element is not None:
            return f"{self.element.duckdb}[]"
        if self.kind is Kind.DECIMAL:
            return f"DECIMAL({self.precision},{self.scale})"
        return _DUCKDB[self.kind]

    @property
    def is_nested(self) -> bool:
        """Whether values are lists or maps."""
        return self.kind in (Kind.LIST, Kind.MAP)

    @property
    def leaf(self) -> DataType:
        """The type of the innermost elements of a list; the type itself if it is not a list."""
        return self if self.element is None else self.element.leaf

    @property
    def depth(self) -> int:
        """The number of dimensions of a list; 0 if the type is not a list."""
        return 0 if self.element is None else 1 + self.element.depth

    def __str__(self) -> str:
        if self.element is not None:
            return f"List{{{self.element}}}"
        if self.kind is Kind.DECIMAL:
            return f"Decimal{{{self.precision},{self.scale}}}"
        return "Map{String,String}" if self.kind is Kind.MAP else self.kind.value

    def to_dict(self) -> dict[str, Any]:
        """Return the type as JSON values, for `from_dict`."""
        found: dict[str, Any] = {"kind": self.kind.value, "precision": self.precision, "scale": self.scale}
        if self.element is not None:
            found |= {"element": self.element.to_dict(), "delimiter": self.delimiter}
        return found

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the type that `to_dict` has stored. Older versions stored no keys of lists."""
        element = stored.get("element")
        return cls(
            Kind(stored["kind"]),
            stored["precision"],
            stored["scale"],
            None if element is None else cls.from_dict(element),
            stored.get("delimiter", ","),
        )


@functools.cache
def _dtypes() -> dict[Kind, tuple[pl.DataType, pl.DataType]]:
    """Return the carrier and the natural dtype of each kind; decimals add precision and scale.

    polars has no times with a time zone and no intervals with months: their natural dtype is String. It has no maps.
    """
    import polars as pl  # not at the top: a window without changes does not need it

    pairs = pl.List(pl.Struct({"key": pl.String(), "value": pl.String()}))
    return {
        Kind.BOOLEAN: (pl.Boolean(), pl.Boolean()),
        Kind.INT16: (pl.Int16(), pl.Int16()),
        Kind.INT32: (pl.Int32(), pl.Int32()),
        Kind.INT64: (pl.Int64(), pl.Int64()),
        Kind.UINT32: (pl.UInt32(), pl.UInt32()),
        Kind.FLOAT32: (pl.Float32(), pl.Float32()),
        Kind.FLOAT64: (pl.Float64(), pl.Float64()),
        Kind.DECIMAL: (pl.String(), pl.Decimal(38, 0)),
        Kind.STRING: (pl.String(), pl.String()),
        Kind.BYTES: (pl.Binary(), pl.Binary()),
        Kind.JSON: (pl.String(), pl.String()),
        Kind.JSONB: (pl.String(), pl.String()),
        Kind.UUID: (pl.String(), pl.String()),
        Kind.DATE: (pl.String(), pl.Date()),
        Kind.TIME: (pl.String(), pl.Time()),
        Kind.TIMETZ: (pl.String(), pl.String()),
        Kind.TIMESTAMP: (pl.String(), pl.Datetime("us")),
        Kind.TIMESTAMPTZ: (pl.String(), pl.Datetime("us", "UTC")),
        Kind.INTERVAL: (pl.String(), pl.String()),
        Kind.MAP: (pairs, pairs),
    }


def _list(element: pl.DataType) -> pl.DataType:
    import polars as pl

    return pl.List(element)


def _decimal(precision: int | None, scale: int) -> pl.DataType:
    import polars as pl

    return pl.Decimal(precision, scale)
