"""What the sink says to DuckDB, and the identifiers in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import duckdb
import pytest

from dbmazz_core.connectors.sinks.duckdb import file

#: String literals; quoted identifiers; words, each with the signs around it.
_TOKEN = re.compile(r"""'(?:[^']|'')*'|"(?P<quoted>(?:[^"]|"")+)"|(?P<word>[A-Za-z_]\w*)""")


#: How many signs around a word are looked at; a statement over 200 columns has 20,000.
_AROUND = 200


@dataclass(frozen=True, slots=True)
class Word:
    """An identifier or keyword of a statement that is not quoted.

    Attributes:
        before: The end of what stands before it, without blanks.
        after: The beginning of what stands behind it, without blanks.
    """

    text: str
    before: str
    after: str


def words(statement: str) -> Iterator[Word]:
    for token in _TOKEN.finditer(statement):
        if token["word"]:
            start, end = token.span()
            yield Word(
                token["word"],
                statement[max(0, start - _AROUND) : start].rstrip(),
                statement[end : end + _AROUND].lstrip(),
            )


def identifiers(statements: Iterable[str]) -> set[str]:
    """All that could be taken for a name, keywords and quoted names too, in the case in which it is written."""
    found = set()
    for statement in statements:
        for token in _TOKEN.finditer(statement):
            if token["quoted"] or token["word"]:
                found.add(token["quoted"] or token["word"])
    return found


def names_of_duckdb() -> set[str]:
    """Pseudo-columns, keywords, and functions that are called without arguments."""
    with duckdb.connect() as connection:
        found = connection.execute(
            "SELECT keyword_name FROM duckdb_keywords() UNION SELECT function_name FROM duckdb_functions() "
            "WHERE len(parameters) = 0 AND regexp_full_match(function_name, '[a-z_0-9]+')"
        ).fetchall()
    return {str(name) for (name,) in found} | {"rowid", "file_row_number", "filename", "excluded"}


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Recording:
    """A connection, or a cursor of it, that notes its statements."""

    connection: duckdb.DuckDBPyConnection
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # The variable with the frame is now one call further away.
        self.connection.execute("SET python_scan_all_frames = true")

    def execute(self, statement: str, parameters: Any = None) -> Any:
        self.log.append(statement)
        return self.connection.execute(statement, parameters)

    def cursor(self) -> _Recording:
        return _Recording(self.connection.cursor(), self.log)

    def close(self) -> None:
        self.connection.close()

    def interrupt(self) -> None:
        self.connection.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Every statement that sinks made within run."""
    log: list[str] = []
    open_file = file.open_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "open_file", lambda *arguments: _Recording(open_file(*arguments), log))
        yield log
