"""The schema `_dbmazz`: checkpoint, tables, schema history and quarantine of the destination.

A transaction of the destination writes its bookkeeping together with its rows.
"""

from __future__ import annotations

import json
import time
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
from dbmazz_core.model.table_state import Problem, TableState, TableStatus
from dbmazz_core.table_ref import TableRef

#: Version of the schema below. A newer dbmazz writes a higher version.
LAYOUT = 6
#: First layout with the quarantine, and with the mark for complete tables.
LAYOUT_WITH_QUARANTINE = 2
#: First layout that records the last transaction.
LAYOUT_WITH_TRANSACTION = 3
#: First layout that records the OID of the source's database.
LAYOUT_WITH_DATABASE_OID = 5
#: First layout with the reasons of states.
LAYOUT_WITH_STATES = 6
#: The states that older layouts record, under the names that they have since layout 6.
_FORMER_STATES = {"snapshotting": TableStatus.COPYING, "changed": TableStatus.COPYING}
#: How long another thread may take to create the schema, in seconds.
_CREATE_TIMEOUT_S = 30
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
ALTER TABLE _dbmazz.checkpoints ADD COLUMN IF NOT EXISTS database_oid UINTEGER;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS mode VARCHAR DEFAULT 'mirror';
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS complete BOOLEAN DEFAULT false;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS identity JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS choice JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS targets JSON;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS lsn UBIGINT;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS since TIMESTAMPTZ;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS error VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS reason VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS remedy VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS retry_when VARCHAR;
ALTER TABLE _dbmazz.tables ADD COLUMN IF NOT EXISTS last_change_lsn UBIGINT;
UPDATE _dbmazz.tables SET state = 'copying', reason = 'its shape changed at the source' WHERE state = 'changed';
UPDATE _dbmazz.tables SET state = 'copying' WHERE state = 'snapshotting';
DELETE FROM _dbmazz.layout;
INSERT INTO _dbmazz.layout VALUES ({layout});
"""


def layout(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the version of the layout that the file has; 0 if it has no bookkeeping."""
    found = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND table_schema = '_dbmazz' AND table_name = 'layout'"
    ).fetchone()
    if not found or not found[0]:
        return 0
    row = connection.execute("SELECT max(version) FROM _dbmazz.layout").fetchone()
    return int(row[0]) if row and row[0] is not None else 0


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the schema, or migrate an older layout to `LAYOUT`, in a transaction of its own.

    Two threads of a process can do this at the same time; one of them fails and tries again. The transaction is short:
    a copy of a table in the same transaction would make the other thread wait for its end.
    """
    deadline = time.monotonic() + _CREATE_TIMEOUT_S
    while True:
        try:
            connection.execute(f"BEGIN TRANSACTION; {_CREATE.format(layout=LAYOUT)} COMMIT")
            return
        except duckdb.TransactionException:
            connection.execute("ROLLBACK")
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def is_unused(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether the schema, which exists, holds neither tables nor checkpoints."""
    found = connection.execute("SELECT 1 FROM _dbmazz.tables UNION ALL SELECT 1 FROM _dbmazz.checkpoints").fetchone()
    return found is None


def read_checkpoint(connection: duckdb.DuckDBPyConnection, slot: str, layout: int) -> Checkpoint | None:
    """Return the checkpoint of a slot; None if it has none."""
    transaction = "commit_lsn, xid" if layout >= LAYOUT_WITH_TRANSACTION else "NULL, NULL"
    database_oid = "database_oid" if layout >= LAYOUT_WITH_DATABASE_OID else "NULL"
    row = connection.execute(
        f"SELECT lsn, system_identifier, timeline, database, epoch_us(commit_time), {transaction}, {database_oid} "
        "FROM _dbmazz.checkpoints WHERE slot = ?",
        [slot],
    ).fetchone()
    if row is None:
        return None
    lsn, system_identifier, timeline, database, commit_time_us, commit_lsn, xid, oid = row
    commit_time, last = _time(commit_time_us), None
    if commit_lsn is not None and commit_time is not None:
        last = CommittedTransaction(Lsn(commit_lsn), xid, commit_time)
    return Checkpoint(slot, Lsn(lsn), system_identifier, timeline, database, commit_time, last, oid)


