"""Detect rows that somebody deleted from the destination or added to it, by the row counts of statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dbmazz_core.connectors.sinks.duckdb_sql.sql import DERIVED, ROW, SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements
from dbmazz_core.connectors.sinks.duckdb_sql.table_sql import frame_value
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, XID
from dbmazz_core.table_ref import quote_literal

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class _Mismatch:
    """A row that the table does not hold the expected number of times.

    Attributes:
        values: Its columns and values, for messages.
        commit_lsn: Commit LSN of the change.
        xid: Transaction id of the change.
        found: How many times the table holds it.
        expected: How many times the table should hold it.
    """

    values: str
    commit_lsn: int
    xid: int
    found: int
    expected: int


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """Compares the row count of a statement with the expected count: in a complete table every change finds its row.

    Attributes:
        complete: Whether the table is known to hold exactly the source's rows; otherwise the check does nothing.
        unmodified: Whether the open transaction has not modified the table yet. Only then a query on the committed data
            can find the row that differs.
        live: Condition for the rows of the table that count.
    """

    complete: bool
    unmodified: bool
    live: str = "true"

    def verify(
        self,
        found: int,
        statements: Statements,
        rows: pl.DataFrame,
        places: Sequence[int],
        *,
        count_column: str | None = None,
    ) -> None:
        """Compare the number of rows that a statement changed with the number that the frame asks for.

        Args:
            found: How many rows the statement changed.
            statements: The table.
            rows: The frame, with `COMMIT_LSN` and `XID`.
            places: Columns that identify a row: the key, or all columns of a table without a key.
            count_column: Column of the frame with the expected count of each row; None: each row once.

        Raises:
            DestinationConflict: If the numbers differ.
        """
        expected = len(rows) if count_column is None else int(rows[count_column].sum())
        if not self.complete or found == expected:
            return
        table = statements.sql.schema.table
        mismatch = _first_mismatch(statements, rows, places, count_column, self.live) if self.unmodified else None
        if mismatch is None:
            lsn, xid = (rows[name][0] for name in (COMMIT_LSN, XID))
            row = (
                f"of {expected} rows that this flush changes, the first in transaction {xid}, committed at {Lsn(lsn)},"
            )
            state = f"{found} were found"
        else:
            row = (
                f"the row with {mismatch.values} that transaction {mismatch.xid} changes, committed at "
                f"{Lsn(mismatch.commit_lsn)},"
            )
            times, instead_of = _times(mismatch.found), _times(mismatch.expected)
            state = "is missing" if not mismatch.found else f"exists {times} instead of {instead_of}"
        raise DestinationConflict(
            f"{table} in {statements.path} was changed by hand: {row} {state}; nothing of this flush was applied to "
            "the table",
            object=table,
            remedy=f"undo the change in DuckDB, or re-snapshot the table: dbmazz snapshot --tables '{table}'",
        )


def _first_mismatch(
    statements: Statements, rows: pl.DataFrame, places: Sequence[int], count_column: str | None, live: str
) -> _Mismatch | None:
    """Return the first row of the frame that the committed table does not hold the expected number of times."""
    sql = statements.sql
    shown = ", ".join(
        f"{quote_literal(f'{sql.schema.names[place]} = ')} || left(coalesce({frame_value(place)}::VARCHAR, 'NULL'), 80)"
        for place in places
    )
    others = [COMMIT_LSN, XID, *([] if count_column is None else [count_column])]
    expected = "1" if count_column is None else f"{SOURCE}.{count_column}"
    found = f"coalesce({DERIVED}._dbmazz_found, 0)"
    row = statements.first_committed_row(
        f"WITH {SOURCE} AS MATERIALIZED (FROM {sql.source(places, *others, numbered=True)}), "
        f"{DERIVED} AS (SELECT {SOURCE}.{ROW} AS {ROW}, count(*) AS _dbmazz_found FROM {sql.target} "
        f"JOIN {SOURCE} ON {sql.identical(places)} WHERE {live} GROUP BY {SOURCE}.{ROW}) "
        f"SELECT concat_ws(', ', {shown}), {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID}, {found}, {expected} "
        f"FROM {SOURCE} LEFT JOIN {DERIVED} ON {SOURCE}.{ROW} = {DERIVED}.{ROW} "
        f"WHERE {found} {'<>' if count_column is None else '<'} {expected} LIMIT 1",
        rows,
    )
    return None if row is None else _Mismatch(*row)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
