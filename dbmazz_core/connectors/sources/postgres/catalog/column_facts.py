"""Facts about columns: their row versions, their values in older rows, and the layouts of their values."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from dbmazz_core.connectors.sources.postgres.catalog.identity import SourceColumn
from dbmazz_core.connectors.sources.postgres.catalog.published_relations import LEAF_PARTITIONS
from dbmazz_core.connectors.sources.postgres.connection import Connection
from dbmazz_core.model.nested_text import array_elements


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Facts about the columns of one table.

    Attributes:
        columns: The existing columns, by name.
        missing_values: By name of a column: the text of the value that rows older than the column have. Columns that
            are NULL in such rows are left out.
        layouts: By number of a column, also of a dropped one: see `CatalogTable.layouts`.
    """

    columns: dict[str, SourceColumn] = field(default_factory=dict)
    missing_values: dict[str, str] = field(default_factory=dict)
    layouts: dict[int, str] = field(default_factory=dict)


def read_column_facts(connection: Connection, oids: Collection[int]) -> dict[int, ColumnFacts]:
    """Return facts about the columns of tables by OID of the table.

    A column that was added with a constant default is missing from older rows, and `attmissingval` has their value
    (manual, "pg_attribute"). A partitioned table has no rows: its leaf partitions have the value.
    """
    found: dict[int, ColumnFacts] = {}
    for oid, name, number, version, layout, delimiter, missing in connection.execute(
        f"""
        SELECT a.attrelid::bigint, CASE WHEN NOT a.attisdropped THEN a.attname::text END, a.attnum, a.xmin::text,
               {_layout_expression("a.att")}, t.typdelim::text,
               CASE WHEN a.attisdropped THEN NULL
                    WHEN c.relkind <> 'p' THEN a.attmissingval::text
                    ELSE (SELECT min(l.attmissingval::text) FROM pg_catalog.pg_attribute l
                          WHERE l.attname = a.attname AND l.attrelid IN
                                {LEAF_PARTITIONS.format(root="c.oid")}) END
        FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = ANY (%s) AND a.attnum > 0
        ORDER BY a.attrelid, a.attnum
        """.encode(),
        (list(oids),),
    ):
        facts = found.setdefault(oid, ColumnFacts())
        facts.layouts[number] = layout
        if name is None:
            continue
        facts.columns[name] = SourceColumn(name, number, version)
        if missing is not None:
            # attmissingval is an array of one element, which is an array itself if the column's type is an array.
            [facts.missing_values[name]] = array_elements(missing, depth=1, delimiter=delimiter)
    return found


def read_layouts(connection: Connection, types: Collection[int]) -> dict[int, str]:
    """Return the layouts of the existing types among `types` by OID, see `CatalogTable.layouts`."""
    rows = connection.execute(
        f"SELECT oid::bigint, {_layout_expression('typ')} FROM pg_catalog.pg_type WHERE oid = ANY (%s)".encode(),
        (list(types),),
    )
    return dict(rows.fetchall())


def _layout_expression(prefix: str) -> str:
    """Return SQL for the layout of a type (columns `typ...`) or of a column (columns `att...`)."""
    return f"concat_ws(' ', {prefix}len, {prefix}byval, {prefix}align)"
