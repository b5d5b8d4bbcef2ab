"""PostgreSQL types: their OIDs, their core types, and the conversion of their text to values.

The stream and the snapshot give the same values, in binary format or as the text that the type's output function makes
under `connection.TEXT_FORM_SETTINGS`.

| module | |
|---|---|
| `builtin` | the types that every server has, by family: OIDs, core type, notes for the documentation |
| `numeric` | precision and scale |
| `resolve` | from OIDs to core types, with the catalog for types of users and extensions |
| `scalars` | text to scalar values, as polars expressions |
| `arrays`, `hstore` | text to lists and maps, for all values at once (`quoting`: where quotes are) |
| `read` | the text of any type to a series in its carrier dtype |
| `binary` | binary values to series (`binary_fields`, `binary_numeric`; `date_texts`: what polars cannot hold) |
| `binary_columns` | which columns a stream has in binary format |
| `binary_arrays`, `binary_intervals`, `binary_numeric_texts` | more types that only a stream has in binary format |
| `reference` | the tables of types in the documentation |
"""

from dbmazz_core.connectors.sources.postgres.types.resolve import (
    BuiltinTypes,
    CatalogTypes,
    ColumnOfType,
    TypePolicy,
    TypeResolver,
)

__all__ = [
    "BuiltinTypes",
    "CatalogTypes",
    "ColumnOfType",
    "TypePolicy",
    "TypeResolver",
]
