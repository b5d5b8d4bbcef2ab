"""The format in which a stream's values come: as text, or in binary format, which takes less time on both sides.

PostgreSQL sends all values of a stream in one format (option `binary` of pgoutput, PostgreSQL 14; manual, "Logical
Streaming Replication Parameters"). So it is text where any captured column needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dbmazz_core.connectors.sources.postgres.catalog.description import TableInfo
from dbmazz_core.connectors.sources.postgres.session import Session
from dbmazz_core.connectors.sources.postgres.types.binary_columns import NoBinaryForm, stream_decoder
from dbmazz_core.model.schema import TableSchema
from dbmazz_core.model.stream import StreamFormat
from dbmazz_core.table_ref import TableRef


def stream_format(
    session: Session,
    tables: Iterable[TableInfo],
    recorded: Mapping[TableRef, TableSchema],
    keep_unreadable: Callable[[TableRef], bool] | None,
) -> StreamFormat:
    """Return the format in which a stream's values can come.

    The stream decides again where it describes a table: the answer here saves a second start.

    Args:
        session: The server.
        tables: The tables of the stream.
        recorded: Their captured columns, as the destination has them.
        keep_unreadable: Tables whose bad values are kept apart, with their texts; None: none.
    """
    return StreamFormat(_text_reason(session, [*tables], recorded, keep_unreadable))


def _text_reason(
    session: Session,
    tables: Sequence[TableInfo],
    recorded: Mapping[TableRef, TableSchema],
    keep_unreadable: Callable[[TableRef], bool] | None,
) -> str | None:
    if not session.config.binary:
        return "SOURCE_BINARY is false"
    connection = session.connection
    if connection.info.server_version < 140000:
        return "the server is older than PostgreSQL 14"
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        return "the database is in SQL_ASCII, so that texts can be any bytes"
    if keep_unreadable is not None and (kept := [table.ref for table in tables if keep_unreadable(table.ref)]):
        return f"{kept[0]} has ON_BAD_VALUE=quarantine, which keeps texts"
    session.types.fetch({column.type_oid for table in tables for column in table.columns})
    for table in tables:
        oids = {column.name: column.type_oid for column in table.columns}
        maskers = session.rules.maskers(table.ref)
        for column in recorded[table.ref].columns:
            if column.name not in oids:
                continue  # it is gone, or has another name
            try:
                stream_decoder(column, session.types.base(oids[column.name]), maskers.get(column.name))
            except NoBinaryForm as reason:
                return f"column {column.name} of {table.ref} {reason}"
    return None
