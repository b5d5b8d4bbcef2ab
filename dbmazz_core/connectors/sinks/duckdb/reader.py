"""Read captured tables: `open_reader` opens the read copy or the DuckDB file, and waits while a window writes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import duckdb

from dbmazz_core.connectors.sinks.duckdb.opening import open_file
from dbmazz_core.connectors.sinks.duckdb_sql import bookkeeping, table_records
from dbmazz_core.connectors.sinks.duckdb_sql.failures import translated
from dbmazz_core.connectors.sinks.duckdb_sql.names import qualified
from dbmazz_core.errors import DestinationError, TableNotFound, TableNotStreaming
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.table_state import TableState, TableStatus
from dbmazz_core.settings.config import SinkConfig
from dbmazz_core.settings.suggestions import suggestion
from dbmazz_core.settings.tables import parse_tables
from dbmazz_core.table_ref import TableRef, quote_identifier

if TYPE_CHECKING:
    import polars as pl

if TYPE_CHECKING:
    import pyarrow as pa

#: Names of databases that an instance of DuckDB has already.
_TAKEN = ("memory", "system", "temp")


def open_reader(
    path: str | Path,
    *,
    read_copy: str | Path | None = None,
    timeout_s: float = 30.0,
    memory_limit: int | None = None,
) -> Reader:
    """Open a DuckDB file with captured tables for reading. Use the result as a context manager.

    A window holds the file for a moment while it commits; this waits for it. While a reader has the file itself open,
    no window can commit: one that waits longer than its `SINK_LOCK_TIMEOUT_S` fails. So read and close, or read the
    read copy, which nobody has to wait for.

        with open_reader("shop.duckdb", read_copy="shop.read.duckdb") as reader:
            orders = reader.frame("public.orders")
            print(reader.lsns, orders.height)

    Args:
        path: The DuckDB file.
        read_copy: Its read copy (`SINK_READ_COPY`), which is opened instead if it exists.
        timeout_s: Seconds to wait while a window, or another process, writes to the file.
        memory_limit: DuckDB's `memory_limit` in bytes; None: DuckDB's default.

    Raises:
        DestinationLocked: Another process holds the file for longer.
        DestinationError: The file does not exist, cannot be opened, or holds no captured tables.
    """
    chosen, is_copy = Path(path), False
    if read_copy is not None and Path(read_copy).exists() and Path(read_copy).resolve() != chosen.resolve():
        chosen, is_copy = Path(read_copy), True
    if not chosen.exists():
        raise DestinationError(
            f"the DuckDB file {chosen} does not exist",
            object=str(chosen),
            remedy="correct the path; the first capture creates the file",
        )
    defaults = SinkConfig(url=str(chosen), lock_timeout_s=timeout_s)
    config = defaults if memory_limit is None else replace(defaults, memory_limit=memory_limit)
    connection = _attached(chosen) if is_copy else open_file(config, read_only=True)
    try:
        with translated(config.url):
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            if memory_limit is not None:
                connection.execute(f"SET memory_limit = '{memory_limit}B'")
        return Reader(connection, config.url)
    except BaseException:
        connection.close()
        raise


def _attached(copy: Path) -> duckdb.DuckDBPyConnection:
    """Open a read copy in a DuckDB instance of its own, which closes with the connection.

    `duckdb.connect` gives all connections of a process to one path the same instance, so that a process with an old
    copy open would never see a new one. A second instance is safe because nobody writes to a copy: closing it also
    takes the process's lock from the first one (fcntl(2)).
    """
    connection = duckdb.connect()
    try:
        with translated(str(copy)):
            quoted, name = str(copy).replace("'", "''"), "read_copy" if copy.stem in _TAKEN else copy.stem
            connection.execute(f"ATTACH '{quoted}' AS {quote_identifier(name)} (READ_ONLY)")
            connection.execute(f"USE {quote_identifier(name)}.main")
    except BaseException:
        connection.close()
        raise
    return connection


class Reader:
    """Captured tables of an open file, all as of the LSNs that `lsns` has.

    Args:
        connection: The file, open for reading; it is closed with the reader.
        path: Path of the file.

    Attributes:
        connection: For queries of any kind.
        path: The file that is open: the read copy, or the DuckDB file.
        lsns: By slot, the checkpoint: the tables hold exactly the transactions whose commit lies before it.
        published_at: When the read copy was published; None if this is the DuckDB file itself.

    Raises:
        DestinationError: The file holds no captured tables.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str) -> None:
        self.connection = connection
        self.path = path
        self._own = connection.cursor()  # DuckDB 2 runs no query where another one's rows are still to be fetched
        with translated(path):
            ((database,),) = connection.execute("SELECT current_database()").fetchall()
            self._own.execute(f"USE {quote_identifier(database)}.main")
            self._layout = bookkeeping.layout(self._own)
            if self._layout == 0:
                raise DestinationError(
                    f"{path} holds no captured tables",
                    object=path,
                    remedy="open the file that SINK_URL or SINK_READ_COPY names",
                )
            self.lsns: Mapping[str, Lsn] = bookkeeping.read_lsns(self._own)
            self.published_at: datetime | None = bookkeeping.read_published_at(self._own)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, so that windows can commit."""
        self._own.close()
        self.connection.close()

    @property
    def lsn(self) -> Lsn | None:
        """The checkpoint of the file's slot; the lowest one if it has several, None if it has none."""
        return min(self.lsns.values(), default=None)

    def states(self) -> Mapping[TableRef, TableState]:
        """Return the state of every table that a capture knows, of all slots."""
        with translated(self.path):
            return table_records.read_states(self._own, self._layout)

    def frame(self, table: str | TableRef, *, stale: bool = False) -> pl.DataFrame:
        """Return a table as a polars frame, with the columns that DuckDB has.

        Args:
            table: The table: `schema.table` as in `TABLES`; without a schema it is in `public`.
            stale: Return also a table that does not follow the capture, whose rows are as of an earlier LSN.

        Raises:
            TableNotFound: The file has no such captured table.
            TableNotStreaming: The table was not copied yet, or does not stream and `stale` is false.
            DestinationError: DuckDB fails.
        """
        relation = self.relation(table, stale=stale)
        with translated(self.path):
            frame: pl.DataFrame = relation.pl()
        return frame

    def arrow(self, table: str | TableRef, *, stale: bool = False) -> pa.Table:
        """Return a table as an Arrow table; see `frame`."""
        relation = self.relation(table, stale=stale)
        with translated(self.path):
            return relation.to_arrow_table()

    def relation(self, table: str | TableRef, *, stale: bool = False) -> duckdb.DuckDBPyRelation:
        """Return a table as a relation of `connection`, which reads it when it is needed; see `frame`."""
        ref = _table(table)
        state = self.states().get(ref)
        if state is None:
            known = sorted(map(str, self.states()))
            raise TableNotFound(
                f"{self.path} has no captured table {ref}{suggestion(str(ref), known)}",
                object=ref,
                remedy=f"choose from: {', '.join(known)}" if known else "run dbmazz capture, which copies the tables",
            )
        if state.snapshot_lsn is None or (state.state is not TableStatus.STREAMING and not stale):
            raise _not_streaming(state, self.path)
        with translated(self.path):
            return self.connection.sql(f"SELECT * FROM {qualified(self._own, ref)}")


def _table(table: str | TableRef) -> TableRef:
    if isinstance(table, TableRef):
        return table
    (pattern,) = parse_tables(table)
    if pattern.name is None:
        raise TableNotFound(f"{table} is a pattern, not a table", object=table, remedy="name one table")
    return TableRef(pattern.schema, pattern.name)


def _not_streaming(state: TableState, path: str) -> TableNotStreaming:
    if state.snapshot_lsn is None:
        what, remedy = f"{state.table} was not copied to {path} yet", "run dbmazz capture"
    else:
        as_of = f"; its rows are as of {state.lsn}" if state.lsn is not None else ""
        what, remedy = f"{state.table} in {path} is {state.state.value}{as_of}", "read it with stale=True"
    if state.problem is not None:
        what += f": {state.problem.reason}"
        remedy = f"{state.problem.remedy}; or {remedy}" if state.problem.remedy else remedy
    return TableNotStreaming(what, object=state.table, remedy=remedy)
