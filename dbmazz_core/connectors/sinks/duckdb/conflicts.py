"""Tables that cannot be, or are not any more, what they should be in DuckDB."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb import shapes
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.tables import TableRef


def changed_by_hand(table: TableRef, path: str, expected: shapes.Columns, found: shapes.Columns) -> DestinationConflict:
    expected, found = ([*own, *ours] for own, ours in map(shapes.comparable, (expected, found)))
    if not found:
        what = "is gone"
    else:
        lost = [f"{name} {type}" for name, type in expected if (name, type) not in found]
        more = [f"{name} {type}" for name, type in found if (name, type) not in expected]
        parts = [f"{text}: {', '.join(names)}" for text, names in (("lacks", lost), ("has besides", more)) if names]
        what = "was changed by hand; it " + ("; ".join(parts) or "has its columns in another order")
    return DestinationConflict(
        f"table {table} in {path} {what}",
        object=str(table),
        remedy=f"undo the change, or copy the table anew: dbmazz snapshot --tables '{table}'",
    )
