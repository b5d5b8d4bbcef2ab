"""An instance of DuckDB that stays while the file that it opens comes and goes.

A new instance, with its threads, catalogs and functions, costs as much as everything else of a small flush. `ATTACH`
opens a file in an instance that is there already (docs/benchmarks.md has the measurement).
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import duckdb

from dbmazz_core.connectors.sinks.duckdb_sql.failures import is_attached_elsewhere
from dbmazz_core.connectors.sinks.duckdb_sql.names import fold
from dbmazz_core.table_ref import quote_identifier, quote_literal

#: Names of the databases that every instance has: a file with such a name cannot be attached under it.
_OWN = ("memory", "system", "temp")


class KeptInstance:
    """Opens a DuckDB file again and again in one instance, under the name that DuckDB would give it.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._name = quote_identifier(self._path.stem)
        self._base: duckdb.DuckDBPyConnection | None = None
        self._attached: duckdb.DuckDBPyConnection | None = None

    def connect(self, path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file; end with `close`.

        Other connections of this process to the file share an instance of theirs; then this one shares it too.

        Raises:
            duckdb.Error: As `duckdb.connect`.
        """
        if fold(path.stem) in _OWN:
            return duckdb.connect(str(path), read_only=read_only)
        if self._base is None:
            self._base = duckdb.connect(":memory:")
            # As for an instance of the file itself; the default is a directory below the working directory.
            self._base.execute(f"SET temp_directory = {quote_literal(f'{path}.tmp')}")
        connection = self._base.cursor()
        option = " (READ_ONLY)" if read_only else ""
        try:
            connection.execute(f"ATTACH {quote_literal(str(path))} AS {self._name}{option}")
        except duckdb.Error as error:
            connection.close()
            if not is_attached_elsewhere(error):
                raise
            return duckdb.connect(str(path), read_only=read_only)
        self._attached = connection
        connection.execute(f"USE {self._name}")
        return connection

    def close(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Close the file that `connect` has opened."""
        if connection is not self._attached or self._base is None:
            connection.close()
            return
        self._attached = None
        with suppress(duckdb.Error):  # no transaction is open
            connection.execute("ROLLBACK")
        try:
            connection.execute("USE memory")
            connection.execute(f"DETACH {self._name}")
        except duckdb.Error:
            # A statement that was interrupted holds it, or DuckDB has invalidated it: the file goes with the instance.
            self.end()
        finally:
            connection.close()

    def end(self) -> None:
        """End the instance."""
        base, self._base = self._base, None
        if base is not None:
            base.close()
