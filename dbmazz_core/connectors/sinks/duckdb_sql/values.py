"""From carrier dtypes to DuckDB's types.

What carriers hold as text DuckDB casts, inside lists too; the few texts that it would read wrongly, or not at all, are
written in its own way first.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import old_column, origin_column, value_column
from dbmazz_core.model.schema import TableSchema

_DATES = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
#: PostgreSQL puts BC at the end, DuckDB in brackets behind the date. Left as it is, DuckDB 1.4 reads the date, and
#: DuckDB 2.0 the timestamp, as one of our era without a word (tried).
_BC = r"^(\S+)(.*) BC$"
_BC_FOR_DUCKDB = "${1} (BC)${2}"
#: Behind a negative part PostgreSQL writes a plus, which DuckDB does not read; DuckDB 1.4 reads no more than some
#: million hours of a clock, but any number of hours by that name (tried).
_LONG_CLOCK = r"(-?)(\d{5,}):(\d\d):(\d\d(?:\.\d+)?)"
_LONG_CLOCK_FOR_DUCKDB = "${1}${2} hours ${1}${3} minutes ${1}${4} seconds"

#: Types whose carrier is text that DuckDB casts; all others arrive as they are.
_CAST = (
    Kind.DECIMAL,
    Kind.JSON,
    Kind.JSONB,
    Kind.UUID,
    Kind.DATE,
    Kind.TIME,
    Kind.TIMETZ,
    Kind.TIMESTAMP,
    Kind.TIMESTAMPTZ,
    Kind.INTERVAL,
)
#: DuckDB's own names of types that it also knows by a shorter one.
_LONG_NAMES = {Kind.TIMESTAMPTZ: "TIMESTAMP WITH TIME ZONE", Kind.TIMETZ: "TIME WITH TIME ZONE"}


def arrow_table(schema: TableSchema, frame: pl.DataFrame) -> pa.Table:
    """The frame as Arrow, sharing its memory, with dates and intervals written so that DuckDB reads them."""
    types = {
        name(place): column.type
        for name in (value_column, origin_column, old_column)
        for place, column in enumerate(schema.columns)
    }
    fixed = [
        _rewritten(pl.col(series.name), types[series.name])
        for series in frame
        if series.name in types and _needs_rewriting(series, types[series.name])
    ]
    return frame.with_columns(fixed).to_arrow(compat_level=pl.CompatLevel.newest())


def _needs_rewriting(values: pl.Series, type: DataType) -> bool:
    if type.leaf.kind not in (*_DATES, Kind.INTERVAL):
        return False
    for _ in range(type.depth):
        values = values.explode()
    if type.leaf.kind is Kind.INTERVAL:
        return bool((values.str.contains("+", literal=True) | values.str.contains(_LONG_CLOCK)).any())
    return bool(values.str.ends_with(" BC").any())


def _rewritten(values: pl.Expr, type: DataType) -> pl.Expr:
    if type.element is not None:
        return values.list.eval(_rewritten(pl.element(), type.element))
    if type.kind is Kind.INTERVAL:
        return values.str.replace_all("+", "", literal=True).str.replace(_LONG_CLOCK, _LONG_CLOCK_FOR_DUCKDB)
    return values.str.replace(_BC, _BC_FOR_DUCKDB)


def type_name(type: DataType) -> str:
    """The type as DuckDB's catalog spells it.

    >>> type_name(DataType.list_of(DataType(Kind.TIMESTAMPTZ)))
    'TIMESTAMP WITH TIME ZONE[]'
    """
    if type.element is not None:
        return f"{type_name(type.element)}[]"
    return _LONG_NAMES.get(type.kind, type.duckdb)


def needs_cast(type: DataType) -> bool:
    """Whether DuckDB casts the carrier's text, or that of a list's elements."""
    return type.leaf.kind in _CAST


def expression(column: str, type: DataType) -> str:
    """SQL for the value of a frame's column in DuckDB's type.

    Args:
        column: SQL for the column.
        type: Of the value.
    """
    if type.leaf.kind is Kind.MAP:
        return _maps(column, type, 0)
    return f"CAST({column} AS {type.duckdb})" if needs_cast(type) else column


def _maps(value: str, type: DataType, level: int) -> str:
    if type.element is None:
        return f"map_from_entries({value})"
    element = f"_dbmazz_e{level}"
    return f"list_transform({value}, lambda {element}: {_maps(element, type.element, level + 1)})"


def misfit(value: str, type: DataType) -> str:
    """SQL for the text within `value` that DuckDB's type cannot hold, NULL if there is none; for `needs_cast` types."""
    leaf = type.leaf.duckdb
    if not type.depth:
        return f"CASE WHEN TRY_CAST({value} AS {leaf}) IS NULL THEN {value} END"
    for _ in range(type.depth - 1):
        value = f"flatten({value})"
    is_misfit = f"_dbmazz_e IS NOT NULL AND TRY_CAST(_dbmazz_e AS {leaf}) IS NULL"
    return f"list_filter({value}, lambda _dbmazz_e: {is_misfit})[1]"


def alike(left: str, right: str, type: DataType) -> str | None:
    """SQL for whether two equal values are the same in writing, too; None where they always are.

    To DuckDB, as to PostgreSQL, 0 equals -0 and a month equals 30 days.
    """
    kind = type.leaf.kind
    if kind not in (Kind.FLOAT32, Kind.FLOAT64, Kind.INTERVAL):
        return None
    if type.kind in (Kind.FLOAT32, Kind.FLOAT64):
        return f"({left} IS NULL OR {left} <> 0 OR signbit({left}) = signbit({right}))"
    return f"CAST({left} AS VARCHAR) IS NOT DISTINCT FROM CAST({right} AS VARCHAR)"
