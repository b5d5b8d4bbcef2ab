"""Read whole tables in an exported snapshot.

Workers that have all imported one exported snapshot read ranges of pages with a binary COPY, and read the fields by
column (`types.binary`).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import polars as pl

from dbmazz_core.connectors.sources.postgres.connection import Server
from dbmazz_core.connectors.sources.postgres.snapshot.columns import CopiedColumn
from dbmazz_core.connectors.sources.postgres.snapshot.copy_connection import CopyConnection, CopyFailed, CopyStopped
from dbmazz_core.connectors.sources.postgres.snapshot.copy_errors import copy_error
from dbmazz_core.connectors.sources.postgres.snapshot.copy_format import MalformedRows, RowBlock
from dbmazz_core.connectors.sources.postgres.snapshot.planning import EMPTY_PATH_CONDITION, set_path
from dbmazz_core.connectors.sources.postgres.types.binary_fields import MalformedValue
from dbmazz_core.connectors.sources.postgres.types.read import read_each
from dbmazz_core.errors import MalformedCopy, NoFreeWalSender
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.masked_columns import masked, utf8
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.model.values import escaped
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import TableRef

#: Longest time, in seconds, until a reader of rows notices that its workers have ended.
_WAIT_S = 0.02


@dataclass(frozen=True, slots=True)
class PageRange:
    """The pages of a table from `first` to before `last`; None: to the end."""

    first: int
    last: int | None


def page_ranges(pages: int, estimated_rows: int, chunk_size: int) -> list[PageRange]:
    """Return ranges of pages with about `chunk_size` rows each. The last range has no end.

    So it includes rows beyond the estimate.

    >>> page_ranges(pages=100, estimated_rows=1000, chunk_size=400)
    [PageRange(first=0, last=40), PageRange(first=40, last=80), PageRange(first=80, last=None)]
    """
    step = max(1, int(pages * chunk_size / max(estimated_rows, 1)))
    firsts = range(0, max(pages, 1), step)
    return [PageRange(first, None if first + step >= pages else first + step) for first in firsts]


def unfinished_ranges(ranges: Sequence[PageRange], finished: Sequence[PageRange]) -> list[PageRange]:
    """Return what is left of ranges without pages that are finished.

    Args:
        ranges: All ranges of a table, in order.
        finished: Ranges of the same table, perhaps cut otherwise, without overlaps.

    >>> unfinished_ranges(page_ranges(100, 1000, 400), [PageRange(0, 40), PageRange(60, 70)])
    [PageRange(first=40, last=60), PageRange(first=70, last=80), PageRange(first=80, last=None)]
    """
    left = list(ranges)
    for done in finished:
        left = [rest for pages in left for rest in _without(pages, done)]
    return left


def _without(pages: PageRange, done: PageRange) -> Iterator[PageRange]:
    """Yield what is left of a range, before and behind another one."""
    if pages.first < done.first:
        yield pages if pages.last is not None and pages.last <= done.first else PageRange(pages.first, done.first)
    if done.last is not None and (pages.last is None or done.last < pages.last):
        yield PageRange(max(pages.first, done.last), pages.last)


def restrict(query: str, pages: PageRange, row_filter: str | None, *, planned_with: str | None = None) -> str:
    """Return a query restricted to pages, for a TID range scan (PostgreSQL 14), and to the published rows.

    Args:
        query: The query of `select_query`.
        pages: The pages.
        row_filter: SQL condition of the publication.
        planned_with: See `planning.path_to_plan`.
    """
    conditions = [f"({row_filter})"] if row_filter else []
    if pages.first:
        conditions.append(f"ctid OPERATOR(pg_catalog.>=) '({pages.first},0)'::pg_catalog.tid")
    if pages.last is not None:  # None for a partitioned table, which has no pages of its own
        conditions.append(f"ctid OPERATOR(pg_catalog.<) '({pages.last},0)'::pg_catalog.tid")
    if planned_with is not None:
        conditions.append(EMPTY_PATH_CONDITION)
    return f"{query} WHERE {' AND '.join(conditions)}" if conditions else query


@dataclass(frozen=True, slots=True, eq=False)
class TableCopy:
    """How the rows of one table are read.

    Attributes:
        schema: The table and its captured columns.
        columns: How each column is selected and read.
        query: The query of `select_query`.
        row_filter: SQL condition that the rows must fulfil, as in PostgreSQL's own initial copy; None: all rows.
        planned_with: See `planning.path_to_plan`.
        keep_unreadable: Whether texts that are no values of their column's type are yielded, not raised.
    """

    schema: TableSchema
    columns: Sequence[CopiedColumn]
    query: str
    row_filter: str | None = None
    planned_with: str | None = None
    keep_unreadable: bool = False

    def read(self, block: RowBlock, *, raw: bool) -> CopiedRows:
        """Return rows with their columns in carrier dtypes, or natural ones, masked, and named by their places.

        Args:
            block: The rows.
            raw: Whether texts can be any bytes.

        Raises:
            BadValue: A text is no value of its column's type, and `keep_unreadable` is False.
            MalformedCopy: A row does not have the binary format.
        """
        columns: list[pl.Series] = []
        try:
            for column, fields in zip(self.columns, block.columns(len(self.columns)), strict=True):
                columns.append(column.decode(fields))
        except MalformedRows as error:
            raise self.malformed(str(error)) from None
        except MalformedValue as error:
            raise self.malformed(f"column {self.columns[len(columns)].definition.name}: {error.detail}") from None
        values: list[pl.Series] = []
        unreadable: dict[int, pl.Series] = {}
        for number, (series, column) in enumerate(zip(columns, self.columns, strict=True)):
            found, wrong = _values(series, column, raw=raw)
            if wrong is not None and wrong.any():
                places = wrong.arg_true()
                texts = [escaped(text) for text in series.gather(places)]
                if not self.keep_unreadable:
                    row = partial(_field, columns, places[0])
                    raise bad_value(self.schema, number, texts[0], row=row, copied=True)
                none = pl.repeat(None, len(series), dtype=pl.String, eager=True)
                unreadable[number] = none.scatter(places, texts)
            values.append(found.alias(value_column(number)))
        return CopiedRows(pl.DataFrame(values), unreadable, block.size)

    def malformed(self, detail: str) -> MalformedCopy:
        """Return the error for bytes that are no rows of a binary COPY."""
        return MalformedCopy(
            f"the rows of {self.schema.table} came in a wrong format: {detail}; nothing of the table was copied",
            object=self.schema.table,
            remedy="run again; if it happens again, report it with the server's version and the table's definition",
            tables=[self.schema.table],
        )


def _values(series: pl.Series, column: CopiedColumn, *, raw: bool) -> tuple[pl.Series, pl.Series | None]:
    """Return the values of a decoded column, and which of its texts are no values of its type; None: all are."""
    type = column.definition.type
    if column.masker is not None:
        return masked(column.masker, series if raw else series.cast(pl.String), type), None
    if series.dtype != pl.Binary or type.carrier == pl.Binary:
        return series, None
    if type.carrier == pl.String:
        values = utf8(series)
        return values, values.is_null() & series.is_not_null() if raw else None
    return read_each(series, type)


def _field(columns: Sequence[pl.Series], row: int, column: int) -> object:
    return columns[column][row]


class SnapshotWorkers:
    """Connections that have imported one exported snapshot and read ranges of tables concurrently.

    Args:
        server: The server that has the snapshot.
        url: Its URL.
        snapshot_name: Name of the snapshot. The connection that exported it must stay open.
        workers: Number of connections, at most. If the server takes fewer, these do the work.
        lock_timeout_s: `lock_timeout` of the connections, in seconds.
    """

    def __init__(
        self, server: Server, url: SecretUrl, snapshot_name: str, *, workers: int, lock_timeout_s: int
    ) -> None:
        self._url = url
        self._open = partial(CopyConnection.open, server, url, snapshot_name, lock_timeout_s=lock_timeout_s)
        self._workers = workers
        self._connections: list[CopyConnection] = []

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def value(self, query: str, table: TableRef) -> str | None:
        """Run a query that sees the snapshot, for the copy of a table; return the first value of its result.

        Raises:
            SourceError: A connection, the import of the snapshot or the query failed.
        """
        (connection,) = self._connect(1, table)
        try:
            return connection.execute(query)
        except CopyFailed as error:
            raise copy_error(error, self._url, table) from None

    def rows(self, copy: TableCopy, ranges: Sequence[PageRange], *, with_ends: bool = False) -> Generator[CopiedRows]:
        """Yield the rows of ranges of a table, in any order.

        Args:
            copy: How the rows are read.
            ranges: Ranges of the table's pages.
            with_ends: Whether an empty frame comes behind the last rows of each range (`CopiedRows.completes`).

        Raises:
            SourceError: A connection, the import of the snapshot or the query failed.
            BadValue: A text is no value of its column's type.
        """
        pending: queue.SimpleQueue[PageRange] = queue.SimpleQueue()
        for pages in ranges:
            pending.put(pages)
        results: queue.Queue[CopiedRows | Exception | None] = queue.Queue(maxsize=2)
        stopping = threading.Event()
        threads = [
            threading.Thread(
                target=self._read_ranges, args=(connection, copy, pending, results, stopping), name="dbmazz-snapshot"
            )
            for connection in self._connect(min(self._workers, len(ranges)), copy.schema.table)
        ]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                item = results.get()
                if item is None:
                    running -= 1
                elif isinstance(item, Exception):
                    raise item
                elif with_ends or item.completes is None:
                    yield item
        finally:
            stopping.set()
            while any(thread.is_alive() for thread in threads):
                while not results.empty():
                    results.get_nowait()
                for thread in threads:
                    thread.join(_WAIT_S)

    def _connect(self, count: int, table: TableRef) -> Sequence[CopyConnection]:
        """Return usable connections; a connection whose copy was left before its end is replaced."""
        for connection in self._connections:
            if not connection.is_usable:
                connection.close()
        self._connections = [connection for connection in self._connections if connection.is_usable]
        try:
            while len(self._connections) < count:
                self._connections.append(self._open())
        except NoFreeWalSender:
            if not self._connections:
                raise
            self._workers = len(self._connections)  # fewer connections copy as well
        except CopyFailed as error:
            raise copy_error(error, self._url, table) from None
        return self._connections[:count]

    def _read_ranges(
        self,
        connection: CopyConnection,
        copy: TableCopy,
        pending: queue.SimpleQueue[PageRange],
        results: queue.Queue[CopiedRows | Exception | None],
        stopping: threading.Event,
    ) -> None:
        """Read ranges of a table until none is pending; put their rows, then an error or nothing, then None."""
        try:
            while not stopping.is_set():
                pages = pending.get_nowait()
                if copy.planned_with is not None:
                    connection.execute(set_path(copy.planned_with))
                query = restrict(copy.query, pages, copy.row_filter, planned_with=copy.planned_with)
                for block in connection.rows(query, len(copy.columns), stopping.is_set):
                    results.put(copy.read(block, raw=connection.raw))
                    if stopping.is_set():
                        return
                results.put(CopiedRows(pl.DataFrame(), {}, completes=(pages.first, pages.last)))
        except (queue.Empty, CopyStopped):
            pass
        except CopyFailed as error:
            results.put(copy_error(error, self._url, copy.schema.table))
        except MalformedRows as error:
            results.put(copy.malformed(str(error)))
        except Exception as error:  # noqa: BLE001 - the consumer raises it
            results.put(error)
        finally:
            results.put(None)