def write_checkpoint(connection: duckdb.DuckDBPyConnection, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a slot."""
    connection.execute("DELETE FROM _dbmazz.checkpoints WHERE slot = ?", [checkpoint.slot])
    connection.execute(
        "INSERT INTO _dbmazz.checkpoints "
        "(slot, system_identifier, timeline, database, lsn, commit_time, updated_at, commit_lsn, xid, "
        "database_oid) VALUES (?, ?, ?, ?, ?, CAST(? AS TIMESTAMPTZ), now(), ?, ?, ?)",
        [
            checkpoint.slot,
            checkpoint.system_identifier,
            checkpoint.timeline,
            checkpoint.database,
            int(checkpoint.lsn),
            checkpoint.commit_time.isoformat() if checkpoint.commit_time else None,
            int(checkpoint.last.commit_lsn) if checkpoint.last else None,
            checkpoint.last.xid if checkpoint.last else None,
            checkpoint.database_oid,
        ],
    )


def read_recorded(
    connection: duckdb.DuckDBPyConnection, slot: str, layout: int
) -> tuple[list[RecordedTable], list[TableState]]:
    """Return the tables that a slot feeds, and the states of its tables that were never copied.

    A table that does not stream, because it must be copied or was taken out of the settings, is left out if somebody
    dropped it.
    """
    condition = """slot = ? AND (state NOT IN ('copying', 'snapshotting', 'removed') OR EXISTS (
        FROM duckdb_tables() d WHERE d.database_name = current_database()
        AND d.schema_name = t.schema_name AND d.table_name = t.table_name))"""
    rows = [(_state(row), row) for row in _rows(connection, layout, condition, [slot])]
    tables = [RecordedTable(state, _shape(row)) for state, row in rows if state.snapshot_lsn is not None]
    return tables, [state for state, _ in rows if state.snapshot_lsn is None]


def read_state(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableState | None:
    """Return the state and mode of a table of any slot; None if it is not recorded."""
    return next(map(_state, _rows(connection, layout, _OF_TABLE, [table.schema, table.name])), None)


def read_schema(connection: duckdb.DuckDBPyConnection, table: TableRef, layout: int = LAYOUT) -> TableSchema | None:
    """Return the recorded columns and key of a table of any slot; None if it is not recorded."""
    return next(map(_schema, _rows(connection, layout, _OF_TABLE, [table.schema, table.name])), None)


_OF_TABLE = "schema_name = ? AND table_name = ?"


def _rows(
    connection: duckdb.DuckDBPyConnection, layout: int, condition: str, values: Sequence[str]
) -> list[dict[str, Any]]:
    """Return rows of `_dbmazz.tables` as dicts by column.

    There are also `has_all`: whether the table is complete; `since_us`: `since` in microseconds since 1970; and
    `copied`: whether the table was copied.

    The columns depend on the layout: a file that is opened for reading may still have layout 1, which has only tables
    in mode `mirror` and does not record whether they are complete.
    """
    has_all = "false"
    if layout >= LAYOUT_WITH_QUARANTINE:
        has_all = """complete AND NOT EXISTS (
            FROM _dbmazz.quarantine q WHERE q.schema_name = t.schema_name AND q.table_name = t.table_name)"""
    since = "epoch_us(since)" if layout >= LAYOUT_WITH_STATES else "NULL"
    copied = "CAST(columns AS VARCHAR) <> '[]'"
    cursor = connection.execute(
        f"SELECT t.*, {has_all} AS has_all, {since} AS since_us, {copied} AS copied FROM _dbmazz.tables t "
        f"WHERE {condition}",
        values,
    )
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _ref(row: Mapping[str, Any]) -> TableRef:
    return TableRef(row["schema_name"], row["table_name"])


def _state(row: Mapping[str, Any]) -> TableState:
    """Return the state in a row of `_rows`. A table that was never copied has no columns."""
    written = row["state"]
    reason = row.get("reason") or ("its shape changed at the source" if written == "changed" else None)
    return TableState(
        _ref(row),
        _FORMER_STATES.get(written) or TableStatus(written),
        Lsn(row["snapshot_lsn"]) if row["copied"] else None,
        lsn=_lsn(row.get("lsn")),
        since=_time(row["since_us"]),
        problem=None if reason is None else Problem(reason, row.get("remedy") or "", row.get("error")),
        retry_when=row.get("retry_when"),
        last_change_lsn=_lsn(row.get("last_change_lsn")),
        mode=Mode(row.get("mode", "mirror")),
        complete=row["has_all"],
    )


def _schema(row: Mapping[str, Any]) -> TableSchema:
    """Return the columns and the key in a row of `_rows`."""
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
    """Return the shape in a row of `_rows`; older layouts record it in other ways."""
    schema, token = _schema(row), row.get("identity")
    if not token:
        return TableShape.of(schema, None)
    if row.get("targets"):
        return TableShape(schema, json.loads(row["targets"]), TableToken(token))
    # Up to layout 3, the token holds a list for each column: first the source's name, last the destination's name.
    targets = {column[0]: column[-1] for column in json.loads(token)["columns"]}
    return TableShape(schema, targets, TableToken(token))


def read_owners(connection: duckdb.DuckDBPyConnection) -> dict[TableRef, str]:
    """Return the slot that feeds each table of dbmazz."""
    rows = connection.execute(
        "SELECT schema_name, table_name, slot FROM _dbmazz.tables WHERE CAST(columns AS VARCHAR) <> '[]'"
    ).fetchall()
    return {TableRef(schema, name): slot for schema, name, slot in rows}


def write_shape(connection: duckdb.DuckDBPyConnection, shape: TableShape) -> None:
    """Record the new shape of a table."""
    schema = shape.schema
    connection.execute(
        "UPDATE _dbmazz.tables SET columns = ?, key = ?, identity = ?, targets = ?, updated_at = now() "
        "WHERE schema_name = ? AND table_name = ?",
        [
            _columns_json(schema),
            json.dumps(schema.key),
            shape.token,
            json.dumps(shape.targets),
            schema.table.schema,
            schema.table.name,
        ],
    )


def write_state(
    connection: duckdb.DuckDBPyConnection,
    table: TableRef,
    state: TableStatus,
    problem: Problem | None,
    retry_when: str | None,
    *,
    slot: str,
) -> None:
    """Record the state of a table; a table that has no record gets one, as never copied.

    A table that was streaming holds its rows as of the checkpoint, or as of its copy if that is newer.
    """
    error, reason, remedy = (problem.error, problem.reason, problem.remedy) if problem else (None, None, None)
    updated = connection.execute(
        """
        UPDATE _dbmazz.tables SET
            lsn = CASE WHEN state = 'streaming' THEN greatest(
                snapshot_lsn, (SELECT max(c.lsn) FROM _dbmazz.checkpoints c WHERE c.slot = $slot)) ELSE lsn END,
            since = CASE WHEN state = $state AND error IS NOT DISTINCT FROM $error THEN since ELSE now() END,
            state = $state, error = $error, reason = $reason, remedy = $remedy, retry_when = $retry_when
        WHERE slot = $slot AND schema_name = $schema AND table_name = $table
        """,
        {
            "slot": slot,
            "schema": table.schema,
            "table": table.name,
            "state": state.value,
            "error": error,
            "reason": reason,
            "remedy": remedy,
            "retry_when": retry_when,
        },
    ).fetchone()
    if updated and updated[0]:
        return
    connection.execute(
        "INSERT INTO _dbmazz.tables (slot, schema_name, table_name, state, snapshot_lsn, columns, key, updated_at, "
        "since, error, reason, remedy, retry_when) VALUES (?, ?, ?, ?, 0, '[]', '[]', now(), now(), ?, ?, ?, ?)",
        [slot, table.schema, table.name, state.value, error, reason, remedy, retry_when],
    )


def forget(connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], *, slot: str) -> None:
    """Delete the records of tables that were never copied."""
    for table in tables:
        connection.execute(
            "DELETE FROM _dbmazz.tables WHERE slot = ? AND schema_name = ? AND table_name = ? "
            "AND CAST(columns AS VARCHAR) = '[]'",
            [slot, table.schema, table.name],
        )


def write_last_change(
    connection: duckdb.DuckDBPyConnection, tables: Collection[TableRef], lsn: Lsn, *, slot: str
) -> None:
    """Record that the changes before an LSN contain changes of these tables."""
    if tables:
        connection.execute(
            "UPDATE _dbmazz.tables SET last_change_lsn = ? WHERE slot = ? AND (schema_name, table_name) IN "
            "(SELECT unnest(?), unnest(?))",
            [int(lsn), slot, [table.schema for table in tables], [table.name for table in tables]],
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
    """Record schema changes of a table.

    Args:
        connection: The file.
        schema: The table after the changes.
        slot: The slot that feeds it.
        commit_lsn: Commit LSN of the transaction; 0 if unknown.
        xid: Id of the transaction; 0 if unknown.
        entries: Kind, detail and action of each change.
    """
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
                _columns_json(schema),
                json.dumps(schema.key),
            ],
        )


def rename_table(connection: duckdb.DuckDBPyConnection, old: TableRef, new: TableRef) -> None:
    """Record the new name of a table, also for its rows in quarantine."""
    for name, assignment in (("tables", ", updated_at = now()"), ("quarantine", "")):
        connection.execute(
            f"UPDATE _dbmazz.{name} SET schema_name = ?, table_name = ?{assignment} "
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
    """Record a table in state `streaming`, and replace its previous record."""
    schema, table = shape.schema, shape.schema.table
    connection.execute(
        "DELETE FROM _dbmazz.tables WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )
    connection.execute(
        "INSERT INTO _dbmazz.tables (slot, schema_name, table_name, state, snapshot_lsn, columns, key, choice, "
        "updated_at, mode, complete, since) VALUES (?, ?, ?, 'streaming', ?, ?, ?, ?, now(), ?, ?, now())",
        [
            slot,
            table.schema,
            table.name,
            int(snapshot_lsn),
            _columns_json(schema),
            json.dumps(schema.key),
            json.dumps({"include": schema.choice.include, "exclude": schema.choice.exclude}),
            mode.value,
            complete,
        ],
    )
    write_shape(connection, shape)


def _columns_json(schema: TableSchema) -> str:
    return json.dumps([column.to_dict() for column in schema.columns])


def write_quarantine(connection: duckdb.DuckDBPyConnection, table: TableRef, rows: pl.DataFrame, *, slot: str) -> None:
    """Add rows to the quarantine, and record that the table is not complete.

    The table stays incomplete if somebody deletes the rows from the quarantine. `SinkTransaction.quarantine` tells the
    columns of `rows`.
    """
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
    """Delete a table's rows from the quarantine."""
    connection.execute(
        "DELETE FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ?", [table.schema, table.name]
    )


def count_quarantine(connection: duckdb.DuckDBPyConnection, slot: str) -> Mapping[TableRef, int]:
    """Return the number of rows in quarantine of each table; tables without any are left out."""
    rows = connection.execute(
        "SELECT schema_name, table_name, count(*) FROM _dbmazz.quarantine WHERE slot = ? GROUP BY ALL", [slot]
    ).fetchall()
    return {TableRef(schema, name): int(count) for schema, name, count in rows}


def quarantine_reasons(connection: duckdb.DuckDBPyConnection, table: TableRef) -> dict[str, int]:
    """Return the reasons why rows of a table are in quarantine, with their numbers, the most frequent first."""
    rows = connection.execute(
        "SELECT reason, count(*) AS rows FROM _dbmazz.quarantine WHERE schema_name = ? AND table_name = ? "
        "GROUP BY reason ORDER BY rows DESC, reason",
        [table.schema, table.name],
    ).fetchall()
    return dict(rows)


def _lsn(value: int | None) -> Lsn | None:
    return None if value is None else Lsn(value)


def _time(epoch_us: int | None) -> datetime | None:
    return None if epoch_us is None else _EPOCH + timedelta(microseconds=epoch_us)
