"""Metadata of materializations: the results of a window, as numbers that Dagster plots."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.read_copy import ReadCopy
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.model.table_state import TableState

#: Maximum of GraphQL's Int. Dagster's UI gets no value for a greater integer, and does not plot it.
_MAX_INT: Final = 2**31 - 1


def table_metadata(
    result: WindowResult, counts: TableCounts, state: TableState | None, schema: dg.TableSchema | None
) -> dict[str, Any]:
    """Return the metadata of a table's materialization: the counts of the table, then the figures of the window.

    The row count counts rows that are not deleted in mode soft_delete, and changes in mode changelog (`TableState`).
    """
    own: dict[str, Any] = {
        "inserts": number(counts.inserts),
        "updates": number(counts.updates),
        "deletes": number(counts.deletes),
    }
    if counts.truncates:
        own["truncates"] = number(counts.truncates)
    if counts.snapshot_rows is not None:
        own["snapshot_rows"] = number(counts.snapshot_rows)
    if counts.quarantined:
        own["quarantined"] = number(counts.quarantined)
    if state is not None:
        own["mode"] = state.mode.value
        own["state"] = state.state.value
        if state.last_change_lsn is not None:
            own["last_change_lsn"] = str(state.last_change_lsn)
        if state.rows is not None:
            own["dagster/row_count"] = state.rows
    if schema is not None:
        own["dagster/column_schema"] = schema
    return {**own, **_window_metadata(result)}


def state_metadata(state: TableState) -> dict[str, Any]:
    """Return the metadata of a table that does not stream: its state, since when, why, and what to do."""
    problem = state.problem
    figures: dict[str, Any] = {
        "state": state.state.value,
        "since": dg.MetadataValue.timestamp(state.since) if state.since else None,
        "rows_as_of_lsn": str(state.lsn) if state.lsn is not None else None,
        "error": problem.error if problem else None,
        "reason": problem.reason if problem else None,
        "remedy": problem.remedy if problem else None,
    }
    return {name: value for name, value in figures.items() if value}


def checkpoint_metadata(result: WindowResult) -> dict[str, Any]:
    """Return the metadata of the checkpoint's materialization: the figures of the whole window."""
    return {
        "changes": number(result.changes),
        "transactions": number(result.transactions),
        "bytes": float(result.bytes),
        "flushes": number(result.flushes),
        "file_held_s": round(result.file_held_s, 3),
        **({} if result.format is None else {"stream_format": str(result.format)}),
        **_read_copy_metadata(result.read_copy),
        **{f"{name}_s": round(seconds, 3) for name, seconds in sorted(result.phases.items())},
        **_window_metadata(result),
    }


def _read_copy_metadata(copy: ReadCopy | None) -> dict[str, Any]:
    if copy is None:
        return {}
    figures: dict[str, Any] = {
        "read_copy_lsn": None if copy.lsn is None else str(copy.lsn),
        "read_copy_published_at": None if copy.published_at is None else dg.MetadataValue.timestamp(copy.published_at),
        "read_copy_s": None if copy.duration_s is None else round(copy.duration_s, 3),
        "read_copy_error": None if copy.error is None else copy.error.what,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _window_metadata(result: WindowResult) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "lag_bytes": float(result.lag_bytes),
        "lag_seconds": lag_seconds(result, datetime.now(UTC)),
        "duration_s": round(result.duration_s, 3),
        "changes_per_second": round(result.changes / result.duration_s, 1) if result.duration_s > 0 else 0.0,
        "stop_reason": result.stop_reason.value,
        **lsn_metadata(result.end_lsn),
    }
    if result.commit_time is not None:
        figures["commit_time"] = dg.MetadataValue.timestamp(result.commit_time)
    return figures


def lsn_metadata(lsn: Lsn) -> Mapping[str, Any]:
    """Return the metadata of an LSN: as text, and as a number to plot. The float is exact up to 8 PiB of WAL.

    >>> lsn_metadata(Lsn.parse("16/B374D848"))
    {'confirmed_lsn': '16/B374D848', 'confirmed_lsn_number': 97500059720.0}
    """
    return {"confirmed_lsn": str(lsn), "confirmed_lsn_number": float(int(lsn))}


def lag_seconds(result: WindowResult, now: datetime) -> float:
    """Return the age of the source's state that the destination has, in seconds.

    After a window that caught up, the destination has all transactions that were committed when the window began: the
    age is the duration of the window. After another window, the age is that of the last applied commit.
    """
    if result.stop_reason is StopReason.CAUGHT_UP or result.commit_time is None:
        return round(result.duration_s, 3)
    return round(max(0.0, (now - result.commit_time).total_seconds()), 3)


def column_schema(described: TableDescription) -> dg.TableSchema:
    """Return the captured columns of a table with PostgreSQL's types, their masks, and the key."""
    notes = [f"key: {', '.join(described.key)}"] if described.key else []
    if described.unpublished:
        notes.append(f"not sent by PostgreSQL: {', '.join(described.unpublished)}")
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                description=f"masked: {column.mask}" if column.mask else None,
                constraints=dg.TableColumnConstraints(nullable=column.nullable),
            )
            for column in described.columns
        ],
        constraints=dg.TableConstraints(other=notes),
    )


def number(value: int) -> int | float:
    """Return a count as a number that Dagster plots: a float if GraphQL's Int cannot hold it.

    >>> number(5), number(5_000_000_000)
    (5, 5000000000.0)
    """
    return value if value <= _MAX_INT else float(value)
