"""From carrier dtypes to DuckDB's types."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from dbmazz_core.datatypes import DataType, Kind
from dbmazz_core.engine.changelog import OLD
from dbmazz_core.engine.effect import ORIGIN
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import quote_identifier

_DATES = (Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)
#: PostgreSQL puts BC at the end, DuckDB in brackets behind the date. Left as it is, DuckDB 1.4 reads the date, and
#: DuckDB 2.0 the timestamp, as one of our era without a word (tried).
_BC = r"^(\S+)(.*) BC$"
_BC_FOR_DUCKDB = "${1} (BC)${2}"

#: Types whose carrier is text that DuckDB casts; all others arrive as they are.
_CAST = (Kind.DECIMAL, Kind.JSON, Kind.JSONB, Kind.UUID, Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ)


def arrow_table(schema: TableSchema, frame: pl.DataFrame) -> pa.Table:
    """The frame as Arrow, sharing its memory, with dates written so that DuckDB reads them."""
    kinds = {prefix + column.name: column.type.kind for prefix in ("", ORIGIN, OLD) for column in schema.columns}
    fixed = [
        series.str.replace(_BC, _BC_FOR_DUCKDB)
        for series in frame
        if kinds.get(series.name) in _DATES and series.str.ends_with(" BC").any()
    ]
    return frame.with_columns(fixed).to_arrow(compat_level=pl.CompatLevel.newest())


def needs_cast(type: DataType) -> bool:
    """Whether DuckDB casts the carrier's text."""
    return type.kind in _CAST


def expression(name: str, type: DataType, *, source: str = "s") -> str:
    """SQL for a column's value in DuckDB's type, from the frame `source`."""
    column = f"{source}.{quote_identifier(name)}"
    return f"CAST({column} AS {type.duckdb})" if needs_cast(type) else column
