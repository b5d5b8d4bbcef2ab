"""Read whole tables in an exported snapshot.

Workers that have all imported one exported snapshot read ranges of pages with ADBC, as Arrow (a binary COPY, decoded in
C). Columns arrive in the carrier dtypes of the stream: integers, floats, booleans, text and bytes in their binary form;
every other type as the text that its output function returns, which is the text that the stream sends. So snapshot and
stream deliver the same values, and the same conversion reads the text of both.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import adbc_driver_postgresql.dbapi
import polars as pl
import psycopg
from psycopg import sql

from dbmazz_core.connectors.sources.postgres import silence
from dbmazz_core.connectors.sources.postgres.connection import session_conninfo
from dbmazz_core.connectors.sources.postgres.snapshot.adbc import SnapshotConnector, adbc_error
from dbmazz_core.connectors.sources.postgres.snapshot.planning import EMPTY_PATH_CONDITION, set_path
from dbmazz_core.connectors.sources.postgres.snapshot.silent_workers import SilentWorkers
from dbmazz_core.connectors.sources.postgres.types.read import read_each
from dbmazz_core.model.bad_value import bad_value
from dbmazz_core.model.datatypes import Kind
from dbmazz_core.model.frame_columns import value_column
from dbmazz_core.model.masked_columns import masked, utf8
from dbmazz_core.model.masks import Masker
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.source import CopiedRows
from dbmazz_core.model.values import escaped
from dbmazz_core.settings.secret_url import SecretUrl
from dbmazz_core.table_ref import TableRef

#: Types that ADBC delivers in the carrier dtype, by OID: boolean, bytea, bigint, smallint, integer, text, real, double
#: precision, character, character varying.
_ADBC_KINDS = {
    16: Kind.BOOLEAN,
    17: Kind.BYTES,
    20: Kind.INT64,
    21: Kind.INT16,
    23: Kind.INT32,
    25: Kind.STRING,
    700: Kind.FLOAT32,
    701: Kind.FLOAT64,
    1042: Kind.STRING,
    1043: Kind.STRING,
}
#: Types whose output function returns the stored text: text, character, character varying.
_TEXT_TYPES = frozenset((25, 1042, 1043))
#: Size of Arrow batches. A small size limits the memory of each worker.
_BATCH_BYTES = 8 << 20


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


def select_query(
    functions: Iterable[OutputFunction], schema: TableSchema, *, only: bool, maskers: Mapping[str, Masker]
) -> sql.Composed:
    """Return the SELECT whose columns arrive in carrier dtypes, or as text to be read or masked.

    Other types are converted with their output function, as in the stream. A cast to text would differ: it trims
    `char(n)`, adds a netmask to `inet`, and writes `xml` in another form.

    Args:
        functions: The table's columns as `output_functions` returns them.
        schema: The table and its captured columns.
        only: Whether inheritance children are left out, as in the publication.
        maskers: Masks by column. Columns that a mask sets to NULL are not read. Hashes are not computed by the server,
            which would log the key.
    """
    kinds = {column.name: column.type.kind for column in schema.columns}
    columns: dict[str, sql.Composable] = {}
    for name, function_schema, function, can_call, type_oid, *base in functions:
        column, masker, oid = sql.Identifier(str(name)), maskers.get(str(name)), int(str(type_oid))
        value = sql.SQL("{}::{}").format(column, sql.Identifier(*map(str, base))) if any(base) else column
        if can_call:
            text = sql.SQL("pg_catalog.textin({}({}))").format(
                sql.Identifier(str(function_schema), str(function)), value
            )
        else:
            # `format` calls the output function whatever its declared argument is, and checks no privileges; it looks
            # the function up for each value, and returns an empty text for NULL. IS NULL differs for composites.
            text = sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {0}) END").format(column)
        if masker is not None and masker.mask.kind == "null":
            columns[str(name)] = sql.SQL("NULL::pg_catalog.text AS {}").format(column)
            continue
        columns[str(name)] = (
            column
            if (_ADBC_KINDS.get(oid) is kinds.get(str(name)) if masker is None else oid in _TEXT_TYPES)
            else sql.SQL("{} AS {}").format(text, column)
        )
    return sql.SQL("SELECT {} FROM {}{}").format(
        sql.SQL(", ").join(columns[name] for name in schema.names),
        sql.SQL("ONLY " if only else ""),
        sql.Identifier(schema.table.schema, schema.table.name),
    )


#: A column's name, schema and name of the output function of its type, whether a query can call it, OID of the type,
#: and schema and name of the base type if the type is a domain.
OutputFunction = tuple[object, ...]


def output_functions(
    connection: psycopg.Connection[tuple[object, ...]], tables: Iterable[int]
) -> dict[int, list[OutputFunction]]:
    """Return the columns of tables, by OID of the table, with the output functions of their types.

    Values of a domain are cast to the base type, because polymorphic output functions do not accept every domain
    (enum_out none). A query cannot call a function that is declared for another type (refcursor has that of text), or
    that the role may not execute, or whose schema, or that of the base type, the role may not use.
    """
    found: dict[int, list[OutputFunction]] = {oid: [] for oid in tables}
    rows = connection.execute(
        "SELECT a.attrelid::bigint, a.attname, n.nspname, p.proname, "
        "(p.proargtypes[0] = coalesce(base.oid, t.oid) OR argument.typtype = 'p') "
        "AND has_function_privilege(p.oid, 'EXECUTE') AND has_schema_privilege(n.oid, 'USAGE') "
        "AND coalesce(has_schema_privilege(base.typnamespace, 'USAGE'), true), "
        "a.atttypid::bigint, base.nspname, base.typname "
        "FROM pg_catalog.pg_attribute a "
        "JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
        "JOIN pg_catalog.pg_proc p ON p.oid = t.typoutput "
        "JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace "
        "JOIN pg_catalog.pg_type argument ON argument.oid = p.proargtypes[0] "
        "LEFT JOIN LATERAL (WITH RECURSIVE over AS ("
        "SELECT t.typbasetype AS oid UNION ALL SELECT within.typbasetype FROM over "
        "JOIN pg_catalog.pg_type within ON within.oid = over.oid WHERE within.typtype = 'd') "
        "SELECT bn.nspname, b.typname, b.oid, b.typnamespace FROM over "
        "JOIN pg_catalog.pg_type b ON b.oid = over.oid AND b.typtype <> 'd' "
        "JOIN pg_catalog.pg_namespace bn ON bn.oid = b.typnamespace) AS base ON t.typtype = 'd' "
        "WHERE a.attrelid = ANY (%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped",
        [list(found)],
    )
    for table, *function in rows:
        found[int(str(table))].append(tuple(function))
    return found


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


class SnapshotWorkers:
    """Connections that have imported one exported snapshot and read ranges of tables concurrently.

    Args:
        url: URL of the server.
        server_version: `server_version_num`.
        snapshot_name: Name of the snapshot. The connection that exported it must stay open until the constructor
            returns.
        workers: Number of connections.

    Raises:
        SourceError: A connection or the import of the snapshot failed.
    """

    def __init__(
        self,
        url: SecretUrl,
        server_version: int,
        snapshot_name: str,
        *,
        workers: int,
        lock_timeout_s: int,
    ) -> None:
        self._url = url
        self._silent = SilentWorkers(session_conninfo(url, "dbmazz look"))
        self._connector = SnapshotConnector(
            url, server_version, snapshot_name, self._silent.add, lock_timeout_s=lock_timeout_s
        )
        self._connections: list[adbc_driver_postgresql.dbapi.Connection] = []
        try:
            for _ in range(workers):
                self._connections.append(self._connector.connect())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections, and with them the snapshot."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._silent.close()

    def rows(
        self,
        schema: TableSchema,
        query: str,
        ranges: Sequence[PageRange],
        maskers: Mapping[str, Masker],
        *,
        row_filter: str | None = None,
        planned_with: str | None = None,
        keep_unreadable: bool = False,
    ) -> Iterator[CopiedRows]:
        """Yield the rows of ranges of a table, in any order.

        Args:
            schema: The table and its captured columns.
            query: The query of `select_query`.
            ranges: Ranges of the table's pages.
            maskers: Masks by column.
            row_filter: SQL condition that the rows must fulfil, as in PostgreSQL's own initial copy; None: all rows.
            planned_with: See `planning.path_to_plan`.
            keep_unreadable: Whether texts that are no values of their column's type are yielded, not raised.
        """
        pending: queue.SimpleQueue[PageRange] = queue.SimpleQueue()
        for pages in ranges:
            pending.put(pages)
        results: queue.Queue[CopiedRows | Exception | None] = queue.Queue(maxsize=2)
        stopping = threading.Event()
        threads = [
            threading.Thread(
                target=self._read_ranges,
                args=(
                    connection,
                    schema.table,
                    lambda pages: restrict(query, pages, row_filter, planned_with=planned_with),
                    planned_with,
                    pending,
                    results,
                    stopping,
                    lambda frame: _to_copied_rows(
                        _texts_as_bytes(frame) if self._connector.raw else frame, schema, maskers, keep_unreadable
                    ),
                ),
                name="dbmazz-snapshot",
            )
            for connection in self._connections[: len(ranges)]
        ]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                try:
                    item = results.get(timeout=silence.SILENCE_LIMIT_S)
                except queue.Empty:
                    self._silent.end_dead()
                    continue
                if item is None:
                    running -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            stopping.set()
            while any(thread.is_alive() for thread in threads):
                while not results.empty():
                    results.get_nowait()
                for thread in threads:
                    thread.join(0.02)

    def _read_ranges(
        self,
        connection: adbc_driver_postgresql.dbapi.Connection,
        table: TableRef,
        query: Callable[[PageRange], str],
        planned_with: str | None,
        pending: queue.SimpleQueue[PageRange],
        results: queue.Queue[CopiedRows | Exception | None],
        stopping: threading.Event,
        read: Callable[[pl.DataFrame], CopiedRows],
    ) -> None:
        """Read ranges of a table until none is pending; put their rows, then an error or nothing, then None."""
        try:
            while not stopping.is_set():
                pages = pending.get_nowait()
                with connection.cursor() as cursor:
                    if planned_with is not None:
                        cursor.execute(set_path(planned_with))
                        cursor.fetchall()
                    cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
                    cursor.execute(query(pages))
                    for batch in cursor.fetch_record_batch():
                        frame = pl.from_arrow(batch)
                        assert isinstance(frame, pl.DataFrame)
                        results.put(read(frame))
                        if stopping.is_set():
                            return
        except queue.Empty:
            pass
        except Exception as error:  # noqa: BLE001 - the consumer raises it
            results.put(adbc_error(error, self._url, table, connection))
        finally:
            results.put(None)


def _texts_as_bytes(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame with its texts as bytes: in a database in SQL_ASCII a text can be any bytes."""
    return pl.DataFrame([series.cast(pl.Binary) if series.dtype == pl.String else series for series in frame])


