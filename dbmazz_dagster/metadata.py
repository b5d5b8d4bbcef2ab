"""What a window did, as metadata: numbers where Dagster can plot them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import dagster as dg

from dbmazz_core.engine.result import StopReason, TableCounts, WindowResult
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.table_description import TableDescription
from dbmazz_core.model.table_state import TableState

#: GraphQL's Int: Dagster's UI gets no number for a greater one, and plots nothing.
_MAX_INT: Final = 2**31 - 1


def table_metadata(
    result: WindowResult, counts: TableCounts, state: TableState | None, schema: dg.TableSchema | None
) -> dict[str, Any]:
    """Metadata of a table's materialization: its own counts, then the window's figures.

    The row count is that of `TableState`: live rows in mode soft_delete, changes in mode changelog.
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
        if state.rows is not None:
            own["dagster/row_count"] = state.rows
    if schema is not None:
        own["dagster/column_schema"] = schema
    return {**own, **_window_metadata(result)}


def checkpoint_metadata(result: WindowResult) -> dict[str, Any]:
    """Metadata of the checkpoint's materialization: the window as a whole."""
    return {
        "changes": number(result.changes),
        "transactions": number(result.transactions),
        "bytes": float(result.bytes),
        "flushes": number(result.flushes),
        **{f"{name}_s": round(seconds, 3) for name, seconds in sorted(result.phases.items())},
        **_window_metadata(result),
    }


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
    """An LSN to read and an LSN to plot. As a float, exact up to 8 PiB of WAL.

    >>> lsn_metadata(Lsn.parse("16/B374D848"))
    {'confirmed_lsn': '16/B374D848', 'confirmed_lsn_number': 97500059720.0}
    """
    return {"confirmed_lsn": str(lsn), "confirmed_lsn_number": float(int(lsn))}


def lag_seconds(result: WindowResult, now: datetime) -> float:
    """How old the source's state is that the destination shows at least, in seconds.

    A window that caught up holds all that had been committed when it began. Another one holds all up to the
    last commit that it applied.
    """
    if result.stop_reason is StopReason.CAUGHT_UP or result.commit_time is None:
        return round(result.duration_s, 3)
    return round(max(0.0, (now - result.commit_time).total_seconds()), 3)


def column_schema(described: TableDescription) -> dg.TableSchema:
    """A table's captured columns, with PostgreSQL's types, as Dagster shows them, and how they are masked."""
    key = ", ".join(described.key)
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
        constraints=dg.TableConstraints(other=[f"key: {key}"] if key else []),
    )


def number(value: int) -> int | float:
    """A count that plots however great it is.

    >>> number(5), number(5_000_000_000)
    (5, 5000000000.0)
    """
    return value if value <= _MAX_INT else float(value)
