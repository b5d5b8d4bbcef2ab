"""Tables that cannot be, or are not any more, what they should be in DuckDB."""

from __future__ import annotations

from dbmazz_core.connectors.sinks.duckdb import shapes
from dbmazz_core.engine.effect import PREFIX
from dbmazz_core.errors import DestinationConflict
from dbmazz_core.schema import TableSchema
from dbmazz_core.tables import TableRef, quote_identifier


def check_names(schema: TableSchema) -> None:
    """DuckDB folds case when it compares names; PostgreSQL does not. Names with our prefix are columns beside these."""
    seen: dict[str, str] = {}
    for name in schema.names:
        if name.casefold().startswith(PREFIX):
            raise DestinationConflict(
                f"{schema.table} has a column {name!r}; names that begin with {PREFIX} are dbmazz's own",
                object=f"{schema.table}.{name}",
                remedy=f"ALTER TABLE {schema.table.sql} RENAME COLUMN {quote_identifier(name)} TO ...; in PostgreSQL",
            )
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise DestinationConflict(
                f"{schema.table} has columns {other!r} and {name!r}, which are one name to DuckDB",
                object=f"{schema.table}.{name}",
                remedy=f"ALTER TABLE {schema.table.sql} RENAME COLUMN {quote_identifier(name)} TO ...; in PostgreSQL",
            )


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
