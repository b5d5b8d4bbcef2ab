"""SQL fragments for statements about one table. Module `sql` explains the aliases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.connectors.sinks.duckdb_sql.sql import CARRIER, FRAME, ROW, SOURCE, TARGET
from dbmazz_core.connectors.sinks.duckdb_sql.values import cast_expression, same_text
from dbmazz_core.model.frame_columns import origin_column, value_column
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.table_ref import quote_identifier as quoted


class TableSql:
    """SQL fragments for statements that join a table, `TARGET`, with a frame, `SOURCE`.

    Methods take columns as places in the schema.

    Args:
        schema: The table.
        table: Its quoted name, with database and schema.

    Attributes:
        schema: The table.
        table: Its quoted name, with database and schema.
        target: `table` with the alias `TARGET`, for FROM.
        places: All columns of the schema.
        key: The key columns.
        types: The columns' types.
        on_key: Condition that the table's row and the frame's row have equal keys.
    """

    def __init__(self, schema: TableSchema, table: str) -> None:
        self.schema = schema
        self.table = table
        self.target = f"{table} AS {TARGET}"
        self.places = range(len(schema.columns))
        self.key = schema.key_places
        self.types = [column.type for column in schema.columns]
        self.on_key = " AND ".join(f"{self.table_value(place)} = {frame_value(place)}" for place in self.key)

    def name(self, place: int) -> str:
        """Return the quoted name of a column, unqualified, for a column list or SET."""
        return quoted(self.schema.names[place])

    def names(self, places: Iterable[int] | None = None) -> str:
        """Return a column list; None: all columns."""
        return ", ".join(map(self.name, self.places if places is None else places))

    def table_value(self, place: int) -> str:
        """Return the column of the table's row."""
        return f"{TARGET}.{self.name(place)}"

    def assignments(self, places: Iterable[int]) -> list[str]:
        """Return the assignments of SET that give columns the frame's values."""
        return [f"{self.name(place)} = {frame_value(place)}" for place in places]

    def values(self) -> str:
        """Return the frame's values for all columns, in the order of `names()`."""
        return ", ".join(map(frame_value, self.places))

    def source(self, places: Iterable[int], *others: str, origins: Iterable[int] = (), numbered: bool = False) -> str:
        """Return the frame as the derived table `SOURCE`, with the table's columns in DuckDB's types.

        Args:
            places: Columns of the table to select.
            others: Names of other columns of the frame to select, without a cast.
            origins: Key columns to select as `origin_column`: the key under which the row was before.
            numbered: Whether to add a number, `ROW`, that identifies a row. Its order has no meaning.
        """
        values = [self._cast_column(value_column(place), place) for place in places]
        values += [self._cast_column(origin_column(place), place) for place in origins]
        values += [f"{CARRIER}.{name} AS {name}" for name in others]
        values += [f"row_number() OVER () AS {ROW}"] if numbered else []
        return f"(SELECT {', '.join(values)} FROM {FRAME} AS {CARRIER}) AS {SOURCE}"

    def cast(self, column: str, place: int) -> str:
        """Return a column of the frame, `CARRIER`, converted to the DuckDB type of the table's column."""
        return cast_expression(f"{CARRIER}.{column}", self.types[place])

    def _cast_column(self, column: str, place: int) -> str:
        """Return `cast` under the column's own name, for a SELECT list."""
        return f"{self.cast(column, place)} AS {column}"

    def identical(self, places: Sequence[int]) -> str:
        """Return the condition that columns of both rows are identical: NULL is identical to NULL, 0 is not to -0."""
        conditions = [f"{self.table_value(place)} IS NOT DISTINCT FROM {frame_value(place)}" for place in places]
        conditions += filter(None, (self.same_text(place) for place in places))
        return " AND ".join(conditions)

    def same_text(self, place: int) -> str | None:
        """Return the condition that equal values of a column have the same text; see `values.same_text`."""
        return same_text(self.table_value(place), frame_value(place), self.types[place])

    @property
    def row_id(self) -> str | None:
        """DuckDB's row id of the table's row; None if a column of the table hides it (module `sql`)."""
        return None if any(fold(name) == "rowid" for name in self.schema.names) else f"{TARGET}.rowid"


def frame_value(place: int) -> str:
    """Return the column of the frame's row, in DuckDB's type."""
    return f"{SOURCE}.{value_column(place)}"
