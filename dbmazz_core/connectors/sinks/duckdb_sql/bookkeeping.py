"""The schema `_dbmazz`: what the destination remembers about itself, written in the transactions it is about."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import polars as pl

from dbmazz_core.connectors.sinks.duckdb_sql.sql import FRAME, query
from dbmazz_core.lsn import Lsn
from dbmazz_core.model.checkpoint import Checkpoint
from dbmazz_core.model.policies import Mode
from dbmazz_core.model.recorded import RecordedTable
from dbmazz_core.model.records import CommittedTransaction
from dbmazz_core.model.schema import ColumnChoice, ColumnDef, TableSchema
from dbmazz_core.model.table_shape import TableShape, TableToken
from dbmazz_core.model.table_state import TableState
from dbmazz_core.table_ref import TableRef

#: Version of the layout below; a file with a higher one was written by a newer dbmazz.
LAYOUT = 4
#: Layout from which on rows in quarantine are recorded, and which tables are complete.
WITH_QUARANTINE = 2
#: Layout from which on the last transaction is recorded.
WITH_TRANSACTION = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_CREATE = """
CREATE SCHEMA IF NOT EXISTS _dbmazz;
CREATE TABLE IF NOT EXISTS _dbmazz.layout (version INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.checkpoints (
    slot VARCHAR NOT NULL, system_identifier VARCHAR NOT NULL, timeline INTEGER NOT NULL, database VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL, commit_time TIMESTAMPTZ, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.tables (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, state VARCHAR NOT NULL,
    snapshot_lsn UBIGINT NOT NULL, columns JSON NOT NULL, key JSON NOT NULL, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.schema_history (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, commit_lsn UBIGINT NOT NULL,
    xid UINTEGER NOT NULL, kind VARCHAR NOT NULL, detail VARCHAR NOT NULL, action VARCHAR NOT NULL,
    columns JSON NOT NULL, key JSON NOT NULL, recorded_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS _dbmazz.quarantine (
    slot VARCHAR NOT NULL, schema_name VARCHAR NOT NULL, table_name VARCHAR NOT NULL, commit_lsn UBIGINT NOT NULL,
    xid UINTEGER NOT NULL, ordinal BIGINT NOT NULL, op VARCHAR NOT NULL, column_name VARCHAR NOT NULL,
    reason VARCHAR NOT NULL, row JSON NOT NULL, quarantined_at TIMESTAMPTZ NOT NULL);
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS commit_lsn UBIGINT;
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS xid UINTEGER;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS mode VARCHAR DEFAULT 'mirror';
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS complete BOOLEAN DEFAULT false;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS identity JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS choice JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS targets JSON;
DELETE FROM _dbmazz.layout;
INSERT INTO _dbmazz.layout VALUES ({layout});
"""


def layout(connection: duckdb.DuckDBPyConnection) -> int:
    """Version of the layout that the file has; 0 where it has none."""
    found = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND table_schema = '_dbmazz' AND table_name = 'layout'"
    ).fetchone()
    if not found or not found[0]:
        return 0
    row = connection.execute("SELECT max(version) FROM _dbmazz.layout").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the schema, or bring an older one to this layout."""
    connection.execute(_CREATE.format(layout=LAYOUT))


def read_checkpoint(connection: duckdb.DuckDBPyConnection, slot: str, layout: int) -> Checkpoint | None:
    """The checkpoint of a slot."""
    transaction = "commit_lsn, xid" if layout >= WITH_TRANSACTION else "NULL, NULL"
    row = connection.execute(
        f"SELECT lsn, system_identifier, timeline, database, epoch_us(commit_time), {transaction} "
        "FROM _dbmazz.checkpoints WHERE slot = ?",
        [slot],
    ).fetchone()
    if row is None:
        return None
    lsn, system_identifier, timeline, database, commit_time_us, commit_lsn, xid = row
    commit_time, last = _time(commit_time_us), None
    if commit_lsn is not None and commit_time is not None:
        last = CommittedTransaction(Lsn(commit_lsn), xid, commit_time)
    return Checkpoint(slot, Lsn(lsn), system_identifier, timeline, database, commit_time, last)


def write_checkpoint(connection: duckdb.DuckDBPyConnection, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a slot."""
    connection.execute("DELETE FROM _dbmazz.checkpoints WHERE slot = ?", [checkpoint.slot])
    connection.execute(
        "INSERT INTO _dbmazz.checkpoints "
        "(slot, system_identifier, timeline, database, lsn, commit_time, updated_at, commit_lsn, xid) "
        "VALUES (?, ?, ?, ?, ?, CAST(? AS TIMESTAMPTZ), now(), ?, ?)",
        [
            checkpoint.slot,
            checkpoint.system_identifier,
            checkpoint.timeline,
            checkpoint.database,
            int(checkpoint.lsn),
            checkpoint.commit_time.isoformat() if checkpoint.commit_time else None,
            int(checkpoint.last.commit_lsn) if checkpoint.last else None,
            checkpoint.last.xid if checkpoint.last else None,
        ],
    )


def read_recorded(connection: duckdb.DuckDBPyConnection, slot: str, layout: int) -> list[RecordedTable]:
    """The tables that a slot feeds. One that it does not feed any more, and that somebody has dropped, is forgotten."""
    kept = """slot = ? AND (state <> 'snapshotting' OR EXISTS (
        FROM duckdb_tables() d WHERE d.database_name = current_database()
        AND d.schema_name = t.schema_name AND d.table_name = t.table_name))"""
    return [RecordedTable(_state(row), _shape(row)) for row in _rows(connection, layout, kept, [slot])]


def read_state(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableState | None:
    """A table's state and mode, whichever slot feeds it."""
    return next(map(_state, _rows(connection, layout, _OF_TABLE, [table.schema, table.name])), None)


def read_schema(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableSchema | None:
    """A table's columns and key as they were recorded."""
    return next(map(_schema, _rows(connection, layout, _OF_TABLE, [table.schema, table.name])), None)


_OF_TABLE = "schema_name = ? AND table_name = ?"


def _rows(
    connection: duckdb.DuckDBPyConnection, layout: int, condition: str, values: Sequence[str]
) -> list[dict[str, Any]]:
    """Tables as they are recorded, by column, and in `has_all` whether one is known to have exactly the source's rows.

    Which columns there are depends on the layout: a file opened read-only may still have layout 1, which knew mirrors
    only, and not whether they were complete.
    """
    has_all = "false"
    if layout >= WITH_QUARANTINE:
        has_all = """complete AND NOT EXISTS (
            FROM _dbmazz.quarantine q WHERE q.schema_name = t.schema_name AND q.table_name = t.table_name)"""
    cursor = connection.execute(f"SELECT t.*, {has_all} AS has_all FROM _dbmazz.tables t WHERE {condition}", values)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _ref(row: Mapping[str, Any]) -> TableRef:
    return TableRef(row["schema_name"], row["table_name"])


def _state(row: Mapping[str, Any]) -> TableState:
    mode = Mode(row.get("mode", "mirror"))
    return TableState(_ref(row), row["state"], Lsn(row["snapshot_lsn"]), mode=mode, complete=row["has_all"])


def _schema(row: Mapping[str, Any]) -> TableSchema:
    columns = tuple(map(ColumnDef.from_dict, json.loads(row["columns"])))
    choice = json.loads(row.get("choice") or '{"include": null, "exclude": []}')
    include, exclude = choice["include"], choice["exclude"]
    return TableSchema(
        _ref(row),
        columns,
        tuple(json.loads(row["key"])),
        ColumnChoice(None if include is None else tuple(include), tuple(exclude)),
    )


def _shape(row: Mapping[str, Any]) -> TableShape:
    schema, token = _schema(row), row.get("identity")
    if not token:
        return TableShape.of(schema, None)
    if row.get("targets"):
        return TableShape(schema, json.loads(row["targets"]), TableToken(token))
    # Up to layout 3, each column in the token was a list: the source's name first, the destination's last.
    targets = {column[0]: column[-1] for column in json.loads(token)["columns"]}
    return TableShape(schema, targets, TableToken(token))


def read_owners(connection: duckdb.DuckDBPyConnection) -> dict[TableRef, str]:
    """By table: the slot that feeds it."""
    rows = connection.execute("SELECT schema_name, table_name, slot FROM _dbmazz.tables").fetchall()
    return {TableRef(schema, name): slot for schema, name, slot in rows}


def write_shape(connection: duckdb.DuckDBPyConnection, shape: TableShape) -> None:
    """Record the shape that a table has from here on."""
    schema = shape.schema
    connection.execute(
        "UPDATE _dbmazz.tables SET columns = ?, key = ?, identity = ?, targets = ?, updated_at = now() "
        "WHERE schema_name = ? AND table_name = ?",
        [
            _columns(schema),
            json.dumps(schema.key),
            shape.token,
            json.dumps(shape.targets),
            schema.table.schema,
            schema.table.name,
        ],
    )


def write_states(connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], state: str, *, slot: str) -> None:
    """Record the state of tables that a slot feeds."""
    for table in tables:
        connection.execute(
            "UPDATE _dbmazz.tables SET state = ? WHERE slot = ? AND schema_name = ? AND table_name = ?",
            [state, slot, table.schema, table.name],
        )


def write_history(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    *,
    slot: str,
    commit_lsn: Lsn,
    xid: int,
    entries: Sequence[tuple[str, str, str]],
) -> None:
    """Record what became of a table: kind, detail and action of each change, with the columns afterwards."""
    for kind, detail, action in entries:
        connection.execute(
            "INSERT INTO _dbmazz.schema_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, now())",
            [
                slot,
                schema.table.schema,
                schema.table.name,
                int(commit_lsn),
                xid,
                kind,
                detail,
                action,
                _columns(schema),
                json.dumps(schema.key),
            ],
        )


def rename_table(connection: duckdb.DuckDBPyConnection, old: TableRef, new: TableRef) -> None:
    """Record a table, and its rows in quarantine, under another name."""
    for recorded, also in (("tables", ", updated_at = now()"), ("quarantine", "")):
        connection.execute(
            f"UPDATE _dbmazz.{recorded} SET schema_name = ?, table_name = ?{also} "
            "WHERE schema_name = ? AND table_name = ?",
            [new.schema, new.name, old.schema, old.name],
        )


def write_table(
    connection: duckdb.DuckDBPyConnection,
    shape: TableShape,
    *,
    slot: str,
    snapshot_lsn: Lsn,
    mode: Mode,
    complete: bool,
) -> None:
    """Record a table, replacing what was recorded of it."""
    schema, table = shape.schema, shape.schema.table
    connection.execute(
        "DELETE FROM _dbmazz.tables WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )
    connection.execute(
        "INSERT INTO _dbmazz.tables (slot, schema_name, table_name, state, snapshot_lsn, columns, key, choice, "
        "updated_at, mode, complete) VALUES (?, ?, ?, 'streaming', ?, ?, ?, ?, now(), ?, ?)",
        [
            slot,
            table.schema,
            table.name,
            int(snapshot_lsn),
            _columns(schema),
            json.dumps(schema.key),
            json.dumps({"include": schema.choice.include, "exclude": schema.choice.exclude}),
            mode.value,
            complete,
        ],
    )
    write_shape(connection, shape)


def _columns(schema: TableSchema) -> str:
    return json.dumps([column.to_dict() for column in schema.columns])


def write_quarantine(connection: duckdb.DuckDBPyConnection, table: TableRef, rows: pl.DataFrame, *, slot: str) -> None:
    """Add rows to the quarantine; for their columns see `Sink.quarantine`. The table has not all of the source's rows
    from now on, also when somebody has deleted these."""
    query(
        connection,
        "INSERT INTO _dbmazz.quarantine SELECT ?, ?, ?, commit_lsn, xid, ordinal, op, column_name, reason, "
        f"CAST(row AS JSON), now() FROM {FRAME}",
        rows.to_arrow(compat_level=pl.CompatLevel.newest()),
        [slot, table.schema, table.name],
    )
    connection.execute(
        "UPDATE _dbmazz.tables SET complete = false WHERE schema_name = ? AND table_name = ? AND complete",
        [table.schema, table.name],
    )


def clear_quarantine(connection: duckdb.DuckDBPyConnection, table: TableRef) -> None:
    """Forget a table's rows in quarantine."""
    connection.execute(
        "DELETE FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )


def count_quarantine(connection: duckdb.DuckDBPyConnection, slot: str) -> Mapping[TableRef, int]:
    """Rows in quarantine by table."""
    rows = connection.execute(
        "SELECT schema_name, table_name, count(*) FROM _dbmazz.quarantine WHERE slot = ? GROUP BY ALL", [slot]
    ).fetchall()
    return {TableRef(schema, name): int(count) for schema, name, count in rows}


def quarantine_reasons(connection: duckdb.DuckDBPyConnection, table: TableRef) -> dict[str, int]:
    """Why rows of a table are in quarantine, and how many, most frequent first."""
    rows = connection.execute(
        "SELECT reason, count(*) AS rows FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ? "
        "GROUP BY reason ORDER BY rows DESC, reason",
        [table.schema, table.name],
    ).fetchall()
    return dict(rows)


def _time(epoch_us: int | None) -> datetime | None:
    return None if epoch_us is None else _EPOCH + timedelta(microseconds=epoch_us)
