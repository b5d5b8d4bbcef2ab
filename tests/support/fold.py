"""Folding a changelog back into the rows that the source has: by its documented columns alone, row by row."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

Row = tuple[Any, ...]


def fold(connection: duckdb.DuckDBPyConnection, table: str, key: Sequence[str]) -> tuple[list[str], list[Row]]:
    """The table's own columns, and the rows that a changelog comes to, every value as DuckDB's text.

    Args:
        connection: Where the changelog is.
        table: Its qualified name.
        key: The key's columns; none where rows are a multiset.
    """
    names = [str(row[0]) for row in connection.execute(f"DESCRIBE {table}").fetchall()]
    own = [name for name in names if not name.startswith("_dbmazz_")]
    values = [f"{_quoted(prefix + name)}::VARCHAR" for prefix in ("", "_dbmazz_old_") for name in own]
    changes = connection.execute(
        f"SELECT _dbmazz_ordinal, _dbmazz_op, _dbmazz_unchanged, _dbmazz_known_old, {', '.join(values)} FROM {table} "
        "ORDER BY _dbmazz_commit_lsn, _dbmazz_ordinal"
    ).fetchall()
    # A table that was copied again begins there, perhaps with another key.
    begin = max((n for n, (ordinal, *_) in enumerate(changes) if ordinal == -1), default=0)
    places = [own.index(name) for name in key]
    rows = _Keyed(places) if key else _Bag()
    for _, op, unchanged, known_old, *images in changes[begin:]:
        new, old = tuple(images[: len(own)]), tuple(images[len(own) :])
        sent = [name in known_old for name in own]
        if op == "truncate":
            rows.clear()
        elif op == "delete":
            rows.take(old)
        elif op == "update":
            # Where the key did not change, only it says which row it was.
            before = rows.take(old if all(sent[place] for place in places) and any(sent) else new)
            lacks = [name in unchanged for name in own]
            rows.put(tuple(b if lack else n for n, b, lack in zip(new, before, lacks, strict=True)))
        else:
            assert op in ("insert", "snapshot"), op
            rows.put(new)
    return own, list(rows)


@contextmanager
def folded(path: Path, table: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A changelog folded by the key that dbmazz recorded: a connection, and a table there with what it comes to."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"ATTACH '{path}' AS d (READ_ONLY)")
        types = {name: type for name, type, *_ in connection.execute(f"DESCRIBE d.{table}").fetchall()}
        ((key,),) = connection.execute(
            """SELECT key FROM d._dbmazz.tables
            WHERE format('"{}"."{}"', replace(schema_name, '"', '""'), replace(table_name, '"', '""')) = ?
            OR schema_name || '.' || table_name = ?""",
            [table if table.startswith('"') else re.sub(r"^(\w+)", r'"\1"', table), table],
        ).fetchall()
        own, rows = fold(connection, f"d.{table}", json.loads(key))
        connection.execute(f"CREATE TABLE folded ({', '.join(f'{_quoted(name)} {types[name]}' for name in own)})")
        if rows:
            values = ", ".join(f"CAST(? AS {types[name]})" for name in own)
            connection.executemany(f"INSERT INTO folded VALUES ({values})", rows)
        yield connection, "memory.main.folded"


class _Keyed(dict[Row, Row]):
    def __init__(self, places: list[int]) -> None:
        super().__init__()
        self._places = places

    def _key(self, row: Row) -> Row:
        return tuple(row[place] for place in self._places)

    def take(self, row: Row) -> Row:
        return self.pop(self._key(row))

    def put(self, row: Row) -> None:
        assert self._key(row) not in self
        self[self._key(row)] = row

    def __iter__(self) -> Any:
        return iter(list(self.values()))


class _Bag(Counter[Row]):
    def take(self, row: Row) -> Row:
        assert self[row] > 0
        self[row] -= 1
        return row

    def put(self, row: Row) -> None:
        self[row] += 1

    def __iter__(self) -> Any:
        return self.elements()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
