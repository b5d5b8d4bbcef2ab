"""Names in this sink's SQL, and running a statement that reads a frame.

No name of ours may stand for a column of the user's, nor the other way round, whatever the user's columns, tables and
schemas are called. So, in every statement about a user's table:

- Names of ours begin with `_dbmazz_`, as no column of the user's does (`names.conflicts`): aliases, marks, lambda
  parameters. Columns of frames, and of what is made of them, are named by their places (`frame_columns`).
- Every column is qualified by an alias, which is ours: `_dbmazz_t."id"` can be nothing but the table's column `id`, and
  `_dbmazz_s.c0` nothing but the frame's first. Whether DuckDB takes an unqualified name for a column, an alias of the
  same SELECT or a pseudo-column, and a qualifier for a table or a column with fields, depends on the columns there are.
- The user's names are always quoted. There is no `*` beside a join, no USING, no GROUP BY ALL.
- A table is named by database, schema and name (`names.qualified`).

One name breaks through: a column `rowid` hides the pseudo-column of that name, in whatever case it is written, also
behind an alias (tried, 1.4 and 2.0). `Statements.row_id` knows.
"""

from __future__ import annotations

from typing import Any

import duckdb
import numpy.typing as npt
import pyarrow as pa

#: Aliases of the user's table; of the frame in DuckDB's types; of the frame as it is; of what is made of them.
TARGET, SOURCE, RAW, MADE = "_dbmazz_t", "_dbmazz_s", "_dbmazz_f", "_dbmazz_m"
#: Number of a row of a frame.
ROW = "_dbmazz_row"
#: How statements read the frame: the name of a local variable of `query`. DuckDB looks for variables where it finds no
#: table; in its own schema nobody can make one, but `main` may be the user's (tried, 1.4 and 2.0).
FRAME = "system.main._dbmazz_frame"


def query(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    frame: pa.Table | None = None,
    parameters: list[object] | None = None,
) -> list[tuple[Any, ...]]:
    """Run a statement that reads `frame` as `FRAME`; all of its rows."""
    # DuckDB finds it among the variables here. Registered, it would stay in memory until the transaction's end, and
    # with it all pieces of a large one: dropped views do (tried, 1.4 and 2.0).
    _dbmazz_frame = frame
    # Read to the end: a result that is not blocks its connection (DuckDB 2.0).
    return connection.execute(sql, parameters).fetchall()


def query_columns(connection: duckdb.DuckDBPyConnection, sql: str, frame: pa.Table) -> dict[str, npt.NDArray[Any]]:
    """The same, by columns."""
    _dbmazz_frame = frame
    return connection.execute(sql).fetchnumpy()
