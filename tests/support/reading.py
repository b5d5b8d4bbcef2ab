"""Reading a destination file: attached to one DuckDB instance of the test process, which takes 1 ms.

To open a file with `duckdb.connect` creates an instance, which takes 20 ms of CPU, for each comparison.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import duckdb

#: Names that DuckDB has given to databases of its own.
_TAKEN = ("memory", "system", "temp")
#: How many connections read a file, by its path.
_readers: Counter[Path] = Counter()


@contextmanager
def reading(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection that reads the file, whose database is called as `duckdb.connect` would call it."""
    if path.stem in _TAKEN or any(other.stem == path.stem and other != path for other in _readers):
        with duckdb.connect(str(path), read_only=True) as connection:
            yield connection
        return
    name = '"' + path.stem.replace('"', '""') + '"'
    if not _readers[path]:
        quoted = str(path).replace("'", "''")
        _instance().execute(f"ATTACH '{quoted}' AS {name} (READ_ONLY)")
    _readers[path] += 1
    try:
        with _instance().cursor() as connection:
            connection.execute(f"USE {name}")
            yield connection
    finally:
        _readers[path] -= 1
        if not _readers[path]:
            del _readers[path]
            _instance().execute(f"DETACH {name}")


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()
