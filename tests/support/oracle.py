"""The oracle: is the destination exactly what the source is now?

It reads both sides by itself, as text, through nothing that dbmazz decodes with: PostgreSQL by its own output
functions, DuckDB by its casts to VARCHAR. Rows are compared as multisets, in both directions; column names in
their order. What may differ in writing but not in meaning is brought to one form first, by these rules:

| PostgreSQL type        | rule, where DuckDB's column is neither VARCHAR nor JSON                  |
|------------------------|--------------------------------------------------------------------------|
| boolean                | `t` is `true`, `f` is `false`                                            |
| bytea                  | compared as bytes                                                        |
| numeric, money         | as numbers: `1.50` is `1.5`; money without its `$` and `,`               |
| real, double precision | as the float of that width, bit by bit: `-0` is not `0`, NaN is NaN      |
| date, time, timestamp  | zeros that end a fraction do not count; `(BC)` is `BC`, at the end;      |
|                        | `+00:00` is `+00`                                                        |
| interval               | as months, days and microseconds, each on its own                        |
| arrays                 | as nested lists, element by element; lower bounds do not count           |
| hstore                 | as a mapping                                                             |
| anything else          | the text itself                                                          |

Where DuckDB's column is VARCHAR or JSON the text has to be PostgreSQL's own, character by character. The one
exception is char(n): trailing blanks do not count, as in PostgreSQL. All text is taken with DateStyle ISO,
IntervalStyle postgres and in the UTC time zone.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from psycopg import sql

from tests.support.postgres_fixtures import SourceDatabase
from tests.support.reading import reading

#: How many differences a failure lists.
_SHOWN = 20

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    #: Type name of pg_type, the base type of a domain, the element type of an array.
    type: str
    is_array: bool
    #: What stands between an array's elements.
    delimiter: str


def assert_equal(
    database: SourceDatabase | psycopg.Connection[Row],
    destination: Path | duckdb.DuckDBPyConnection,
    table: str,
    *,
    as_table: str | None = None,
    where: str = "true",
    ignore: tuple[str, ...] = (),
) -> None:
    """Fail, with the first differences, unless both tables hold the same columns and rows.

    Parameters:
        database: Where the source is, or a connection by `connect_source`.
        destination: DuckDB file, or a connection where this process has the file open for writing.
        table: The source, `schema.table`, quoted where needed.
        as_table: The destination's name where it is another one.
        where: Which rows of the destination count; `NOT _dbmazz_deleted`.
        ignore: Columns that the destination has besides the source's.
    """
    with _open(destination) as duck, _connected(database) as postgres:
        differences = _compare(postgres, duck, table, as_table or table, where, ignore)
    assert not differences, f"{table}: source and destination differ\n" + "\n".join(differences)


def connect_source(database: SourceDatabase) -> psycopg.Connection[Row]:
    """A new connection that writes values as the oracle reads them. The caller closes it."""
    connection = database.connect()
    connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'")
    return connection


@contextmanager
def _connected(database: SourceDatabase | psycopg.Connection[Row]) -> Iterator[psycopg.Connection[Row]]:
    if isinstance(database, psycopg.Connection):
        yield database
    else:
        with connect_source(database) as connection:
            yield connection


def _compare(
    postgres: psycopg.Connection[Row],
    duck: duckdb.DuckDBPyConnection,
    table: str,
    target: str,
    where: str,
    ignore: tuple[str, ...],
) -> list[str]:
    described = duck.execute(f"DESCRIBE {target}").fetchall()
    types = {name: str(kind) for name, kind, *_ in described if name not in ignore}
    columns, key = _source_columns(postgres, table)
    names = [column.name for column in columns]
    if names != list(types):
        return [f"  columns of the source:      {names}", f"  columns of the destination: {list(types)}"]
    source = _source_rows(postgres, table, columns, types)
    return _row_differences(names, key, source, _destination_rows(duck, target, where, columns, types))


@contextmanager
def _open(destination: Path | duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    if isinstance(destination, Path):
        with reading(destination) as connection:
            yield connection
    else:
        with destination.cursor() as connection:
            yield connection


def _source_columns(postgres: psycopg.Connection[Row], table: str) -> tuple[list[_Column], list[str]]:
    """Columns in order, and the names of those of the primary key."""
    rows = postgres.execute(
        """
        WITH RECURSIVE base AS (
            SELECT attnum, attname, atttypid AS oid, false AS is_array FROM pg_attribute
            WHERE attrelid = %(table)s::regclass AND attnum > 0 AND NOT attisdropped
            UNION ALL  -- a domain's type, an array's elements, and so on to the bottom
            SELECT attnum, attname, coalesce(element.oid, kind.typbasetype), is_array OR element.oid IS NOT NULL
            FROM base JOIN pg_type kind USING (oid)
            LEFT JOIN pg_type element ON element.typarray = kind.oid AND NOT is_array
            WHERE kind.typtype = 'd' OR element.oid IS NOT NULL
        )
        SELECT attname::text, kind.typname::text, is_array, kind.typdelim::text,
               coalesce(attnum = ANY (SELECT unnest(indkey) FROM pg_index
                                      WHERE indrelid = %(table)s::regclass AND indisprimary), false)
        FROM base JOIN pg_type kind USING (oid)
        WHERE kind.typtype <> 'd'
          AND (is_array OR NOT EXISTS (SELECT FROM pg_type WHERE typarray = kind.oid))
        ORDER BY attnum
        """,
        {"table": table},
    ).fetchall()
    return [_Column(*row[:4]) for row in rows], [name for name, *_, in_key in rows if in_key]


def _source_rows(
    postgres: psycopg.Connection[Row], table: str, columns: list[_Column], types: Mapping[str, str]
) -> Counter[Row]:
    # format('%s') gives the type's output function, which a cast to text does not: it trims char(n). A composite of
    # NULLs IS NULL, but is distinct from it.
    values = sql.SQL(", ").join(
        sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN format('%s', {0}) END").format(sql.Identifier(column.name))
        for column in columns
    )
    query = sql.SQL("SELECT {} FROM {}").format(values, sql.SQL(table))
    readers = [_source_reader(column, types[column.name]) for column in columns]
    return Counter(_read(readers, row) for row in postgres.execute(query))


def _destination_rows(
    duck: duckdb.DuckDBPyConnection, table: str, where: str, columns: list[_Column], types: Mapping[str, str]
) -> Counter[Row]:
    duck.execute("SET TimeZone = 'UTC'")
    values = ", ".join(_destination_expression(column.name, types[column.name]) for column in columns)
    readers = [_destination_reader(column, types[column.name]) for column in columns]
    rows = duck.execute(f"SELECT {values} FROM {table} WHERE {where}").fetchall()
    return Counter(_read(readers, row) for row in rows)


def _read(readers: list[Callable[[Any], Any]], row: Row) -> Row:
    return tuple(None if value is None else read(value) for read, value in zip(readers, row, strict=True))


def _destination_expression(name: str, kind: str) -> str:
    quoted = '"' + name.replace('"', '""') + '"'
    element, depth = _list_type(kind)
    if element == "BLOB" or _is_map(element):
        return quoted
    return f"CAST({quoted} AS VARCHAR{'[]' * depth})"


def _list_type(kind: str) -> tuple[str, int]:
    element = kind
    while element.endswith("[]"):
        element = element[:-2]
    return element, (len(kind) - len(element)) // 2


def _is_map(kind: str) -> bool:
    return kind.startswith("MAP(")


def _is_text(kind: str) -> bool:
    return kind in ("VARCHAR", "JSON")


def _element_reader(column: _Column, kind: str) -> Callable[[str], Any]:
    return str if _is_text(kind) and column.type != "bpchar" else _canonical(column.type)


def _source_reader(column: _Column, kind: str) -> Callable[[str], Any]:
    element_kind, depth = _list_type(kind)
    read = _hstore if _is_map(element_kind) and column.type == "hstore" else _element_reader(column, element_kind)
    if column.is_array:  # of one form with the destination's only where that is a list
        return (lambda text: _nested(_array(text, column.delimiter), read)) if depth else str
    if _is_map(kind):
        return read
    return _element_reader(column, kind)


def _destination_reader(column: _Column, kind: str) -> Callable[[Any], Any]:
    element_kind, depth = _list_type(kind)
    if _is_map(element_kind):
        return lambda value: _nested(value, lambda pairs: frozenset(pairs.items()))
    if element_kind == "BLOB":
        return lambda value: _nested(value, bytes)
    if depth:
        read = _element_reader(column, element_kind)
        return lambda value: _nested(value, read)
    return str if column.is_array else _element_reader(column, kind)


def _nested(value: Any, read: Callable[[Any], Any]) -> Any:
    if isinstance(value, list):
        return tuple(_nested(one, read) for one in value)
    return None if value is None else read(value)


def _canonical(type_name: str) -> Callable[[str], Any]:
    """The one form, as in the module's table, of a value's text from either side."""
    if type_name in ("date", "time", "timetz", "timestamp", "timestamptz"):
        return _moment
    return _CANONICAL.get(type_name, str)


def _moment(text: str) -> str:
    before_christ = "BC" in text
    text = re.sub(r" ?\(?BC\)?", "", text)
    text = re.sub(r"(\.\d*?)0+(?!\d)", r"\1", text)
    text = re.sub(r"\.(?!\d)", "", text)
    text = re.sub(r"([+-]\d\d):00$", r"\1", text)
    return text + " BC" if before_christ else text


def _number(text: str) -> Decimal | str:
    number = Decimal(re.sub(r"[$,]", "", text))
    return "NaN" if number.is_nan() else number  # NaN is unequal to itself


def _interval(text: str) -> tuple[int, int, int]:
    """Months, days, microseconds of `1 year -2 mons 3 days -04:05:06.7`; DuckDB writes `months`."""
    parts = {unit: int(n) for n, unit in re.findall(r"([+-]?\d+) (year|mon|day)", text)}
    months, microseconds = parts.get("year", 0) * 12 + parts.get("mon", 0), 0
    if clock := re.search(r"([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?", text):
        sign, hours, minutes, seconds, fraction = clock.groups()
        microseconds = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000
        microseconds += int((fraction or "0").ljust(6, "0"))
        microseconds *= -1 if sign == "-" else 1
    return months, parts.get("day", 0), microseconds


_CANONICAL: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"t": "true", "f": "false"}.get(text, text),
    # In a BLOB; in text it stays as it is written.
    "bytea": lambda text: bytes.fromhex(text.removeprefix("\\x")),
    "numeric": _number,
    "money": _number,
    "float4": lambda text: struct.pack("<f", float(text)).hex() if text.lower() != "nan" else "NaN",
    "float8": lambda text: repr(float(text)),
    "interval": _interval,
    "bpchar": lambda text: text.rstrip(" "),
}


def _array(text: str, delimiter: str) -> list[Any]:
    """Nested lists of an array's text, `{1,NULL,"a \\"b\\""}`; manual, section "Arrays"."""
    token_pattern = r'[{}]|"((?:[^"\\]|\\.)*)"|[^{}"' + delimiter + "]+"
    tokens = re.finditer(token_pattern, re.sub(r"^[^{]*=", "", text), re.DOTALL)
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token[0] == "{":
            stack.append([])
        elif token[0] == "}":
            done = stack.pop()
            stack[-1].append(done)
        elif token[1] is not None:
            stack[-1].append(re.sub(r"\\(.)", r"\1", token[1], flags=re.DOTALL))
        else:
            stack[-1].append(None if token[0] == "NULL" else token[0])
    result: list[Any] = stack[0][0]
    return result


