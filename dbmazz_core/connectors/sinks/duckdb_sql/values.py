"""Convert values from frames to DuckDB's types.

DuckDB casts values that a frame holds as text, also in lists. `arrow_table` first rewrites the few texts that DuckDB
reads wrongly or not at all. A column may also hold the values themselves, in polars' natural dtype: the cast then
changes nothing. The dtype of the column tells which of the two it holds (docs/decisions/encoding-by-dtype.md).
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from dbmazz_core.model.datatypes import DataType, Kind
from dbmazz_core.model.frame_columns import old_column, origin_column, value_column
from dbmazz_core.model.schema import TableSchema

_DATES = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
_REWRITTEN = (*_DATES, Kind.INTERVAL)
#: PostgreSQL writes BC at the end, DuckDB "(BC)" after the date. Without the rewrite, DuckDB 1.4 reads such a date, and
#: DuckDB 2.0 such a timestamp, as AD without an error (tried).
_BC = r"^(\S+)(.*) BC$"
_BC_FOR_DUCKDB = "${1} (BC)${2}"
#: PostgreSQL writes a plus sign after a negative part of an interval; DuckDB does not accept it. DuckDB 1.4 accepts at
#: most some million hours in the form hh:mm:ss, but any number as "N hours" (tried).
_MANY_HOURS = r"(-?)(\d{5,}):(\d\d):(\d\d(?:\.\d+)?)"
_MANY_HOURS_FOR_DUCKDB = "${1}${2} hours ${1}${3} minutes ${1}${4} seconds"

#: Kinds whose carrier is text that DuckDB casts; the carrier of every other kind needs no cast.
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


def arrow_table(schema: TableSchema, frame: pl.DataFrame) -> pa.Table:
    """Return the frame as Arrow with dates and intervals in a form that DuckDB reads.

    Columns without a rewritten value share the frame's memory.

    Args:
        schema: The table.
        frame: Columns in carrier dtypes, named by `value_column`, `origin_column` and `old_column`; others stay.
    """
    types = {
        name(place): column.type
        for name in (value_column, origin_column, old_column)
        for place, column in enumerate(schema.columns)
    }
    rewritten = [
        _rewritten(pl.col(name), types[name])
        for name in frame.columns  # not its series: polars copies the value of a single row to make one
        if name in types and types[name].leaf.kind in _REWRITTEN and _needs_rewriting(frame[name], types[name])
    ]
    # `DataFrame.to_arrow` copies the texts, twice; the C stream does not.
    # So does `with_columns` with a single row.
    return pa.RecordBatchReader.from_stream(frame.with_columns(rewritten) if rewritten else frame).read_all()


def _needs_rewriting(values: pl.Series, type: DataType) -> bool:
    """Return whether DuckDB would misread a text in the column, or in its lists."""
    for _ in range(type.depth):
        values = values.explode()
    if values.dtype != pl.String:  # the values themselves
        return False
    if type.leaf.kind is Kind.INTERVAL:
        return bool((values.str.contains("+", literal=True) | values.str.contains(_MANY_HOURS)).any())
    return bool(values.str.ends_with(" BC").any())


def _rewritten(values: pl.Expr, type: DataType) -> pl.Expr:
    """Return the column's texts, or the texts in its lists, in a form that DuckDB reads."""
    if type.element is not None:
        return values.list.eval(_rewritten(pl.element(), type.element))
    if type.kind is Kind.INTERVAL:
        return values.str.replace_all("+", "", literal=True).str.replace(_MANY_HOURS, _MANY_HOURS_FOR_DUCKDB)
    return values.str.replace(_BC, _BC_FOR_DUCKDB)


def needs_cast(type: DataType) -> bool:
    """Return whether DuckDB must cast the carrier's text, or the texts of a list."""
    return type.leaf.kind in _CAST


def cast_expression(column: str, type: DataType) -> str:
    """Return SQL that converts a value from its carrier dtype to DuckDB's type.

    Args:
        column: SQL for the column of the frame.
        type: The value's type.
    """
    if type.leaf.kind is Kind.MAP:
        return _map_expression(column, type, 0)
    return f"CAST({column} AS {type.duckdb})" if needs_cast(type) else column


def _map_expression(value: str, type: DataType, level: int) -> str:
    """Return SQL that converts a carrier's list of entries, or lists of them, to MAP; `level`: lambdas around it."""
    if type.element is None:
        return f"map_from_entries({value})"
    element = f"_dbmazz_e{level}"
    return f"list_transform({value}, lambda {element}: {_map_expression(element, type.element, level + 1)})"


def unrepresentable_text(value: str, type: DataType) -> str:
    """Return SQL for the first text in `value` that DuckDB's type cannot hold, NULL if it holds all.

    Args:
        value: SQL for a carrier's text, or lists of texts.
        type: The value's type; `needs_cast` is true.
    """
    leaf = type.leaf.duckdb
    if not type.depth:
        return f"CASE WHEN TRY_CAST({value} AS {leaf}) IS NULL THEN {value} END"
    for _ in range(type.depth - 1):
        value = f"flatten({value})"
    cannot_cast = f"_dbmazz_e IS NOT NULL AND TRY_CAST(_dbmazz_e AS {leaf}) IS NULL"
    return f"list_filter({value}, lambda _dbmazz_e: {cannot_cast})[1]"


def same_text(left: str, right: str, type: DataType) -> str | None:
    """Return SQL for whether two equal values also have the same text; None if equal values of the type always have.

    In DuckDB, as in PostgreSQL, 0 equals -0 and a month equals 30 days.

    Args:
        left: SQL for a value.
        right: SQL for the value to compare.
        type: The type of both.
    """
    kind = type.leaf.kind
    if kind not in (Kind.FLOAT32, Kind.FLOAT64, Kind.INTERVAL):
        return None
    if type.kind in (Kind.FLOAT32, Kind.FLOAT64):
        return f"({left} IS NULL OR {left} <> 0 OR signbit({left}) = signbit({right}))"
    return f"CAST({left} AS VARCHAR) IS NOT DISTINCT FROM CAST({right} AS VARCHAR)"
