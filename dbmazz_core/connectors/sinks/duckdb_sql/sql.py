"""Aliases in this package's SQL, and functions that run a statement over a frame.

A name of dbmazz must never be resolved as a name of the user, nor the other way round, for all names of columns, tables
and schemas. Every statement about a user's table therefore follows these rules:

- dbmazz's names begin with `_dbmazz_`, and a captured column must not (`names.name_conflicts`): aliases, marks, lambda
  parameters. Columns of frames, and columns computed from them, are named by their places (`frame_columns`).
- Every column is qualified by an alias of dbmazz: `_dbmazz_t."id"` can only be the column `id` of the table, and
  `_dbmazz_s.c0` only the frame's first column. DuckDB resolves an unqualified name as a column, an alias of the same
  SELECT or a pseudo-column, and a qualifier as a table or a column with fields, depending on the columns that exist.
- The user's names are always quoted. Joins have no `*` and no USING; GROUP BY has no ALL.
- A table is named by database, schema and name (`names.qualified`).

One name breaks these rules: a column `rowid`, in upper or lower case, hides the pseudo-column of that name, also behind
an alias (tried, 1.4 and 2.0). `TableSql.row_id` handles it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

#: Alias of the user's table.
TARGET = "_dbmazz_t"
#: Alias of the frame with its values in DuckDB's types.
SOURCE = "_dbmazz_s"
#: Alias of the frame with its values in carrier dtypes.
CARRIER = "_dbmazz_f"
#: Alias of a derived table (a subquery in FROM) or temporary table that a statement computes from them.
DERIVED = "_dbmazz_m"
#: Column with the number of a frame's row.
ROW = "_dbmazz_row"
#: The frame in FROM: a local variable of `query`. DuckDB looks for a Python variable if it finds no table of the name.
#: The schema `system.main` cannot hold a user's table; `main` can be the user's (tried, 1.4 and 2.0).
FRAME = "system.main._dbmazz_frame"


def query(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    frame: pa.Table | None = None,
    parameters: list[object] | None = None,
) -> list[tuple[Any, ...]]:
    """Run a statement that reads `frame` as `FRAME`, and return all rows of its result."""
    # DuckDB reads this local variable. A registered frame would stay in memory until the end of the transaction, with
    # all frames of a large transaction: dropped views do (tried, 1.4 and 2.0).
    _dbmazz_frame = frame
    # Fetch everything: an unread result blocks its connection (DuckDB 2.0).
    return connection.execute(sql, parameters).fetchall()


def query_columns(connection: duckdb.DuckDBPyConnection, sql: str, frame: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """Run a statement that reads `frame` as `FRAME`, and return its result as one array per column."""
    _dbmazz_frame = frame
    return connection.execute(sql).fetchnumpy()
