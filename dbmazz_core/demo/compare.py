"""Comparison of source and destination with queries to both databases, independent of dbmazz's own decoders.

PostgreSQL's values are the text of its output functions, DuckDB's are casts to VARCHAR. The comparison covers the names
and the order of all columns, and the rows as multisets in both directions. Values that mean the same in different
notations are normalised: booleans (`t` is `true`), numbers (`1.50` is `1.5`) and trailing zeros of a fraction of a
second. Bytes are compared in hexadecimal, and lists of numbers, booleans and texts as both databases write them in
JSON. In a VARCHAR or JSON column of DuckDB, the text must equal PostgreSQL's character by character.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from psycopg import sql

from dbmazz_core.demo.shop import Connection
from dbmazz_core.table_ref import TableRef

Row = tuple[str | None, ...]

#: Texts with more characters are compared by their digest, which limits the memory of a row.
_LONG = 80
_BATCH = 1000
#: Number of differing rows of a table that a report lists.
MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class TableComparison:
    """The result of the comparison of one table.

    Attributes:
        table: The table.
        source_rows, destination_rows: Number of rows on each side.
        missing: Number of source rows whose key is not in the destination.
        extra: Number of destination rows whose key is not in the source.
        changed: Number of keys whose rows have different values on both sides.
        differences: The first differences, one sentence each, also if columns differ or the table does not exist.
    """

    table: TableRef
    source_rows: int
    destination_rows: int
    missing: int = 0
    extra: int = 0
    changed: int = 0
    differences: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether source and destination are equal."""
        return not self.differences

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `demo --headless --json` prints it."""
        return {
            "equal": self.equal,
            "source_rows": self.source_rows,
            "destination_rows": self.destination_rows,
            "missing": self.missing,
            "extra": self.extra,
            "changed": self.changed,
            "differences": list(self.differences),
        }


def compare(url: str, destination: Path, tables: Iterable[TableRef]) -> list[TableComparison]:
    """Compare tables of a PostgreSQL database with the tables of the same name in a DuckDB file.

    Args:
        url: URL of the source, which is read in one snapshot. Equality requires that no other session writes to it.
        destination: Path of the DuckDB file, which is opened read-only.
        tables: The tables to compare.

    Raises:
        psycopg.Error: The source cannot be read.
        duckdb.Error: The destination cannot be opened.
    """
    with (
        psycopg.connect(url, application_name="demo comparison") as postgres,
        duckdb.connect(str(destination), read_only=True) as duck,
    ):
        postgres.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for setting in ("SET TimeZone = 'UTC'", "SET DateStyle = 'ISO'", "SET IntervalStyle = 'postgres'"):
            postgres.execute(setting)
        duck.execute("SET TimeZone = 'UTC'")
        return [_compare(postgres, duck, table) for table in tables]


def _compare(postgres: Connection, duck: duckdb.DuckDBPyConnection, table: TableRef) -> TableComparison:
    columns, key = _source_columns(postgres, table)
    names = [name for name, _ in columns]
    found = duck.execute(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_catalog = current_database() "
        "AND table_schema = ? AND table_name = ? ORDER BY ordinal_position",
        [table.schema, table.name],
    ).fetchall()
    lists = {name for name, kind in found if kind.endswith("[]")}
    source = _source_rows(postgres, table, columns, lists)
    if [name for name, _ in found] != names:
        what = f"has columns {[name for name, _ in found]}, the source {names}" if found else "does not exist"
        count = duck.execute(f"SELECT count(*) FROM {table.sql}").fetchone() if found else None
        return TableComparison(
            table, source.total(), count[0] if count else 0, differences=(f"the destination's table {what}",)
        )
    destination = _destination_rows(duck, table, columns, dict(found))
    return _differences(table, names, [names.index(name) for name in key], source, destination)


def _source_columns(postgres: Connection, table: TableRef) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the names and types of the columns in order, and the column names of the primary key."""
    rows = postgres.execute(
        """
        SELECT attname::text, typname::text,
               coalesce(attnum = ANY (SELECT unnest(indkey) FROM pg_index
                                      WHERE indrelid = attrelid AND indisprimary), false)
        FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
        WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
        """,
        (table.sql,),
    ).fetchall()
    return [(name, kind) for name, kind, _ in rows], [name for name, _, in_key in rows if in_key]


