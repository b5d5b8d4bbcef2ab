"""The tables of types in docs/types.md and in the connector's README, generated from the code.

`python -m docs.reference` writes the tables into the files; a test compares the files with them.
"""

from __future__ import annotations

from collections.abc import Iterator

from dbmazz_core.connectors.sources.postgres.types.builtin import FAMILIES, NUMERIC_OID, BuiltinType
from dbmazz_core.model.datatypes import DataType, Kind

_TEXT = DataType(Kind.STRING)
_LIST = DataType.list_of(DataType(Kind.INT32))

#: Types whose OID differs between servers: name, core type, note.
_WITHOUT_FIXED_OID: tuple[tuple[str, DataType | str, str], ...] = (
    ("arrays of any of these, such as `integer[]`", _LIST, "lower bounds are dropped, an empty array is an empty list"),
    (
        "arrays of more dimensions, such as `integer[][]`",
        DataType.list_of(DataType(Kind.INT32), depth=2),
        "as many as the column is declared with; a value with another number of dimensions: bad value",
    ),
    ("domains", "that of their base type", "domains over domains and over arrays, too"),
    ("arrays of domains over arrays", DataType.list_of(_TEXT), "the inner arrays are their text"),
    ("enums", _TEXT, "the label; after a label is renamed, the table is re-snapshotted"),
    ("composite types", _TEXT, 'such as `(1,"x y")`'),
    ("ranges and multiranges made by users", _TEXT, ""),
    ("`hstore`", DataType(Kind.MAP), ""),
    ("`citext`, `ltree`, `cube`, `isn` and other types of extensions", _TEXT, ""),
    ("pgvector: `vector`, `halfvec`, `sparsevec`", _TEXT, "such as `[1,2.5]`"),
    ("PostGIS: `geometry`, `geography`", _TEXT, "hexadecimal EWKB"),
    ("everything else", _TEXT, ""),
)


def types_table() -> str:
    """Return the table of every PostgreSQL type: core type, carrier dtype, natural dtype, DuckDB's type, and notes."""
    lines = ["| PostgreSQL | core type | polars | `typed()` | DuckDB | |", "|---|---|---|---|---|---|"]
    for family, entries in FAMILIES.items():
        lines.append(f"| **{family}** | | | | | |")
        for entry in entries:
            lines += (_line(f"`{name}`", type, note) for name, type, note in _forms(entry))
    lines.append("| **made by users and extensions** | | | | | |")
    lines += (_line(*row) for row in _WITHOUT_FIXED_OID)
    return "".join(f"{line}\n" for line in lines)


def short_table() -> str:
    """Return the table of the types that are not text, without polars dtypes and notes."""
    lines = ["| PostgreSQL | core type | DuckDB |", "|---|---|---|"]
    for entries in FAMILIES.values():
        for entry in entries:
            lines += (
                f"| `{name}` | `{_core(type)}` | {_duckdb(type)} |"
                for name, type, _ in _forms(entry)
                if type.kind is not Kind.STRING or name == "text"
            )
    for name, of_users, _ in _WITHOUT_FIXED_OID:
        if isinstance(of_users, DataType) and of_users.is_nested and of_users.leaf != _TEXT:
            lines.append(f"| {name} | `{of_users}` | {of_users.duckdb} |")
    lines += ["| domains | that of their base type | |", f"| everything else | `{_TEXT}` | {_TEXT.duckdb} |"]
    return "".join(f"{line}\n" for line in lines)


def _forms(entry: BuiltinType) -> Iterator[tuple[str, DataType, str]]:
    """Yield the rows of a type: name, core type and note. numeric has one row with and one without precision."""
    if entry.oid != NUMERIC_OID:
        yield entry.name, DataType(entry.kind), entry.note
        return
    yield "numeric(p,s)", DataType(Kind.DECIMAL), "up to 38 digits; DuckDB has no NaN: bad value"
    note = "and `numeric(p,s)` with more digits; doubles by choice (`NUMERIC_AS=double`), except in keys"
    yield "numeric", _TEXT, note


def _line(name: str, type: DataType | str, note: str) -> str:
    if isinstance(type, str):
        return f"| {name} | {type} | | | | {note} |"
    carrier, natural = (_polars(dtype) for dtype in (type.carrier, type.natural))
    if type.kind is Kind.DECIMAL:
        natural = "Decimal(p, s)"
    return f"| {name} | `{_core(type)}` | {carrier} | {natural} | {_duckdb(type)} | {note} |"


def _core(type: DataType) -> str:
    return "Decimal{p,s}" if type.kind is Kind.DECIMAL else str(type)


def _duckdb(type: DataType) -> str:
    return "DECIMAL(p,s)" if type.kind is Kind.DECIMAL else type.duckdb


def _polars(dtype: object) -> str:
    return str(dtype).replace("{'key': String, 'value': String}", "key, value").replace("time_unit=", "")
