"""PostgreSQL types: their OIDs, their core type, and how their text becomes values.

One conversion serves the stream and the snapshot alike, so both give the same values: both hand over the text that
the type's output function makes under the settings of `connection.TEXT_FORM_SETTINGS`.

| module | |
|---|---|
| `builtin` | the types that every server has, family by family: OIDs, core type, what becomes of their values |
| `numeric` | precision and scale |
| `resolve` | from OIDs to core types, with the catalog for what users and extensions made |
| `scalars` | text to values, as polars expressions |
| `arrays`, `hstore` | text to lists and maps, all values at once (`quoting`: where quotes are) |
| `read` | the text of any type to a series in its carrier dtype |
| `reference` | the table of docs/types.md |
"""

from dbmazz_core.connectors.sources.postgres.types.read import BadText, read_each, read_texts
from dbmazz_core.connectors.sources.postgres.types.resolve import (
    BuiltinTypes,
    CatalogTypes,
    ColumnOfType,
    TypePolicy,
    TypeResolver,
)
from dbmazz_core.connectors.sources.postgres.types.scalars import to_carrier

__all__ = [
    "BadText",
    "BuiltinTypes",
    "CatalogTypes",
    "ColumnOfType",
    "TypePolicy",
    "TypeResolver",
    "read_each",
    "read_texts",
    "to_carrier",
]