def _to_copied_rows(
    frame: pl.DataFrame, schema: TableSchema, maskers: Mapping[str, Masker], keep_unreadable: bool
) -> CopiedRows:
    """Return rows with their columns in carrier dtypes, masked, and named by their places.

    Raises:
        BadValue: A text is no value of its column's type, and `keep_unreadable` is False.
    """
    columns: list[pl.Series] = []
    unreadable: dict[int, pl.Series] = {}
    for number, (series, column) in enumerate(zip(frame, schema.columns, strict=True)):
        if column.name in maskers:
            values, wrong = masked(maskers[column.name], series, column.type), None
        elif series.dtype == column.type.carrier:
            values, wrong = series, None
        elif column.type.carrier == pl.String:
            values = utf8(series)
            wrong = values.is_null() & series.is_not_null()
        else:
            values, wrong = read_each(series.cast(pl.Binary), column.type)
        if wrong is not None and wrong.any():
            places = wrong.arg_true()
            texts = [escaped(raw) for raw in series.gather(places).cast(pl.Binary)]
            if not keep_unreadable:
                raise bad_value(schema, number, texts[0], row=partial(frame.item, places[0]), copied=True)
            none = pl.repeat(None, len(series), dtype=pl.String, eager=True)
            unreadable[number] = none.scatter(places, texts)
        columns.append(values.alias(value_column(number)))
    return CopiedRows(pl.DataFrame(columns), unreadable)