def _hstore(text: str) -> frozenset[tuple[str, str | None]]:
    pairs = re.findall(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|(NULL))', text, re.DOTALL)
    plain = [[re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in pair[:2]] for pair in pairs]
    return frozenset((name, None if pair[2] else value) for (name, value), pair in zip(plain, pairs, strict=True))


def _row_differences(names: list[str], key: list[str], source: Counter[Row], destination: Counter[Row]) -> list[str]:
    """What a reader needs first: changed values of rows with the same key, then rows of one side only."""
    missing = sorted((source - destination).elements(), key=repr)
    surplus = sorted((destination - source).elements(), key=repr)
    if not missing and not surplus:
        return []
    places = [names.index(name) for name in key]

    def key_of(row: Row) -> Row:
        return tuple(row[place] for place in places)

    changed = {key_of(row): row for row in surplus} if key else {}
    changed = {key_of(row): changed[key_of(row)] for row in missing if key_of(row) in changed}
    lines = []
    for row in missing:
        if other := changed.get(key_of(row)):
            values = zip(names, row, other, strict=True)
            listed = "; ".join(f"{name}: {old!r} -> {new!r}" for name, old, new in values if old != new)
            lines.append(f"  key {key_of(row)}, source -> destination: {listed}")
    lines += [f"  only in the source: {row}" for row in missing if key_of(row) not in changed]
    lines += [f"  only in the destination: {row}" for row in surplus if key_of(row) not in changed]
    counts = f"  {source.total()} rows in the source, {destination.total()} in the destination"
    more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return [counts, *lines[:_SHOWN], *more]
