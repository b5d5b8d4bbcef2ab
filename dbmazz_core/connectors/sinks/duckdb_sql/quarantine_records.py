"""The quarantine of the destination, `_dbmazz.quarantine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.sql import FRAME, query
from dbmazz_core.table_ref import TableRef

if TYPE_CHECKING:
    import polars as pl


def write_quarantine(connection: duckdb.DuckDBPyConnection, table: TableRef, rows: pl.DataFrame, *, slot: str) -> None:
    """Add rows to the quarantine, and record that the table is not complete.

    The table stays incomplete if somebody deletes the rows from the quarantine. `SinkTransaction.quarantine` tells the
    columns of `rows`.
    """
    import polars as pl  # loaded by the frame; a window without changes does not need it

    query(
        connection,
        "INSERT INTO _dbmazz.quarantine SELECT ?, ?, ?, commit_lsn, xid, ordinal, op, column_name, reason, "
        f"CAST(row AS JSON), now() FROM {FRAME}",
        rows.to_arrow(compat_level=pl.CompatLevel.newest()),
        [slot, table.schema, table.name],
    )
    connection.execute(
        "UPDATE _dbmazz.tables SET complete = false WHERE schema_name = ? AND table_name = ? AND complete",
        [table.schema, table.name],
    )


def clear_quarantine(connection: duckdb.DuckDBPyConnection, table: TableRef) -> None:
    """Delete a table's rows from the quarantine."""
    connection.execute(
        "DELETE FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )


def count_quarantine(connection: duckdb.DuckDBPyConnection, slot: str) -> Mapping[TableRef, int]:
    """Return the number of rows in quarantine of each table; tables without any are left out."""
    rows = connection.execute(
        "SELECT schema_name, table_name, count(*) FROM _dbmazz.quarantine WHERE slot = ? GROUP BY ALL", [slot]
    ).fetchall()
    return {TableRef(schema, name): int(count) for schema, name, count in rows}


def quarantine_reasons(connection: duckdb.DuckDBPyConnection, table: TableRef) -> dict[str, int]:
    """Return the reasons why rows of a table are in quarantine, with their numbers, the most frequent first."""
    rows = connection.execute(
        "SELECT reason, count(*) AS rows FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ? "
        "GROUP BY reason ORDER BY rows DESC, reason",
        [table.schema, table.name],
    ).fetchall()
    return dict(rows)