def _source_rows(
    postgres: Connection, table: TableRef, columns: Sequence[tuple[str, str]], lists: set[str]
) -> Counter[Row]:
    # format('%s') calls the output function of the type; a cast of char(n) to text removes trailing blanks.
    values = sql.SQL(", ").join(
        sql.SQL(
            "array_to_json({0})::text" if name in lists else "CASE WHEN {0} IS NOT NULL THEN format('%s', {0}) END"
        ).format(sql.Identifier(name))
        for name, _ in columns
    )
    query = sql.SQL("SELECT {} FROM {}").format(values, sql.Identifier(table.schema, table.name))
    readers = [_list if name in lists else _reader(kind) for name, kind in columns]
    with postgres.cursor(name="comparison") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query)
        return Counter(_read(readers, row) for row in cursor)


def _destination_rows(
    duck: duckdb.DuckDBPyConnection, table: TableRef, columns: Sequence[tuple[str, str]], kinds: dict[str, str]
) -> Counter[Row]:
    values: list[str] = []
    readers: list[Callable[[str], str]] = []
    for name, kind in columns:
        quoted, found = f'"{name.replace(chr(34), chr(34) * 2)}"', kinds[name]
        if found.endswith("[]"):
            values.append(f"CAST(to_json({quoted}) AS VARCHAR)")
            readers.append(_list)
        elif found == "BLOB":
            values.append(f"'\\x' || lower(hex({quoted}))")
            readers.append(_shortened)
        else:
            values.append(f"CAST({quoted} AS VARCHAR)")
            readers.append(_shortened if found in ("VARCHAR", "JSON") else _reader(kind))
    duck.execute(f"SELECT {', '.join(values)} FROM {table.sql}")
    rows: Counter[Row] = Counter()
    while batch := duck.fetchmany(_BATCH):
        rows.update(_read(readers, row) for row in batch)
    return rows


def _read(readers: Sequence[Callable[[str], str]], row: tuple[Any, ...]) -> Row:
    return tuple(None if value is None else read(value) for read, value in zip(readers, row, strict=True))


def _reader(type_name: str) -> Callable[[str], str]:
    match type_name:
        case "bool":
            return lambda text: {"t": "true", "f": "false"}.get(text, text)
        case "float4" | "float8":
            return lambda text: repr(float(text))  # `143` is `143.0`; -0.0 and NaN stay apart from 0.0
        case "numeric":
            return lambda text: str(Decimal(text).normalize())
        case "time" | "timetz" | "timestamp" | "timestamptz":
            return lambda text: re.sub(r"\.(?!\d)", "", re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text))
        case _:
            return _shortened


def _list(text: str) -> str:
    def number(digits: str) -> str:
        return str(Decimal(digits).normalize())

    return _shortened(json.dumps(json.loads(text, parse_float=number, parse_int=number)))


def _shortened(text: str) -> str:
    if len(text) <= _LONG:
        return text
    return f"{text[:20]}... ({len(text)} characters, sha256 {sha256(text.encode()).hexdigest()})"


def _differences(
    table: TableRef, names: Sequence[str], key: Sequence[int], source: Counter[Row], destination: Counter[Row]
) -> TableComparison:
    """Return the rows that are on one side only, paired by key if both sides have the key."""
    missing = sorted((source - destination).elements(), key=repr)
    extra = sorted((destination - source).elements(), key=repr)
    others = {_pick(row, key): row for row in extra} if key else {}
    changed = [(row, others[_pick(row, key)]) for row in missing if _pick(row, key) in others]
    missing = [row for row in missing if _pick(row, key) not in others]
    extra = list((Counter(extra) - Counter(after for _, after in changed)).elements())
    lines = [
        f"key {_shown(_pick(before, key))}: "
        + "; ".join(
            f"{name} is {old!r} in the source, {new!r} in the destination"
            for name, old, new in zip(names, before, after, strict=True)
            if old != new
        )
        for before, after in changed
    ]
    lines += [f"only in the source: {_shown(row)}" for row in missing]
    lines += [f"only in the destination: {_shown(row)}" for row in extra]
    if len(lines) > MAX_LISTED:
        lines[MAX_LISTED:] = [f"and {len(lines) - MAX_LISTED} more rows"]
    return TableComparison(
        table,
        source_rows=source.total(),
        destination_rows=destination.total(),
        missing=len(missing),
        extra=len(extra),
        changed=len(changed),
        differences=tuple(lines),
    )


def _pick(row: Row, places: Sequence[int]) -> Row:
    return tuple(row[place] for place in places)


def _shown(row: Row) -> str:
    return "(" + ", ".join("NULL" if value is None else value for value in row) + ")"
