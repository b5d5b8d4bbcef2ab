"""Rows that somebody deleted from the destination, or added to it: found by counting what statements change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.sql import MADE, ROW, SOURCE
from dbmazz_core.connectors.sinks.duckdb_sql.statements import Statements, sent
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.frame_columns import COMMIT_LSN, XID
from dbmazz_core.table_ref import quote_literal


@dataclass(frozen=True, slots=True)
class Expected:
    """Counts rows of a table that is known to hold exactly the source's: every change finds its row, once.

    Attributes:
        complete: Whether the table is known to; otherwise nothing is checked.
        untouched: Whether the open transaction has done nothing to the table before, so that what is committed can
            tell which row it is.
        live: Which rows of the table count.
    """

    complete: bool
    untouched: bool
    live: str = "true"

    def check(
        self, found: int, statements: Statements, rows: pl.DataFrame, places: Sequence[int], *, times: str | None = None
    ) -> None:
        """Compare a statement's count with the rows that it was for.

        Args:
            found: How many it changed.
            statements: Of the table.
            rows: The frame.
            places: Columns by which rows are found: the key, or all of a table without one.
            times: Column of the frame that says how often each is expected; None: once.

        Raises:
            DestinationConflict: If they differ.
        """
        wanted = len(rows) if times is None else int(rows[times].sum())
        if not self.complete or found == wanted:
            return
        table = statements.schema.table
        which = self._which(statements, rows, places, times) if self.untouched else None
        if which is None:
            lsn, xid = (rows[name][0] for name in (COMMIT_LSN, XID))
            first = f"in transaction {xid}, committed at {Lsn(lsn)}"
            row = f"of {wanted} rows that this flush changes, the first {first},"
            have = f"{found} were found"
        else:
            values, lsn, xid, count, expected = which
            row = f"the row with {values} that transaction {xid} changes, committed at {Lsn(lsn)},"
            have = "is missing" if not count else f"is there {_times(count)} instead of {_times(expected)}"
        raise DestinationConflict(
            f"{table} in {statements.path} was changed by hand: {row} {have}; nothing of this flush was applied",
            object=str(table),
            remedy=f"undo the change, or copy the table anew: dbmazz snapshot --tables '{table}'",
        )

    def _which(
        self, do: Statements, rows: pl.DataFrame, places: Sequence[int], times: str | None
    ) -> tuple[str, int, int, int, int] | None:
        """The first row whose count does not fit: its values, commit LSN, transaction, count and expected count."""
        shown = ", ".join(
            f"{quote_literal(f'{do.schema.names[place]} = ')} || left(coalesce({sent(place)}::VARCHAR, 'NULL'), 80)"
            for place in places
        )
        marks = [COMMIT_LSN, XID, *([] if times is None else [times])]
        wanted = "1" if times is None else f"{SOURCE}.{times}"
        count = f"coalesce({MADE}._dbmazz_found, 0)"
        return do.committed(
            f"WITH {SOURCE} AS MATERIALIZED (FROM {do.source(places, *marks, numbered=True)}), "
            f"{MADE} AS (SELECT {SOURCE}.{ROW} AS {ROW}, count(*) AS _dbmazz_found FROM {do.target} "
            f"JOIN {SOURCE} ON {do.equal(places)} WHERE {self.live} GROUP BY {SOURCE}.{ROW}) "
            f"SELECT concat_ws(', ', {shown}), {SOURCE}.{COMMIT_LSN}, {SOURCE}.{XID}, {count}, {wanted} "
            f"FROM {SOURCE} LEFT JOIN {MADE} ON {SOURCE}.{ROW} = {MADE}.{ROW} "
            f"WHERE {count} {'<>' if times is None else '<'} {wanted} LIMIT 1",
            rows,
        )


def _times(count: int) -> str:
    return {0: "not at all", 1: "once"}.get(count, f"{count} times")
